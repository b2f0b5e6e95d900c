"""One process at a time in a run directory, whatever became of the one before."""

import errno
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from bdal.store import lock as room
from bdal.store.lock import LockedError, lock

OWNER = {"pid": 4711, "host": "elsewhere", "started": "2026-01-02T03:04:05+00:00"}


def sign_of(workdir, owner=OWNER, *, age=0.0):
    sign = workdir / "run.lock"
    sign.write_text(json.dumps(owner))
    os.utime(sign, (time.time() - age, time.time() - age))
    return sign


def test_a_lock_says_whose_it_is_and_is_given_back(tmp_path):
    with lock(tmp_path):
        owner = json.loads((tmp_path / "run.lock").read_text())
        assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", owner["started"])
        with pytest.raises(LockedError) as caught, lock(tmp_path):
            pytest.fail("two have it")
        assert str(caught.value) == (
            f"{tmp_path} is in use by process {owner['pid']} on host {owner['host']} since {owner['started']}; "
            "try again later"
        )
        assert json.loads((tmp_path / "run.lock").read_text()) == owner  # who was refused touches nothing
    assert not (tmp_path / "run.lock").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with lock(tmp_path):
            pass


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_it_is_given_back_whatever_happens(tmp_path, error):
    with pytest.raises(error), lock(tmp_path):
        raise error
    assert not (tmp_path / "run.lock").exists()
    with lock(tmp_path):
        pass


@pytest.mark.parametrize("age", [0, room.STALE - 60])
def test_another_hosts_fresh_sign_keeps_out(tmp_path, age):
    """Where the hosts share a folder and not their locks."""
    sign = sign_of(tmp_path, age=age)
    found = pytest.raises(LockedError, match=r"by process 4711 on host elsewhere since 2026-01-02T03:04:05\+00:00; try")
    with found, lock(tmp_path):
        pytest.fail("two have it")
    assert json.loads(sign.read_text()) == OWNER
    sign.unlink()
    with lock(tmp_path):  # and nothing of the attempt is left
        pass


def test_another_hosts_stale_sign_is_taken_over_with_a_warning(tmp_path):
    sign_of(tmp_path, age=room.STALE + 60)
    warned = pytest.warns(UserWarning, match="taking over from process 4711 on host elsewhere since .*did not finish")
    with warned, lock(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run.lock").exists()


def test_a_dead_process_of_this_host_is_taken_over_at_once(tmp_path):
    sign_of(tmp_path, OWNER | {"host": socket.gethostname()})
    with pytest.warns(UserWarning, match="taking over from process 4711 on host"), lock(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}"])
def test_a_sign_that_says_nothing_is_taken_over_unless_it_is_just_being_written(tmp_path, content):
    sign = tmp_path / "run.lock"
    sign.write_text(content)
    with pytest.raises(LockedError, match="is in use by another process; try again later"), lock(tmp_path):
        pass
    os.utime(sign, (time.time() - 60, time.time() - 60))
    with pytest.warns(UserWarning, match="taking over from another process, which did not finish"), lock(tmp_path):
        assert json.loads(sign.read_text())["pid"] == os.getpid()


def beats(sign):
    """Whether it is touched, sooner or later."""
    for _ in range(3000):
        if sign.stat().st_mtime > 1e9:
            return True
        time.sleep(0.02)
    return False


def test_the_sign_shows_life(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "HEARTBEAT", 0.01)
    with lock(tmp_path):
        sign = tmp_path / "run.lock"
        os.utime(sign, (1, 1))
        assert beats(sign)
    assert not (tmp_path / "run.lock").exists()


def test_a_heart_outlives_a_folder_that_is_not_there_for_a_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "HEARTBEAT", 0.01)
    workdir, away = tmp_path / "run", tmp_path / "away"
    workdir.mkdir()
    with lock(workdir):
        workdir.rename(away)
        time.sleep(0.1)
        away.rename(workdir)
        os.utime(workdir / "run.lock", (1, 1))
        assert beats(workdir / "run.lock")


def test_a_directory_that_another_host_took_over_meanwhile_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "HEARTBEAT", 0.01)
    with lock(tmp_path):
        sign = sign_of(tmp_path, OWNER | {"token": "theirs"}, age=1000)
        then = sign.stat().st_mtime
        time.sleep(0.1)
        assert sign.stat().st_mtime == then  # it is theirs to touch
    assert json.loads(sign.read_text()) == OWNER | {"token": "theirs"}


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("dead", [OWNER, OWNER | {"token": "../../x"}, OWNER | {"token": "0123456789abcdef"}, None])
def test_of_many_hosts_that_find_a_dead_ones_sign_exactly_one_takes_over(tmp_path, monkeypatch, dead, links):
    """Hosts that share the folder and not their locks: only the sign is between them."""

    def take(barrier, workdir):
        barrier.wait()
        try:
            return room._take(workdir / "run.lock")
        except LockedError:
            return None

    monkeypatch.setattr(socket, "gethostname", lambda: threading.current_thread().name)
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EPERM, "no links here")))
    with ThreadPoolExecutor(8) as pool, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for number in range(20):
            workdir = tmp_path / str(number)
            workdir.mkdir()
            if dead is not None:
                sign_of(workdir, dead, age=room.STALE + 60)
            tokens = list(pool.map(take, [threading.Barrier(8)] * 8, [workdir] * 8))
            (token,) = [token for token in tokens if token is not None]
            assert json.loads((workdir / "run.lock").read_text())["token"] == token
            assert [path.name for path in workdir.iterdir()] == ["run.lock"]
    assert len(caught) == (0 if dead is None else 20)


@pytest.mark.parametrize("host", [socket.gethostname(), "another"])
def test_a_claim_of_one_that_died_while_taking_over_stands_in_the_way_for_moments_at_most(tmp_path, host):
    sign_of(tmp_path, OWNER | {"token": "ab"}, age=room.STALE + 60)
    claim = tmp_path / ".run.lock.after.ab"
    claim.write_text(json.dumps(OWNER | {"host": host, "token": "cd"}))
    if host == "another":  # whose lock is not shared: perhaps it is at it
        with pytest.raises(LockedError), lock(tmp_path):
            pass
        os.utime(claim, (time.time() - room.HEARTBEAT - 1,) * 2)
    with pytest.warns(UserWarning, match="taking over from process 4711 on host elsewhere"), lock(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]


TAKING_OVER = """
import os, signal, sys
from bdal.store import lock
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
with lock.lock(sys.argv[1]):
    pass
"""


def test_a_process_that_is_killed_while_it_takes_over_locks_nobody_out(tmp_path):
    sign_of(tmp_path, OWNER | {"token": "ab"}, age=room.STALE + 60)
    killed = subprocess.run([sys.executable, "-c", TAKING_OVER, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".run.lock.*"))) == 2  # its claim, and its sign
    with pytest.warns(UserWarning, match="taking over from process 4711 on host elsewhere"), lock(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]


# -- clocks -----------------------------------------------------------------------------------------------------------


def test_a_dead_process_of_this_host_is_taken_over_at_once_after_the_clock_was_set_back(tmp_path):
    sign_of(tmp_path, OWNER | {"host": socket.gethostname()}, age=-100_000)
    with pytest.warns(UserWarning, match="taking over from process 4711 on host"), lock(tmp_path):
        pass


@pytest.mark.parametrize("owner", [OWNER, {}])
def test_a_sign_from_the_future_ages_from_the_first_look_on(tmp_path, owner):
    sign = sign_of(tmp_path, owner, age=-100_000)
    with pytest.raises(LockedError), lock(tmp_path):
        pass
    assert abs(sign.stat().st_mtime - time.time()) < 60
    os.utime(sign, (sign.stat().st_mtime - room.STALE - 60,) * 2)
    with pytest.warns(UserWarning, match="taking over from"), lock(tmp_path):
        pass


def test_ages_are_by_the_clock_that_stamps_the_files(tmp_path, monkeypatch):
    """Hosts' clocks differ; those of the files in one folder do not."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    sign_of(tmp_path, age=0)
    os.utime(tmp_path / "run.lock")
    with pytest.raises(LockedError), lock(tmp_path):
        pass
    os.utime(tmp_path / "run.lock", ((tmp_path / "run.lock").stat().st_mtime - room.STALE - 60,) * 2)
    with pytest.warns(UserWarning, match="taking over from"), lock(tmp_path):
        pass


# -- what killed processes leave --------------------------------------------------------------------------------------


def test_files_that_were_half_written_go_and_those_of_others_stay(tmp_path):
    gone = [
        ".run.json.99999999.tmp", "a/b/seed_0/.x.jsonl.99999999.tmp", "query/images/.3.png.99999999.tmp",
        f".table.md.{os.getpid()}.tmp", ".run.lock.abcdef", "label-x1/open.html",
    ]  # fmt: skip
    kept = [f".report.html.{os.getppid()}.tmp", ".mine.tmp", "a/b/seed_0/x.1.tmp", "label-x2/mine.txt", ".run.lock.fe"]
    for name in gone + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        host = "elsewhere" if name.endswith(".fe") else socket.gethostname()
        (tmp_path / name).write_text(json.dumps(OWNER | {"host": host, "token": "ab"}))
    with lock(tmp_path):
        left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        assert left == {*kept, "run.lock", ".run.lock"}
    assert not (tmp_path / "label-x1").exists()


# -- processes --------------------------------------------------------------------------------------------------------

WORKER = """
import sys, time, warnings
from bdal.store.lock import LockedError, lock
warnings.showwarning = lambda message, *_, **__: print("warning:", message, flush=True)
print("ready", flush=True)
for line in sys.stdin:
    workdir, moment = line.split()
    while time.monotonic() < float(moment):
        pass
    try:
        with lock(workdir):
            print("mine", flush=True)
            sys.stdin.readline()
        print("back", flush=True)
    except LockedError as error:
        print(error, flush=True)
"""


class Worker:
    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def say(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self):
        return self.process.stdout.readline().strip()

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def workers():
    both = [Worker(), Worker()]
    assert [worker.hear() for worker in both] == ["ready", "ready"]
    yield both
    for worker in both:
        worker.end()


def test_of_two_processes_at_a_barrier_exactly_one_wins(workers, tmp_path):
    wins = []
    for number in range(20):
        workdir = tmp_path / str(number)
        workdir.mkdir()
        moment = time.monotonic() + 0.05
        for worker in workers:
            worker.say(f"{workdir} {moment}")
        heard = [worker.hear() for worker in workers]
        assert heard.count("mine") == 1, heard
        winner, loser = (heard.index("mine"), 1 - heard.index("mine"))
        wins.append(winner)
        # who comes in the moment before the winner has put its name there hears of "another process"
        owner = rf"process {workers[winner].process.pid} on host {re.escape(socket.gethostname())} since 20\S+"
        expected = rf"{re.escape(str(workdir))} is in use by ({owner}|another process); try again later"
        assert re.fullmatch(expected, heard[loser])
        workers[loser].say(f"{workdir} 0")  # and now it is there
        assert re.fullmatch(rf"{re.escape(str(workdir))} is in use by {owner}; try again later", workers[loser].hear())
        workers[winner].say("give it back")
        assert workers[winner].hear() == "back"
    assert len(wins) == 20


def test_after_kill_9_another_process_takes_over_with_a_warning(workers, tmp_path):
    first, second = workers
    first.say(f"{tmp_path} 0")
    assert first.hear() == "mine"
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    second.say(f"{tmp_path} 0")
    assert re.fullmatch(
        rf"warning: .*: taking over from process {first.process.pid} on .*did not finish", second.hear()
    )
    assert second.hear() == "mine"
    second.say("give it back")
    assert second.hear() == "back"
    assert not select.select([second.process.stdout], [], [], 0)[0]
