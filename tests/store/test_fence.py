"""A process that slept while another took its run directory over, or whose directory was moved, writes nothing more."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from bdal.labelling.questions import write_query
from bdal.store import durable, parameters
from bdal.store import lock as room
from bdal.store.lock import LockedError, lock

WORKER = """
import socket, sys
from bdal import cli
from bdal.store import durable
from bdal.store.lock import lock
workdir, host = sys.argv[1:]
socket.gethostname = lambda: host
def work(options):
    with lock(workdir):
        print("mine", flush=True)
        for line in sys.stdin:
            durable.append(f"{workdir}/ledger.jsonl", {"event": line.strip()})
            print("kept", flush=True)
    return 0
cli._methods = work
sys.exit(cli.main(["methods"]))
"""


class Worker:
    """A process on a host of that name; hosts of different names share the folder and not their locks."""

    def __init__(self, workdir, host):
        (workdir / ".run.lock").unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", WORKER, str(workdir), host],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout.readline() == "mine\n", self.process.stderr.read()

    def append(self, event):
        self.process.stdin.write(f"{event}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def stop(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def wake(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self):
        _, errors = self.process.communicate()
        return self.process.returncode, errors


@pytest.fixture
def worker():
    made = []

    def make(workdir, host):
        made.append(Worker(workdir, host))
        return made[-1]

    yield make
    for each in made:
        each.process.kill()
        each.process.communicate()


def age(sign):
    os.utime(sign, (sign.stat().st_mtime - room.STALE - 60,) * 2)


@pytest.mark.parametrize("over", [False, True])
def test_a_process_that_slept_through_a_take_over_ends_with_75_and_writes_nothing(tmp_path, worker, over):
    first = worker(tmp_path, "one")
    assert first.append("queried") == "kept"
    first.stop()
    age(tmp_path / "run.lock")
    second = worker(tmp_path, "two")
    assert second.append("labelled") == "kept"
    if over:
        assert second.end()[0] == 0
    before = (tmp_path / "ledger.jsonl").read_bytes()
    first.wake()
    assert first.append("labelled") == ""
    code, errors = first.end()
    assert code == 75
    who = (
        "it was moved or removed, or another process has taken it over and ended"
        if over
        else rf"process {second.process.pid} on host two since \S+ has taken it over"
    )
    assert re.fullmatch(
        rf"bdal: {re.escape(str(tmp_path))} is no longer this process's own: {who}; nothing more was written here\n",
        errors,
    )
    assert (tmp_path / "ledger.jsonl").read_bytes() == before
    if not over:  # it goes on undisturbed, and gives back what is its own
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == second.process.pid
        assert second.append("evaluated") == "kept"
        assert second.end()[0] == 0
    assert [event["event"] for event in durable.read(tmp_path / "ledger.jsonl")][:2] == ["queried", "labelled"]
    assert not (tmp_path / "run.lock").exists()


def test_of_three_processes_only_the_last_one_goes_on(tmp_path, worker):
    workers = []
    for host in ("one", "two", "three"):
        workers.append(worker(tmp_path, host))
        assert workers[-1].append(f"by {host}") == "kept"
        if host != "three":
            workers[-1].stop()
            age(tmp_path / "run.lock")
    for sleeper in workers[:2]:
        sleeper.wake()
        assert sleeper.append("late") == ""
        assert sleeper.end()[0] == 75
    assert workers[2].append("again by three") == "kept"
    assert workers[2].end()[0] == 0
    said = [event["event"] for event in durable.read(tmp_path / "ledger.jsonl")]
    assert said == ["by one", "by two", "by three", "again by three"]


@pytest.mark.parametrize("put", ["nothing", "an empty folder", "a run of another"])
def test_a_process_whose_directory_was_moved_ends_with_75_and_writes_nothing(tmp_path, worker, put):
    workdir, away = tmp_path / "run", tmp_path / "away"
    workdir.mkdir()
    first = worker(workdir, "one")
    assert first.append("queried") == "kept"
    first.stop()
    workdir.rename(away)
    if put != "nothing":
        workdir.mkdir()
    if put == "a run of another":
        second = worker(workdir, "one")
        assert second.append("validation") == "kept"
    first.wake()
    assert first.append("labelled") == ""
    assert first.end()[0] == 75
    assert [event["event"] for event in durable.read(away / "ledger.jsonl")] == ["queried"]
    there = [event["event"] for event in durable.read(workdir / "ledger.jsonl")]
    assert there == (["validation"] if put == "a run of another" else [])


def test_a_moved_copy_belongs_to_the_process_that_took_it_over_there(tmp_path, worker):
    workdir, away = tmp_path / "run", tmp_path / "away"
    workdir.mkdir()
    first = worker(workdir, "one")
    assert first.append("queried") == "kept"
    first.stop()
    shutil.copytree(workdir, away)
    shutil.rmtree(workdir)
    second = worker(away, "one")
    assert second.append("labelled") == "kept"
    first.wake()
    assert first.append("labelled") == ""
    assert first.end()[0] == 75
    assert not workdir.exists()
    assert second.append("evaluated") == "kept"


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: durable.append(folder / "ledger.jsonl", {"event": "labelled"}),
        lambda folder: durable.write_atomic(folder / "table.md", "text"),
        lambda folder: parameters.save(folder / "a" / "parameters", {"weights": np.ones(2)}),
        lambda folder: write_query(folder / "query", indices=[0], inputs=np.ones((2, 3)), class_names="ab", round=0),
    ],
)
def test_whatever_is_written_below_a_directory_is_fenced(tmp_path, write):
    with lock(tmp_path):
        write(tmp_path)
        (tmp_path / "run.lock").write_text(json.dumps({"pid": 1, "host": "elsewhere", "token": "theirs"}))
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(LockedError, match="process 1 on host elsewhere since None has taken it over; nothing more"):
            write(tmp_path)
        write(_other(tmp_path))  # is no business of the lock
    assert {path: path.read_bytes() for path in before} == before
    assert {path for path in tmp_path.rglob("*") if path.is_file()} - {tmp_path / ".run.lock"} == set(before) - {
        tmp_path / ".run.lock"
    }


def _other(workdir):
    other = workdir.parent / f"{workdir.name}-other"
    other.mkdir()
    return other


@pytest.mark.parametrize("moment", range(1, 5))
def test_a_take_over_between_the_check_and_the_write_cuts_no_line_of_the_other_off(tmp_path, monkeypatch, moment):
    """Wherever in an append a process sleeps: what others have written meanwhile stays, and so do its seals."""
    with lock(tmp_path):
        durable.append(tmp_path / "ledger.jsonl", {"event": "queried"})
        calls, check = [0], durable.check_own

        def asleep(path):
            calls[0] += 1
            if calls[0] != moment:
                return check(path)
            monkeypatch.setattr(durable, "check_own", lambda _: None)
            durable.append(path, {"event": "labelled", "by": "the other"})
            monkeypatch.setattr(durable, "check_own", asleep)
            (tmp_path / "run.lock").unlink()
            return check(path)

        def go_on():
            for _ in range(3):
                durable.append(tmp_path / "ledger.jsonl", {"event": "evaluated"})

        monkeypatch.setattr(durable, "check_own", asleep)
        with pytest.raises(LockedError):
            go_on()
    found = durable.read(tmp_path / "ledger.jsonl")
    assert found[-1] == {"event": "labelled", "by": "the other"}


def test_a_line_written_by_a_sleeper_just_after_it_looked_is_found_as_damage(tmp_path, monkeypatch):
    """No look can be as late as the write itself: the seals find such a line, and what the other wrote stays."""
    path, looks = tmp_path / "ledger.jsonl", [0]
    durable.append(path, {"event": "queried"})

    def asleep(_):
        looks[0] += 1
        if looks[0] == 2:
            monkeypatch.setattr(durable, "check_own", lambda _: None)
            durable.append(path, {"event": "labelled", "by": "the other"})

    monkeypatch.setattr(durable, "check_own", asleep)
    durable.append(path, {"event": "evaluated"})
    assert b"the other" in path.read_bytes()
    with pytest.raises(durable.CorruptRunError, match="line 3: its checksum does not fit"):
        durable.read(path)
