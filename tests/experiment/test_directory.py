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

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.errors import ConfigError, NonFiniteError
from bdal.experiment import directory
from bdal.experiment.config import Comparison, Data, Experiment, Labels, Query, Strategy, load
from bdal.experiment.directory import (
    CorruptRunError,
    Row,
    append,
    read,
    results,
    seed_runs,
    write_atomic,
    write_run,
)

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


def experiment(**changes) -> Experiment:
    strategies = (Strategy("random"), Strategy("power_bald", {"beta": 4}))
    return Experiment("small", (Comparison("mc_dropout", 5, strategies),), seeds=2, **changes)


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


def test_files_of_the_version_without_checksums_are_read_where_asked_for(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    assert read(path, unsealed=True) == EVENTS
    with pytest.raises(CorruptRunError, match="line 1: its checksum does not fit"):
        read(path)
    for broken in ("17", "[1]", '{"nll": NaN}', ""):
        path.write_text(f'{{"event": "kept"}}\n{broken}\n')
        with pytest.raises(CorruptRunError, match=r"ledger\.jsonl: line 2: expected one JSON object"):
            read(path, unsealed=True)
    append(path, EVENTS[0])  # half and half is neither
    with pytest.raises(CorruptRunError, match="line 1: its checksum does not fit"):
        read(path, unsealed=True)


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
        "from bdal.experiment.directory import append\n"
        "for name in 'abbc': append('ledger.jsonl', {'event': name, 'more': 'xxxxxxxxxxxxxxxxxxx'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"BDAL_FAILPOINT": failpoint}, check=False
    )
    assert done.returncode == (0 if failpoint == "x" else -9)
    content = (tmp_path / "ledger.jsonl").read_bytes()
    assert content.count(b"\n") == lines
    assert content.endswith(b"\n") != torn


# -- the run directory ------------------------------------------------------------------------------------------------


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


def test_write_run(tmp_path):
    workdir = tmp_path / "runs" / "small"
    write_run(workdir, experiment(), {"labels": "sha", "count": np.int64(3)})
    assert load(workdir / "config.yaml") == experiment()
    run = json.loads((workdir / "run.json").read_text())
    assert run["data"] == {"labels": "sha", "count": 3}
    assert run["chunk_size"] == 1024
    assert run["versions"].keys() == {"python", "bdal", "jax", "jaxlib", "flax", "optax", "numpy"}
    assert {"config", "backend", "device_kind", "devices"} < run.keys()
    assert "facts" not in run
    folders = {str(path.relative_to(workdir)) for path in workdir.glob("*/*/*")}
    assert folders == {f"mc_dropout/{name}/seed_{s}" for name in ("random", "power_bald-beta-4") for s in (0, 1)}

    before = {path: path.read_bytes() for path in workdir.glob("*.*")}
    write_run(workdir, experiment(), {"labels": "sha", "count": 3})  # the same again: nothing changes
    assert {path: path.read_bytes() for path in workdir.glob("*.*")} == before


def contents(workdir) -> dict:
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def other_versions(monkeypatch):
    versions = directory.versions()
    monkeypatch.setattr(directory, "versions", lambda: versions | {"jax": "99.0"})
    return f"jax: {versions['jax']} != 99.0"


def other_devices(monkeypatch):
    one = jax.devices()[0]
    monkeypatch.setattr(jax, "devices", lambda: [one] * 3)
    return "devices: 1 != 3"


def other_backend(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "abacus")
    return "backend: cpu != abacus"


def other_threads(monkeypatch):
    """XLA divides its sums among them."""
    there = directory.run_identity(experiment(), "data")["threads"]
    monkeypatch.setenv("NPROC", "77")
    return f"threads: {there} != 77"


CHANGES = {
    "seed": ({"seed": 3}, "data", "seed: 0 != 3"),
    "labels": ({"labels": Labels(budget=160)}, "data", "labels.budget: 150 != 160"),
    "chunk size": ({"query": Query(chunk_size=64)}, "data", "query.chunk_size: 1024 != 64"),
    "data": ({}, "other", "data: data != other"),
    "jax": ({}, "data", other_versions),
    "devices": ({}, "data", other_devices),
    "backend": ({}, "data", other_backend),
    "threads": ({}, "data", other_threads),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_run_is_refused_with_what_differs_unless_allowed(tmp_path, monkeypatch, name):
    changes, data, differs = CHANGES[name]
    first = write_run(tmp_path, experiment(), "data", facts={"points": 7})
    assert first == []
    before = contents(tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    if callable(differs):
        differs = differs(monkeypatch)
    with pytest.raises(ConfigError) as caught:
        write_run(tmp_path, experiment(**changes), data)
    assert str(caught.value) == (
        f"{tmp_path}: holds another run (there != now): {differs}; choose another directory, or go on all the "
        "same with --allow-mismatch of bdal run, which the report will say"
    )
    assert contents(tmp_path) == before

    assert write_run(tmp_path, experiment(**changes), data, allow_mismatch=True) == [differs]
    then = json.loads((tmp_path / "run.json").read_text())
    assert then.pop("mismatches") == [differs]
    (later,) = then.pop("later")
    threads = set() if name == "backend" else {"threads"}
    assert {"backend", "device_kind", "devices", "versions"} | threads == later.keys()
    assert then.pop("facts") == {"points": 7}
    now = directory.run_identity(experiment(**changes), data)
    assert {field: then[field] for field in ("config", "data", "chunk_size")} == {
        field: now[field] for field in ("config", "data", "chunk_size")
    }
    assert {field: then[field] for field in later} == {field: run[field] for field in later}  # where it began
    assert load(tmp_path / "config.yaml") == experiment(**changes)

    before = contents(tmp_path)
    assert write_run(tmp_path, experiment(**changes), data) == []  # from now on it is this run
    assert write_run(tmp_path, experiment(**changes), data, allow_mismatch=True) == []
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "changes",
    [{"seed": 3}, {"labels": Labels(budget=160)}, {"labels": Labels(validation=0.3)}, {"data": Data(pool=99)}],
)
def test_what_labels_were_bought_for_cannot_change(tmp_path, changes):
    write_run(tmp_path, experiment(), "data")
    append(tmp_path / "mc_dropout" / "random" / "seed_0" / "ledger.jsonl", EVENTS[0])
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="has labels that were bought, and what they were bought for cannot change: "):
        write_run(tmp_path, experiment(**changes), "data", allow_mismatch=True)
    assert contents(tmp_path) == before
    assert write_run(tmp_path, experiment(query=Query(chunk_size=64)), "data", allow_mismatch=True)


def test_data_that_lies_elsewhere_is_no_other_data(tmp_path):
    write_run(tmp_path, experiment(data=Data(name="/there/pool.npz")), "data")
    moved = experiment(data=Data(name="/here/images"))
    assert write_run(tmp_path, moved, "data") == []
    assert load(tmp_path / "config.yaml") == moved
    with pytest.raises(ConfigError, match=r"data\.name: path != optdigits"):
        write_run(tmp_path, experiment(), "data")


def test_all_that_differs_is_said_at_once(tmp_path, monkeypatch):
    write_run(tmp_path, experiment(), "data")
    last = other_devices(monkeypatch)
    with pytest.raises(ConfigError) as caught:
        write_run(tmp_path, experiment(seed=3, labels=Labels(budget=160)), {"sha256": "77"})
    assert "(there != now): seed: 0 != 3; labels.budget: 150 != 160; " + last + "; data: data != " in str(caught.value)


def test_a_half_written_directory_is_made_whole(tmp_path):
    write_run(tmp_path, experiment(seed=9), "data")
    (tmp_path / "config.yaml").unlink()  # it is written last
    write_run(tmp_path, experiment(), "other")
    assert json.loads((tmp_path / "run.json").read_text())["data"] == "other"
    assert load(tmp_path / "config.yaml") == experiment()
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CorruptRunError, match=r"run\.json: expected what this package wrote"):
        write_run(tmp_path, experiment(), "other")


def test_write_run_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"cannot be used as a run directory: .*file"):
            write_run(workdir, experiment(), "data")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"new: cannot be used as a run directory: .*new: no permission to write"):
        write_run(tmp_path / "new", experiment(), "data")
    monkeypatch.setattr(os, "access", lambda path, _: not str(path).endswith("seed_0"))
    with pytest.raises(ConfigError, match=r"cannot be used as a run directory: .*seed_0: no permission to write"):
        write_run(tmp_path / "new", experiment(), "data")


def test_results(tmp_path):
    write_run(tmp_path, experiment(), "data")
    for strategy, seed, length in (("random", 0, 7), ("random", 1, 4), ("power_bald-beta-4", 0, 1)):
        for event in EVENTS[:length]:
            append(tmp_path / "mc_dropout" / strategy / f"seed_{seed}" / "ledger.jsonl", event)
    assert results(tmp_path) == [
        Row("mc_dropout", "random", 0, 2, 2, 0.5, 1.25, 0.75, 0.125),
        Row("mc_dropout", "random", 0, 3, 2, 0.75, 1.0, 0.5, 0.0625),
        Row("mc_dropout", "random", 1, 2, 2, 0.5, 1.25, 0.75, 0.125),
    ]


@pytest.mark.parametrize(("cost", "labels"), [(1, [2, 5]), (0, [2, 3])])
def test_charged_abstentions_are_on_the_axis(tmp_path, cost, labels):
    write_run(tmp_path, experiment(labels=Labels(abstain_cost=cost)), "data")
    path = tmp_path / "mc_dropout" / "random" / "seed_0" / "ledger.jsonl"
    for number, abstained in ((2, 0), (5, 2)):
        append(path, EVENTS[number] | {"abstained": abstained})
    assert [(row.labels, row.abstained) for row in results(tmp_path)] == list(zip(labels, (0, 2), strict=True))


def test_seed_runs_are_what_each_has_written_so_far(tmp_path):
    write_run(tmp_path, experiment(), "data")
    root = tmp_path / "mc_dropout"
    ledger_of(root / "random" / "seed_1" / "ledger.jsonl")
    ledger_of(root / "power_bald-beta-4" / "seed_0" / "ledger.jsonl", EVENTS[:3])
    metrics = root / "random" / "seed_1" / "metrics.jsonl"
    ledger_of(metrics, [{"round": 0, "seeds": 2}, {"round": 1, "seeds": 2}, {"round": 1, "seeds": 1}])
    (root / "random" / "seed_x").mkdir()
    ledger_of(root / "random" / "seed_x" / "ledger.jsonl")
    one, other = seed_runs(tmp_path)
    assert one[:4] == ("mc_dropout", "power_bald-beta-4", 0, root / "power_bald-beta-4" / "seed_0")
    assert (one.events, one.metrics, one.reason) == (EVENTS[:3], [], None)
    assert other[:3] == ("mc_dropout", "random", 1)
    assert (other.events, other.reason) == (EVENTS, "budget")
    assert other.metrics == [{"round": 0, "seeds": 2}, {"round": 1, "seeds": 1}]  # the last line of a round counts


def test_results_of_a_ledger_without_its_numbers(tmp_path):
    folder = tmp_path / "mc_dropout" / "random" / "seed_0"
    folder.mkdir(parents=True)
    append(folder / "ledger.jsonl", {"event": "evaluated", "round": 0, "labels": 3, "validation_labels": 2})
    with pytest.raises(CorruptRunError, match=r"ledger\.jsonl: line 1: 'evaluated' without 'accuracy'"):
        results(tmp_path)


def test_results_of_no_run(tmp_path):
    assert results(tmp_path) == []
