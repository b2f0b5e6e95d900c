"""What is on disk is what was written: a torn line is left out, anything else that is not as it was is found."""

import errno
import io
import json
import math
import os
import pathlib
import subprocess
import sys
import warnings
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

from bdal.errors import NonFiniteError
from bdal.store.durable import CorruptRunError, append, read, write_atomic

EVENTS = [
    {"event": "validation", "indices": [3, 5], "labels": [0, 1]},
    {"event": "initial", "indices": [1, 2], "labels": [1, 1]},
    {
        "event": "evaluated", "round": 0, "labels": 2, "validation_labels": 2, "points": 100, "members": 5,
        "accuracy": 0.5, "nll": 1.25, "brier": 0.75, "ece": 0.125,
    },
    {"event": "queried", "round": 0, "indices": [7]},
    {"event": "labelled", "round": 0, "indices": [7], "labels": [0]},
    {
        "event": "evaluated", "round": 1, "labels": 3, "validation_labels": 2, "points": 100, "members": 5,
        "accuracy": 0.75, "nll": 1.0, "brier": 0.5, "ece": 0.0625,
    },
    {"event": "finished", "round": 1, "reason": "budget"},
]  # fmt: skip


def sealed(lines: list[bytes]) -> bytes:
    """A file of these lines, by the definition of the checksum."""
    content, seal = b"", b""
    for line in lines:
        seal = b"%08x" % zlib.crc32(seal + line)
        content += line[:-1] + b', "crc": "' + seal + b'"}\n'
    return content


def ledger_of(path, events=EVENTS) -> bytes:
    for event in events:
        append(path, event)
    return path.read_bytes()


def test_append_and_read(tmp_path):
    path = tmp_path / "ledger.jsonl"
    assert read(path) == []
    for number, event in enumerate(EVENTS):
        append(path, event)
        assert read(path) == EVENTS[: number + 1]
    assert path.read_text().count("\n") == len(EVENTS)


def test_arrays_and_scalars_become_plain_json(tmp_path):
    path = tmp_path / "ledger.jsonl"
    append(
        path, {"a": np.int32(3), "b": np.array([1, 2]), "c": jnp.float32(0.5), "d": (np.float64(0.25), np.bool_(True))}
    )
    assert path.read_bytes() == sealed([b'{"a": 3, "b": [1, 2], "c": 0.5, "d": [0.25, true]}'])


@pytest.mark.parametrize(
    ("event", "named"),
    [
        ({"event": "evaluated", "accuracy": 0.5, "nll": math.inf}, "'evaluated': nll is inf"),
        ({"event": "evaluated", "nll": np.float32("nan")}, "'evaluated': nll is nan"),
        ({"seconds": {"fit": -math.inf}}, "seconds.fit is -inf"),
        ({"gains": jnp.array([1.0, jnp.nan])}, "gains[1] is nan"),
    ],
)
def test_non_finite_numbers_are_refused(tmp_path, event, named):
    path = tmp_path / "ledger.jsonl"
    append(path, {"event": "kept"})
    with pytest.raises(NonFiniteError) as caught:
        append(path, event)
    assert named in str(caught.value)
    assert read(path) == [{"event": "kept"}]


def test_last_line_torn_at_every_byte(tmp_path):
    path = tmp_path / "ledger.jsonl"
    for event in EVENTS[:3]:
        append(path, event)
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in range(start + 1, len(whole)):
        path.write_bytes(whole[:end])
        with pytest.warns(UserWarning, match=r"ledger\.jsonl: line 3 was cut off"):
            assert read(path) == EVENTS[:2]
        append(path, EVENTS[2])  # writes the line anew in place of the torn one
        assert path.read_bytes() == whole
    path.write_bytes(whole[:start])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(path) == EVENTS[:2]


def test_a_long_torn_line_is_cut_off(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(sealed([b'{"event": "kept"}']) + b'{"gains": [' + b"0.5, " * 50_000)
    append(path, {"event": "next"})
    assert read(path) == [{"event": "kept"}, {"event": "next"}]
    path.write_bytes(b"0.5, " * 50_000)
    append(path, {"event": "first"})
    assert read(path) == [{"event": "first"}]


def test_a_line_is_sealed_by_itself_and_the_line_before_it(tmp_path):
    path = tmp_path / "ledger.jsonl"
    bodies = [json.dumps(event).encode() for event in EVENTS]
    assert ledger_of(path) == sealed(bodies)
    path.write_bytes(b"".join(sealed([body]) for body in bodies))  # each by itself only
    with pytest.raises(CorruptRunError, match=r"ledger\.jsonl: line 2: its checksum does not fit"):
        read(path)


@pytest.mark.parametrize("broken", [b'{"event": "que}', b"17}", b'{"nll": NaN}', b"\x00" * 20 + b"}", b"\xff\xfe}"])
@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_line_that_is_no_object_is_an_error_even_if_its_checksum_fits(tmp_path, broken, line):
    path = tmp_path / "ledger.jsonl"
    lines = [json.dumps(event).encode() for event in EVENTS[:3]]
    lines[line] = broken
    path.write_bytes(sealed(lines))
    with pytest.raises(CorruptRunError, match=rf"ledger\.jsonl: line {line + 1}: expected one JSON object"):
        read(path)


def test_every_flipped_bit_and_every_other_byte_is_found(tmp_path):
    path = tmp_path / "ledger.jsonl"
    whole = ledger_of(path, [*EVENTS[:2], EVENTS[3], EVENTS[4]])
    starts = [0, *(place + 1 for place, byte in enumerate(whole) if byte == ord("\n"))]
    for place, byte in enumerate(whole):
        at_fault = next(number for number, start in enumerate(starts[1:], start=1) if place < start)
        for other in {byte ^ 1 << bit for bit in range(8)} | {0, 10, 32, 255} - {byte}:
            path.write_bytes(whole[:place] + bytes([other]) + whole[place + 1 :])
            with pytest.raises(CorruptRunError, match=rf"ledger\.jsonl: line {at_fault}: its checksum does not fit"):
                read(path)


def test_lines_taken_out_swapped_doubled_or_put_in_are_found(tmp_path):
    path, other = tmp_path / "ledger.jsonl", tmp_path / "other.jsonl"
    lines = ledger_of(path).splitlines(keepends=True)
    foreign = ledger_of(other, [{"event": "initial", "indices": [9, 8], "labels": [0, 1]}, *EVENTS[1:]])
    foreign = foreign.splitlines(keepends=True)
    count = len(lines)
    edits = {f"without {k}": lines[:k] + lines[k + 1 :] for k in range(count - 1)}  # without the last: an earlier day
    edits |= {f"{k} twice": lines[: k + 1] + lines[k:] for k in range(count)}
    edits |= {f"{k} again": [*lines, line] for k, line in enumerate(lines)}
    for k in range(count):
        for m in range(k + 1, count):
            swapped = lines.copy()
            swapped[k], swapped[m] = lines[m], lines[k]
            edits[f"{k} and {m} swapped"] = swapped
    edits |= {f"of another at {k}": [*lines[:k], foreign[k], *lines[k + 1 :]] for k in range(count)}
    edits |= {f"empty line at {k}": [*lines[:k], b"\n", *lines[k:]] for k in range(count + 1)}
    edits |= {f"unsealed at {k}": [*lines[:k], b'{"event": "x"}\n', *lines[k:]] for k in range(count + 1)}
    for edit, content in edits.items():
        path.write_bytes(b"".join(content))
        with pytest.raises(CorruptRunError, match=r"ledger\.jsonl: line \d: its checksum does not fit"):
            pytest.fail(f"{edit}: {read(path)}")


def test_a_number_that_was_edited_by_hand_is_found_and_nothing_before_it_is_blamed(tmp_path):
    path = tmp_path / "ledger.jsonl"
    content = ledger_of(path)
    path.write_bytes(content.replace(b'"accuracy": 0.75', b'"accuracy": 0.95'))
    with pytest.raises(CorruptRunError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}: line 6: its checksum does not fit: it was damaged, or lines were edited, taken out or put in; "
        """found b'{"event": "evaluated", "round": 1, "labels": 3, "validation_'; lines before it are as they were """
        "written"
    )


def test_a_file_without_checksums_is_refused(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    with pytest.raises(CorruptRunError, match="line 1: its checksum does not fit"):
        read(path)


@pytest.mark.parametrize("broken", [b"17", b"[1]", b'{"nll": NaN}', b"", b"{", b"\xff"])
def test_a_sealed_line_that_is_no_object_is_refused(tmp_path, broken):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(sealed([b'{"event": "kept"}', broken]))
    with pytest.raises(CorruptRunError, match=r"ledger\.jsonl: line 2: "):
        read(path)


# -- a disk that is full ----------------------------------------------------------------------------------------------


class FullDisk:
    """In the place of `Path.open`: a file of which only the first so many bytes of a write reach the disk."""

    def __init__(self, monkeypatch, room: int):
        open_before = pathlib.Path.open

        class Full(io.FileIO):
            def write(self, content):
                taken = super().write(content[:room])
                if taken < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return taken

        def opened(path, mode="r", *args, **kwargs):
            return Full(path, mode.replace("b", "")) if "b" in mode else open_before(path, mode, *args, **kwargs)

        monkeypatch.setattr(pathlib.Path, "open", opened)


@pytest.mark.parametrize("room", [0, 1, 30])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, room):
    path = tmp_path / "ledger.jsonl"
    before = ledger_of(path, EVENTS[:3])
    with monkeypatch.context() as patch:
        FullDisk(patch, room)
        with pytest.raises(OSError, match="No space left on device") as caught:
            append(path, EVENTS[3])
        assert caught.value.filename == str(path)
        with pytest.raises(OSError, match="No space left on device"):
            append(tmp_path / "new.jsonl", EVENTS[0])
        with pytest.raises(OSError, match="No space left on device"):
            write_atomic(tmp_path / "table.md", "x" * 100)
    assert path.read_bytes() == before
    assert (tmp_path / "new.jsonl").read_bytes() == b""
    assert not (tmp_path / "table.md").exists()
    assert read(path) == EVENTS[:3]
    append(path, EVENTS[3])  # there is room again
    assert read(path) == EVENTS[:4]


def test_a_disk_that_takes_a_line_in_parts(tmp_path, monkeypatch):
    class Slow(io.FileIO):
        def write(self, content):
            return super().write(content[:7])

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "open", lambda path, mode, **_: Slow(path, mode.replace("b", "")))
        content = ledger_of(tmp_path / "slow.jsonl")
    assert content == ledger_of(tmp_path / "ledger.jsonl")


# -- failpoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failpoint", "lines", "torn"),
    [("before_b", 1, False), ("torn_b", 1, True), ("after_b", 2, False), ("after_b:2", 3, False), ("x", 4, False)],
)
def test_a_failpoint_ends_the_process_where_it_says(tmp_path, failpoint, lines, torn):
    code = (
        "from bdal.store.durable import append\n"
        "for name in 'abbc': append('ledger.jsonl', {'event': name, 'more': 'xxxxxxxxxxxxxxxxxxx'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"BDAL_FAILPOINT": failpoint}, check=False
    )
    assert done.returncode == (0 if failpoint == "x" else -9)
    content = (tmp_path / "ledger.jsonl").read_bytes()
    assert content.count(b"\n") == lines
    assert content.endswith(b"\n") != torn


# -- whole or not at all ----


def test_write_atomic(tmp_path, monkeypatch):
    path = tmp_path / "table.md"
    write_atomic(path, "one ±\n")
    write_atomic(path, b"two\n")
    assert path.read_text() == "two\n"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "three\n")
    assert path.read_text() == "two\n"
    assert [found.name for found in tmp_path.iterdir()] == ["table.md"]
