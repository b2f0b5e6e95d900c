"""Files that a crash leaves whole: put in place at once, or written line by line, each line sealed.

Every line ends in `"crc"`, CRC-32 of the line and of the "crc" before it: a line that was changed, taken out or put in
by anything but `append` is found.
"""

import json
import math
import os
import re
import signal
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bdal.errors import NonFiniteError


class CorruptRunError(ValueError):
    """A file of a run directory that no interrupted write can explain: it was damaged or edited."""


def failpoint(name: str) -> None:
    """End the process as `kill -9` would, if BDAL_FAILPOINT is `name`, or `name:n` at the n-th time, to test crashes.

    Before, inside and after every event of a ledger there is one (`before_queried`, `torn_queried`, `after_queried`),
    likewise around lines of other files, by their file's name, and before and after a file is put in its place.
    """
    wanted = os.environ.get("BDAL_FAILPOINT")
    if not wanted:
        return
    place, _, turn = wanted.partition(":")
    if place == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] == int(turn or 1):
            os.kill(os.getpid(), signal.SIGKILL)


_passed: dict[str, int] = {}


@contextmanager
def guarded(folder: str | Path, check: Callable[[], None]) -> Iterator[None]:
    """Inside this context, every write below `folder` calls `check` first, which may raise."""
    folder = Path(folder).absolute()
    _guards[folder] = check
    try:
        yield
    finally:
        del _guards[folder]


def check_own(path: str | Path) -> None:
    """Call the guard of the folders above `path`, if there is one."""
    path = Path(path).absolute()
    for folder, check in list(_guards.items()):
        if path.is_relative_to(folder):
            check()


_guards: dict[Path, Callable[[], None]] = {}


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Put `content` at `path` whole or not at all: a temporary file beside it, fsync, rename, fsync of the folder."""
    path = Path(path)
    check_own(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        failpoint(f"before_{path.name}")
        check_own(path)
        os.replace(temporary, path)
        failpoint(f"after_{path.name}")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append(path: str | Path, event: dict[str, Any]) -> None:
    """One event as one JSON line at the end of the file, on disk when this returns; a torn last line is cut off first.

    NumPy and JAX numbers and arrays are written as plain ones. Raises `NonFiniteError` naming a NaN or infinite field,
    and `OSError` where it cannot be written: then what was there is there still.
    """
    path = Path(path)
    event = plain(event)
    name = event.get("event", path.stem)
    if bad := [f"{field} is {value}" for field, value in _numbers(event) if not math.isfinite(value)]:
        raise NonFiniteError(f"{path}: {name!r}: {', '.join(bad[:5])}; only finite numbers are written")
    body = json.dumps(event, allow_nan=False, ensure_ascii=False).encode()
    failpoint(f"before_{name}")
    check_own(path)
    new = not path.exists()
    with path.open("ab+", buffering=0) as file:
        size, end = file.seek(0, os.SEEK_END), _whole_lines(file)
        line = _sealed(body, _last_seal(file, end))
        check_own(path)  # as late as can be; a line that comes later still does not fit the seals, and is found
        if end < size:
            file.truncate(end)
        try:
            if os.environ.get("BDAL_FAILPOINT"):
                file.write(line[: len(line) // 2])
                failpoint(f"torn_{name}")
                file.truncate(end)
            written = 0
            while written < len(line):
                written += file.write(line[written:])
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(end)
            error.filename = error.filename or str(path)
            raise
    if new:
        sync_folder(path.parent)
    failpoint(f"after_{name}")


def read(path: str | Path) -> list[dict[str, Any]]:
    """The events of a file, oldest first, without their checksums; none if the file is not there.

    A last line without its line end was torn by a crash: it is left out with a warning. Any other line that is not one
    JSON object, or whose checksum does not fit, raises `CorruptRunError` naming file and line.
    """
    path = Path(path)
    if not path.exists():
        return []
    *lines, torn = path.read_bytes().split(b"\n")
    if _WHOLE.search(torn):  # its line end was damaged: the line was written in full, and may hold answers
        lines, torn = [*lines, torn], b""
    if torn:
        warnings.warn(f"{path}: line {len(lines) + 1} was cut off by a crash and is left out", stacklevel=2)
    events, seal = [], b""
    for number, line in enumerate(lines, start=1):
        where = f"{path}: line {number}"
        body = line[:-_SEAL] + b"}"
        if _sealed(body, seal) != line + b"\n":
            raise CorruptRunError(
                f"{where}: its checksum does not fit: it was damaged, or lines were edited, taken out or put in; found "
                f"{line[:60]!r}; lines before it are as they were written"
            )
        try:
            event = json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise CorruptRunError(f"{where}: expected one JSON object, found {line[:60]!r}") from error
        if not isinstance(event, dict):
            raise CorruptRunError(f"{where}: expected one JSON object, found {line[:60]!r}")
        events.append(event)
        seal = line[-10:-2]
    return events


_SEAL = len(b', "crc": "00000000"}')
_WHOLE = re.compile(rb', "crc": "[0-9a-f]{8}"}.+$', re.DOTALL)


def _sealed(body: bytes, before: bytes) -> bytes:
    """The line of a JSON object: its last field is CRC-32 of the object and of the checksum before it."""
    return body[:-1] + b', "crc": "%08x"}\n' % zlib.crc32(before + body)


def _last_seal(file, end: int) -> bytes:
    """The checksum of the line that ends at `end`; none at the start of a file."""
    file.seek(max(0, end - _SEAL - 1))
    found = re.fullmatch(rb', "crc": "([0-9a-f]{8})"}\n', file.read(_SEAL + 1)) if end else None
    return found[1] if found else b""


def _whole_lines(file) -> int:
    """The number of bytes up to and with the last line end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def plain(value: Any) -> Any:
    """NumPy and JAX numbers and arrays inside `value` as plain ones."""
    match value:
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _ if hasattr(value, "tolist"):
            return value.tolist()
        case _:
            return value


def _numbers(value: Any, field: str = ""):
    match value:
        case float():
            yield field, value
        case dict():
            for key, item in value.items():
                yield from _numbers(item, f"{field}.{key}" if field else key)
        case list():
            for place, item in enumerate(value):
                yield from _numbers(item, f"{field}[{place}]")


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not JSON")


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
