"""The MNIST family: file order, checksums, the cache, and what is said when the files are not there.

Most tests use a small set of four files in the same format; TensorFlow is imported in none of them.
"""

import errno
import gzip
import hashlib
import http.server
import socket
import stat
import sys
import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from bdal.datasets import load, mnist
from bdal.errors import DataNotFoundError

NAMES = ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz"]
NAMES += ["t10k-labels-idx1-ubyte.gz"]


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    """An empty cache, no data folder, and no TensorFlow at the end."""
    monkeypatch.setenv("BDAL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("BDAL_DATA_DIR", raising=False)
    yield
    assert "tensorflow" not in sys.modules


@pytest.fixture
def offline(monkeypatch):
    """Every request goes to a proxy that is not there."""
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


def idx(values):
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return gzip.compress(header + values.tobytes(), mtime=0)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Seven images and three test images of 4 x 5 in `files/mnist/`, and their checksums on record."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (7, 4, 5)), [5, 0, 4, 1, 9, 2, 1], rng.integers(0, 256, (3, 4, 5)), [7, 2, 1]]
    arrays = [np.array(values, np.uint8) for values in arrays]
    folder = tmp_path / "files" / "mnist"
    folder.mkdir(parents=True)
    for name, values in zip(NAMES, arrays, strict=True):
        (folder / name).write_bytes(idx(values))
    set_addresses(monkeypatch, folder, "http://127.0.0.1:9/mnist")
    return SimpleNamespace(folder=folder, arrays=arrays)


def set_addresses(monkeypatch, folder, base):
    from tensorflow_datasets.core.download.checksums import UrlInfo

    sources = {}
    for name in NAMES:
        content = (folder / name).read_bytes()
        info = UrlInfo(size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=name)
        sources[name] = mnist.Source(f"{base}/{name}", info)
    monkeypatch.setattr(mnist, "_sources", lambda name: sources)


def assert_is(data, small):
    images, labels, test_images, test_labels = small.arrays
    np.testing.assert_array_equal(data.inputs, (images / 255).astype(np.float32)[..., None])
    np.testing.assert_array_equal(data.labels, labels)
    np.testing.assert_array_equal(data.test_inputs, (test_images / 255).astype(np.float32)[..., None])
    np.testing.assert_array_equal(data.test_labels, test_labels)
    assert (data.num_classes, data.name) == (10, "mnist")


def test_rows_are_in_the_order_of_the_files(small):
    assert_is(load("mnist", data_dir=small.folder.parent), small)


def test_the_folder_itself_the_variable_and_which_comes_first(small, tmp_path, monkeypatch):
    assert_is(load("mnist", data_dir=small.folder), small)
    (tmp_path / "cache" / "mnist" / "arrays.npz").unlink()
    monkeypatch.setenv("BDAL_DATA_DIR", str(small.folder.parent))
    assert_is(load("mnist"), small)
    (tmp_path / "cache" / "mnist" / "arrays.npz").unlink()
    monkeypatch.setenv("BDAL_DATA_DIR", str(tmp_path / "nowhere"))
    assert_is(load("mnist", data_dir=str(small.folder.parent)), small)


def test_the_second_load_decodes_nothing_and_needs_no_files(small, monkeypatch, capsys):
    first = load("mnist", data_dir=small.folder)
    assert "mnist checked and decoded" in capsys.readouterr().err
    for path in small.folder.iterdir():
        path.unlink()
    for function in ("_sources", "_decode", "_download"):
        monkeypatch.setattr(mnist, function, lambda *_: pytest.fail("the cache was not used"))
    second = load("mnist")
    assert_is(second, small)
    np.testing.assert_array_equal(first.inputs, second.inputs)
    assert capsys.readouterr().err == ""


def test_the_cache_is_private_and_the_data_folder_untouched(small, tmp_path):
    before = {path: path.read_bytes() for path in small.folder.parent.rglob("*") if path.is_file()}
    load("mnist", data_dir=small.folder.parent)
    assert {path: path.read_bytes() for path in small.folder.parent.rglob("*") if path.is_file()} == before
    for folder in (tmp_path / "cache", tmp_path / "cache" / "mnist"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in sorted((tmp_path / "cache" / "mnist").iterdir())] == ["arrays.npz", "arrays.sha256"]


def test_the_cache_lies_in_the_home_folder_unless_said_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("BDAL_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert mnist.cache_dir() == tmp_path / ".cache" / "bdal"


def test_a_cache_that_cannot_be_made_names_the_variable(small, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BDAL_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match="BDAL_CACHE_DIR"):
        load("mnist", data_dir=small.folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_tampered_file_is_refused_with_its_name_and_both_digests(small, tmp_path, name):
    path = small.folder / name
    content = bytearray(path.read_bytes())
    expected = hashlib.sha256(content).hexdigest()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not the published file") as caught:
        load("mnist", data_dir=small.folder.parent)
    for word in (str(path), expected, hashlib.sha256(content).hexdigest()):
        assert word in str(caught.value)
    assert not list((tmp_path / "cache" / "mnist").iterdir())


def test_a_damaged_cache_is_made_again_and_says_so(small, tmp_path, capsys):
    load("mnist", data_dir=small.folder)
    cached = tmp_path / "cache" / "mnist" / "arrays.npz"
    whole = cached.read_bytes()
    middle = len(whole) // 3
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for damaged in (b"", whole[:100], whole[:-1], flipped):
        cached.write_bytes(damaged)
        capsys.readouterr()
        assert_is(load("mnist", data_dir=small.folder), small)
        assert "making it again" in capsys.readouterr().err
        assert cached.read_bytes() == whole


def test_a_cache_that_holds_other_images_is_made_again_and_says_so(small, tmp_path, capsys):
    """Whole files, which their own checksums do not tell apart: changed pictures, and those of another data set."""
    load("mnist", data_dir=small.folder)
    cached, seal = (tmp_path / "cache" / "mnist" / name for name in ("arrays.npz", "arrays.sha256"))
    whole = cached.read_bytes()
    arrays = dict(np.load(cached))
    for change in ("pictures", "no seal", "another's"):
        np.savez(cached, **arrays | {"inputs": 255 - arrays["inputs"]})
        if change == "no seal":
            seal.unlink()
        if change == "another's":
            seal.write_text(mnist._seal("fashion_mnist", cached))
        capsys.readouterr()
        assert_is(load("mnist", data_dir=small.folder), small)
        assert "not as it was decoded" in capsys.readouterr().err
        assert cached.read_bytes() == whole
    assert_is(load("mnist", data_dir=small.folder), small)
    assert capsys.readouterr().err == ""


def test_a_write_that_fails_halfway_leaves_nothing_to_trust(small, tmp_path, monkeypatch):
    cached = tmp_path / "cache" / "mnist" / "arrays.npz"

    def full_disk(file, **arrays):
        file.write(b"PK half of it")
        file.flush()
        assert not cached.exists()  # a kill now would leave this file under its final name
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full_disk)
        with pytest.raises(OSError, match="No space left"):
            load("mnist", data_dir=small.folder)
    assert not list((tmp_path / "cache" / "mnist").iterdir())
    assert_is(load("mnist", data_dir=small.folder), small)


@pytest.mark.timeout(60)  # left to itself the downloader goes on trying for more than three minutes
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_without_files_and_without_network_the_four_files_are_named_at_once(name, tmp_path, offline, monkeypatch):
    monkeypatch.setattr(mnist.tempfile, "TemporaryDirectory", lambda **_: pytest.fail("the downloader was started"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataNotFoundError) as caught:
        load(name, data_dir=tmp_path / "empty")
    message = str(caught.value)
    assert "\n" not in message
    for word in (*NAMES, f"DIR/{name}", "--data-dir", "BDAL_DATA_DIR", str(tmp_path / "empty" / name), "ProxyError"):
        assert word in message


def test_one_missing_file_is_named_alone(small, tmp_path, offline):
    (small.folder / NAMES[3]).unlink()
    with pytest.raises(DataNotFoundError, match=rf"^mnist: {NAMES[3]} not found in {small.folder} or"):
        load("mnist", data_dir=small.folder.parent)


def test_a_data_folder_that_does_not_exist_is_said_before_anything_is_fetched(small, tmp_path, monkeypatch):
    with pytest.raises(DataNotFoundError, match=r"^data_dir: .*nowhere, which does not exist"):
        load("mnist", data_dir=tmp_path / "nowhere")
    monkeypatch.setenv("BDAL_DATA_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(DataNotFoundError, match=r"^BDAL_DATA_DIR: .*nowhere, which does not exist"):
        load("mnist")


def test_a_server_that_never_answers_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as server:  # connections wait in its queue for ever
        reason = mnist._unreachable(f"http://127.0.0.1:{server.getsockname()[1]}/x", seconds=0.3)
    assert reason in ("no answer in 0.3 s", "ReadTimeout")


def test_a_name_look_up_that_hangs_is_given_up(monkeypatch):
    over = threading.Event()

    def hang(*_, **__):
        over.wait(60)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    try:
        assert mnist._unreachable("http://name.invalid/x", seconds=0.2) == "no answer in 0.2 s"
    finally:
        over.set()


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class OnlyHead(Handler):
    def do_GET(self):
        self.send_error(404)


@pytest.fixture
def serve(small, monkeypatch):
    """Serves a folder at the addresses on record; tensorflow-datasets does the rest for real."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    servers = []

    def start(handler):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(small.folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        set_addresses(monkeypatch, small.folder, f"http://127.0.0.1:{server.server_address[1]}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_missing_files_are_downloaded_and_kept_with_their_names(small, tmp_path, serve, offline, monkeypatch):
    serve(Handler)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert_is(load("mnist"), small)
    cache = tmp_path / "cache" / "mnist"
    assert sorted(path.name for path in cache.iterdir()) == sorted([*NAMES, "arrays.npz", "arrays.sha256"])
    (cache / "arrays.npz").unlink()
    monkeypatch.setattr(mnist, "_download", lambda *_: pytest.fail("downloaded again"))
    assert_is(load("mnist"), small)


def test_only_what_is_missing_is_downloaded(small, tmp_path, serve):
    serve(Handler)
    local = tmp_path / "local" / "mnist"
    local.mkdir(parents=True)
    for name in NAMES[:3]:
        (local / name).write_bytes((small.folder / name).read_bytes())
    assert_is(load("mnist", data_dir=tmp_path / "local"), small)
    assert sorted(path.name for path in (tmp_path / "cache" / "mnist").iterdir()) == [
        "arrays.npz",
        "arrays.sha256",
        NAMES[3],
    ]


def test_a_download_with_another_content_is_refused(small, tmp_path, serve):
    serve(Handler)
    expected = hashlib.sha256((small.folder / NAMES[1]).read_bytes()).hexdigest()
    (small.folder / NAMES[1]).write_bytes(b"a log-in page")
    with pytest.raises(ValueError, match="wrong checksum") as caught:
        load("mnist")
    for word in (NAMES[1], expected, hashlib.sha256(b"a log-in page").hexdigest()):
        assert word in str(caught.value)
    assert not list((tmp_path / "cache" / "mnist").iterdir())


def test_a_download_that_fails_says_what_to_do(small, tmp_path, serve):
    serve(OnlyHead)
    with pytest.raises(DataNotFoundError, match=r"404.*Put the four files .* BDAL_DATA_DIR=DIR"):
        load("mnist")
    assert not list((tmp_path / "cache" / "mnist").iterdir())


@pytest.mark.parametrize(
    ("name", "checksums"),
    [
        ("mnist", ["440fcabf73cc546f", "3552534a0a558bbe", "8d422c7b0a1c1c79", "f7ae60f92e00ec6d"]),
        ("fashion_mnist", ["3aede38d61863908", "a04f17134ac03560", "346e55b948d973a9", "67da17c76eaffca5"]),
    ],
)
def test_the_checksums_on_record_are_the_published_ones(name, checksums):
    sources = mnist._sources(name)
    assert set(sources) == set(NAMES) == set(mnist.FILES.values())
    assert [sources[file].info.checksum[:16] for file in NAMES] == checksums
    assert all(source.url.endswith("/" + file) for file, source in sources.items())


MNIST = {
    "first": [5, 0, 4, 1, 9, 2, 1, 3, 1, 4],
    "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}
FASHION = {"first": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5], "train": [6000] * 10, "test": [1000] * 10}


@pytest.mark.data
@pytest.mark.parametrize(("name", "facts"), [("mnist", MNIST), ("fashion_mnist", FASHION)])
def test_the_real_files(name, facts, data_dir):
    data = load(name, data_dir=data_dir)
    assert data.inputs.shape == (60_000, 28, 28, 1)
    assert data.test_inputs.shape == (10_000, 28, 28, 1)
    assert (data.inputs.dtype, data.labels.dtype, data.num_classes, data.name) == (np.float32, np.int32, 10, name)
    assert data.labels[:10].tolist() == facts["first"]
    assert np.bincount(data.labels).tolist() == facts["train"]
    assert np.bincount(data.test_labels).tolist() == facts["test"]
    assert (data.inputs.min(), data.inputs.max()) == (0, 1)
    raw = gzip.decompress((data_dir / name / NAMES[0]).read_bytes())[16:]
    for row in (0, 1, 31_415, 59_999):
        image = np.frombuffer(raw[row * 784 : (row + 1) * 784], np.uint8).reshape(28, 28, 1)
        np.testing.assert_array_equal(data.inputs[row], (image / 255).astype(np.float32))


@pytest.mark.data
def test_files_of_the_other_set_are_refused(data_dir):
    """Both sets have the same four file names: only the checksums tell them apart."""
    with pytest.raises(ValueError, match=r"mnist/train-images.*not the published file"):
        load("fashion_mnist", data_dir=data_dir / "mnist")


# -- notMNIST ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def letters(tmp_path, monkeypatch):
    """Four letters of 4 x 5 in `files/notmnist/`, and their checksums on record."""
    images = np.arange(80, dtype=np.uint8).reshape(4, 4, 5)
    folder = tmp_path / "files" / "notmnist"
    folder.mkdir(parents=True)
    checksums = {}
    for name, values in zip(NAMES[2:], (images, np.array([0, 9, 2, 2], np.uint8)), strict=True):
        (folder / name).write_bytes(idx(values))
        checksums[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(mnist, "NOTMNIST", checksums)
    return SimpleNamespace(folder=folder, images=images)


def test_notmnist_is_a_labelled_pool_without_a_test_set(letters):
    data = load("notmnist", data_dir=letters.folder.parent)
    np.testing.assert_array_equal(data.inputs, (letters.images / 255).astype(np.float32)[..., None])
    assert data.labels.tolist() == [0, 9, 2, 2]
    assert (data.test_inputs, data.test_labels, data.num_classes) == (None, None, 10)
    assert "".join(data.class_names) == "ABCDEFGHIJ"


def test_notmnist_is_not_looked_for_among_the_files_of_mnist(letters):
    with pytest.raises(DataNotFoundError, match=r"^notmnist: t10k-images.* not found in .*notmnist/notmnist\."):
        load("notmnist", data_dir=letters.folder)


def test_without_its_files_notmnist_says_which_two_go_where(letters, tmp_path):
    (letters.folder / NAMES[3]).unlink()
    with pytest.raises(DataNotFoundError, match=rf"^notmnist: {NAMES[3]} not found in {letters.folder}\.") as caught:
        load("notmnist", data_dir=letters.folder.parent)
    for word in (NAMES[2], "DIR/notmnist", "--data-dir", "BDAL_DATA_DIR"):
        assert word in str(caught.value)
    with pytest.raises(DataNotFoundError, match="not found in any folder"):
        load("notmnist")


@pytest.mark.parametrize("name", NAMES[2:])
def test_a_tampered_file_of_notmnist_is_refused_with_its_name_and_both_digests(letters, name):
    path = letters.folder / name
    content = bytearray(path.read_bytes())
    expected = hashlib.sha256(content).hexdigest()
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not the published file") as caught:
        load("notmnist", data_dir=letters.folder.parent)
    for word in (str(path), expected, hashlib.sha256(content).hexdigest()):
        assert word in str(caught.value)


@pytest.mark.data
def test_the_real_letters(data_dir):
    data = load("notmnist", data_dir=data_dir)
    assert data.inputs.shape == (10_000, 28, 28, 1)
    assert np.bincount(data.labels).tolist() == [1000] * 10
    assert 108 < data.inputs.mean() * 255 < 110
