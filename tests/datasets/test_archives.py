"""Hostile and broken `.npz` files: refused in one line that names the file, with nothing run, written or filled up."""

import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from bdal.datasets import archives, fingerprint, load
from bdal.datasets.archives import read_npz


def npy(values) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def write(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return path


GOOD = [("inputs.npy", npy(np.ones((4, 3)))), ("labels.npy", npy(np.arange(4)))]


def refused(path, words):
    with pytest.raises(ValueError, match="bad") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_good_one_made_the_same_way_is_read(tmp_path):
    data = load(write(tmp_path / "good.npz", GOOD))
    assert (data.inputs.shape, data.labels.tolist()) == ((4, 3), [0, 1, 2, 3])


@pytest.mark.parametrize("name", ["/x/inputs.npy", "../inputs.npy", "a/../../x.npy", "..\\x.npy", "C:\\x.npy", "C:x"])
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path, name):
    refused(write(tmp_path / "bad.npz", [*GOOD, (name, npy(np.ones(3)))]), "inside the archive, found")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["inputs.npy", "inputs"])
def test_a_key_that_is_there_twice_is_refused(tmp_path, name):
    refused(write(tmp_path / "bad.npz", [*GOOD, (name, npy(np.zeros((4, 3))))]), "found 'inputs' twice")


def test_python_objects_are_refused_without_being_made(tmp_path):
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return type(marker).touch, (marker,)

    objects = npy(np.array([[Bomb()]], object))
    refused(write(tmp_path / "bad.npz", [("inputs.npy", objects)]), "inputs cannot be read as an array of numbers")
    assert not marker.exists()


def test_a_real_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SMALL_BYTES", 2**20)
    path = write(tmp_path / "bad.npz", [("inputs.npy", npy(np.zeros((4, 2**20))))])  # 32 MiB in 33 kB
    tracemalloc.start()
    try:
        refused(path, "expected at most 100 times the")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**22
    monkeypatch.setattr(archives, "SMALL_BYTES", 2**26)  # small enough to be read however well it is packed
    assert load(path).inputs.shape == (4, 2**20)


def test_a_declared_size_of_terabytes_is_refused(tmp_path):
    """The size is a lie, and so is the checksum; the table of contents alone is enough to refuse."""
    path = write(tmp_path / "bad.npz", GOOD)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + 24  # uncompressed size of the first member in the central directory
    content[place : place + 4] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)
    refused(path, "when unpacked, it says 4294967")


def test_a_size_declared_too_small_does_not_unpack_the_rest(tmp_path):
    path = write(tmp_path / "bad.npz", [("inputs.npy", npy(np.zeros((4, 2**20))))])
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = struct.pack("<I", 1000)
    path.write_bytes(content)
    refused(path, "damaged .npz file")


@pytest.mark.parametrize("shape", ["(1000000000, 1000000)", "(4, 4)", "(-4, -3)", "(2,)"])
def test_a_header_that_promises_another_size_is_refused_before_room_is_made(tmp_path, shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + np.ones((4, 3)).tobytes()
    refused(write(tmp_path / "bad.npz", [("inputs.npy", content)]), "inputs cannot be read as an array of numbers")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"just text", b"\x93NUMPY", b"\x93NUMPY\x09\x00" + b"x" * 90, b"\x93NUMPY\x03\x00" + b"\x00" * 90,
        b"\x93NUMPY\x01\x00\x50\x00" + b"(" * 0x50, b"\x93NUMPY\x01\x00\x50\x00" + b"__import__('os')".ljust(0x50),
        b"\x93NUMPY\x01\x00\x50\x00" + b"'''".ljust(0x50), b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"{" * 90,
    ],
)  # fmt: skip
def test_a_header_that_is_none_is_refused(tmp_path, content):
    refused(write(tmp_path / "bad.npz", [("inputs.npy", content)]), "inputs cannot be read as an array of numbers (")


def test_another_way_of_packing_is_refused(tmp_path):
    refused(write(tmp_path / "bad.npz", GOOD, zipfile.ZIP_LZMA), "stored or deflated")


def test_a_flipped_bit_anywhere_is_refused_or_reads_the_same(tmp_path):
    """The table of contents too: lengths in it, when flipped, make members disappear from Python's view."""
    path = tmp_path / "bad.npz"
    np.savez(path, inputs=np.arange(2.0)[:, None], labels=np.arange(2))
    whole, expected = path.read_bytes(), fingerprint(load(path))
    table = whole.index(b"PK\x01\x02")
    for position in [*range(0, table, 11), *range(table, len(whole))]:
        for bit in (0, 5):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
            try:
                data = load(path)
            except ValueError as error:
                assert str(path) in str(error)  # noqa: PT017 (which of the two happens is the point)
            else:
                assert fingerprint(data) == expected


def test_read_npz_gives_what_was_asked_for_and_leaves_the_rest_unread(tmp_path):
    path = write(tmp_path / "mine.npz", [*GOOD, ("note.npy", b"no array")])
    assert list(read_npz(path, ("inputs",), ("labels",))) == ["inputs", "labels"]
    with pytest.raises(ValueError, match="expected the keys more, found inputs, labels, note"):
        read_npz(path, ("more",))
    with pytest.raises(ValueError, match=r"expected no keys but inputs, labels, more where .* found note"):
        read_npz(path, ("inputs",), ("labels", "more"))
    with pytest.raises(ValueError, match="note cannot be read"):
        read_npz(path, ("note",))


def test_order_of_columns_is_kept(tmp_path):
    values = np.asfortranarray(np.arange(12.0).reshape(4, 3))
    np.testing.assert_array_equal(
        load(write(tmp_path / "mine.npz", [("inputs.npy", npy(values))])).inputs, np.arange(12).reshape(4, 3)
    )
