"""One process at a time in a run directory."""

import json
import os
import re
import secrets
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from bdal.store import durable

HEARTBEAT = 30.0  # seconds between two signs of life
PATIENCE = 60.0  # seconds to wait for others that write a line
STALE = 600.0  # seconds without one after which another host may take the lock over


class LockedError(RuntimeError):
    """Another process works in the run directory."""


@contextmanager
def lock(workdir: str | Path) -> Iterator[None]:
    """Lock the run directory. Other processes get a `LockedError` with the owner's process, host and start.

    The operating system frees the lock of a process that ends, however it ends. `run.lock` says who holds it, and is
    touched every 30 seconds: where hosts share a folder but not their locks, it keeps another host out until it has
    not been touched for 10 minutes. What a process that died has left there is taken over with a warning. One that was
    only asleep, or whose directory was moved, notices before it writes the next line, and gets a `LockedError` too.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, lock(folder):
    ...     with lock(folder):
    ...         pass
    Traceback (most recent call last):
    ...
    bdal.store.lock.LockedError: ... is in use by process ... on host ... since ...; try again later
    """
    workdir = Path(workdir)
    sign = workdir / "run.lock"
    held = _system_lock(workdir / ".run.lock")
    try:
        held.acquire(blocking=False)
    except Timeout:
        raise _locked(sign) from None
    try:
        token = _take(sign)
        over = threading.Event()
        heart = threading.Thread(target=_beat, args=(sign, token, over), daemon=True)
        heart.start()
        try:
            _clear(workdir, token)
            with durable.guarded(workdir, partial(_check_own, sign, token)):
                yield
        finally:
            over.set()
            heart.join()
            if _read(sign).get("token") == token:
                sign.unlink(missing_ok=True)
    finally:
        held.release()


@contextmanager
def alone(workdir: str | Path) -> Iterator[None]:
    """Hold a directory for as long as a line takes, after others that do; `LockedError` where that takes a minute."""
    held = _system_lock(Path(workdir) / ".run.lock")
    try:
        held.acquire(timeout=PATIENCE)
    except Timeout:
        raise _locked(Path(workdir) / "run.lock") from None
    try:
        yield
    finally:
        held.release()


def _clear(workdir: Path, token: str) -> None:
    """Remove half-written files and stale browser files of killed processes from a directory that we own."""
    left = [*workdir.glob(".*.tmp"), *workdir.glob("*/*/seed_*/.*.tmp"), *workdir.glob("query/**/.*.tmp")]
    writers = [(path, re.fullmatch(r"\..+\.([0-9]+)\.tmp", path.name)) for path in left]
    left = [path for path, writer in writers if writer and not _another_is_alive(int(writer[1]))]
    signs = [path for path in workdir.glob(".run.lock.*") if token not in path.name]
    left += [path for path in signs if _read(path).get("host") == socket.gethostname()]
    left += list(workdir.glob("label-*/open.html"))  # of `bdal label`, whose address is no longer served
    for path in left:
        with suppress(OSError):
            path.unlink()
    for door in workdir.glob("label-*"):
        with suppress(OSError):
            door.rmdir()


def _another_is_alive(pid: int) -> bool:
    """Whether another process with that id is alive."""
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, PermissionError)
    return pid != os.getpid()


def _check_own(sign: Path, token: str) -> None:
    owner = _read(sign)
    if owner.get("token") == token:
        return
    if owner:
        why = f"{_owner(owner)} has taken it over"
    else:
        why = "it was moved or removed, or another process has taken it over and ended"
    raise LockedError(f"{sign.parent} is no longer this process's own: {why}; nothing more was written here")


def _system_lock(path: Path):
    try:  # a file that stands for a lock would outlive a killed process; `run.lock` is that, with a heartbeat
        return FileLock(path, fallback_to_soft=False)
    except TypeError:  # filelock before 4 has no such fallback
        return FileLock(path)


def _take(sign: Path) -> str:
    """Put our name on the directory, in the place of one that died; its token.

    The file is there as a whole or not at all, and is never gone while it changes hands, so that of hosts whose locks
    are not shared one has it. Who may replace the dead one's is who made the file that is named after its token.
    """
    token = secrets.token_hex(8)
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "started": datetime.now(UTC).isoformat("T", "seconds"),
        "token": token,
    }
    new = sign.with_name(f".run.lock.{token}")
    try:
        new.write_text(json.dumps(owner) + "\n", encoding="utf-8")
        if not _put_first(new, sign):
            _replace_dead(new, sign)
            if _read(sign).get("token") != token:  # another host did the same, a moment later
                raise _locked(sign)
    finally:
        new.unlink(missing_ok=True)
    return token


def _put_first(new: Path, sign: Path) -> bool:
    try:
        os.link(new, sign)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            with sign.open("xb") as file:
                file.write(new.read_bytes())
        except FileExistsError:
            return False
    return True


def _replace_dead(new: Path, sign: Path) -> None:
    dead = _read(sign)
    here = dead.get("host", socket.gethostname()) == socket.gethostname()
    patience = HEARTBEAT if not dead else STALE  # empty: perhaps it is just being written
    if not (dead and here) and _age(sign, new) < patience:  # of this host, whose lock we have, nobody is alive
        raise _locked(sign)
    name = str(dead.get("token"))
    claim = sign.with_name(f".run.lock.after.{name if re.fullmatch('[0-9a-f]+', name) else 'another'}")
    if not _put_first(new, claim):
        other = _read(claim).get("host")  # a takeover takes moments: one that did not end has died
        if other != socket.gethostname() and _age(claim, new) < HEARTBEAT:
            raise _locked(sign)
        claim.unlink(missing_ok=True)
        if not _put_first(new, claim):
            raise _locked(sign)
    try:
        if not sign.exists() or _read(sign) != dead:  # it changed hands in between
            raise _locked(sign)
        os.replace(new, sign)
    finally:
        claim.unlink(missing_ok=True)
    warnings.warn(f"{sign.parent}: taking over from {_owner(dead)}, which did not finish", stacklevel=6)


def _age(path: Path, new: Path) -> float:
    """The seconds since a file was touched, by the clock that stamps files there: `new` was written just now.

    A file from the future was stamped before that clock was set back. It is touched, so that it ages from now on: who
    is alive touches it as well, and the file of one who died would otherwise stay fresh until that future has come.
    """
    try:
        age = new.stat().st_mtime - path.stat().st_mtime
        if age < -HEARTBEAT:
            os.utime(path)
        return age
    except OSError:
        return 0.0


def _beat(sign: Path, token: str, over: threading.Event) -> None:
    while not over.wait(HEARTBEAT):
        try:
            if _read(sign).get("token") == token:
                os.utime(sign)
        except OSError:  # the folder is not there for the moment, or is gone
            continue


def _locked(sign: Path) -> LockedError:
    return LockedError(f"{sign.parent} is in use by {_owner(_read(sign))}; try again later")


def _read(sign: Path) -> dict:
    try:
        owner = json.loads(sign.read_text(encoding="utf-8"))
        return owner if isinstance(owner, dict) else {}
    except (OSError, ValueError, RecursionError):  # just taken, or just given back
        return {}


def _owner(owner: dict) -> str:
    if not owner:
        return "another process"
    return f"process {owner.get('pid')} on host {owner.get('host')} since {owner.get('started')}"
