"""`.npz` files read as data only: whatever is in one, nothing of it is run, written or believed unchecked."""

import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

SMALL_BYTES = 2**28  # an archive of at most so many bytes unpacked is read however well it is packed
PACKED_BY = 100  # a larger one may be so many times the size of its file: float images pack by 5 to 30


def read_npz(
    path: str | Path, required: Sequence[str], optional: Sequence[str] = (), *, anyhow: Sequence[str] = (),
    content: BinaryIO | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The required arrays of an `.npz` file and what it has of the others, unchecked beyond being arrays.

    The checksum of every member is verified first, so a file cut short or flipped is refused. Nothing in it is run.
    Unknown keys are left alone where all `optional` ones are there, and refused where one is missing: it may be the
    same by another name. `anyhow` names keys that may be there or not. `content` is read in the file's place where it
    has been read already.

    Raises:
      ValueError: not an `.npz` file, a damaged one, a missing key, a key that is there twice, an array of Python
        objects; members named outside the archive (`/x`, `../x`), or packed by more than a factor of 100 to more than
        256 MiB, as in a zip bomb.
    """
    with content or open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(f"{path}: not an .npz file, or one that was cut short")
        with _damage_named(path):
            archive = zipfile.ZipFile(file)
        file.seek(-22 - len(archive.comment), os.SEEK_END)  # the end record; a flipped length can swallow members
        (said,) = struct.unpack("<H", file.read(22)[10:12])
        if len(archive.infolist()) != said:
            raise ValueError(f"{path}: damaged .npz file ({len(archive.infolist())} of {said} members found)")
        members = _members(path, archive, file.seek(0, os.SEEK_END))
        with _damage_named(path):
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{path}: damaged .npz file (wrong checksum of {damaged})")
        missing = [key for key in required if key not in members]
        if missing:
            perhaps = f" (and perhaps {', '.join((*optional, *anyhow))})" if optional or anyhow else ""
            raise ValueError(
                f"{path}: expected the keys {', '.join(required)}{perhaps}, found {', '.join(members) or 'none'}"
            )
        wanted = [*required, *optional, *anyhow]
        unknown = [key for key in members if key not in wanted]
        if unknown and not all(key in members for key in optional):
            raise ValueError(
                f"{path}: expected no keys but {', '.join(wanted)} where one of these is left out, "
                f"found {', '.join(unknown)}"
            )
        return {key: _array(path, archive, key, members[key]) for key in wanted if key in members}


@contextmanager
def _damage_named(path):
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged .npz file ({error})") from error


def _members(path, archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Key -> member, once the archive's table of contents can be trusted that far."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename
        if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
            raise ValueError(f"{path}: expected members with names inside the archive, found {name!r}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{path}: expected members that are stored or deflated, {name!r} is neither")
        key = name.removesuffix(".npy")
        if key in members:
            raise ValueError(f"{path}: expected every key once, found {key!r} twice")
        members[key] = info
    unpacked = sum(info.file_size for info in members.values())
    if unpacked > max(SMALL_BYTES, PACKED_BY * size):
        raise ValueError(
            f"{path}: expected at most {PACKED_BY} times the {size} bytes of the file when unpacked, it says {unpacked}"
        )
    return members


def _array(path, archive: zipfile.ZipFile, key: str, info: zipfile.ZipInfo) -> np.ndarray:
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            if version not in headers:
                raise ValueError(f"format version {version}")
            shape, _, dtype = headers[version](member)
            there = info.file_size - member.tell()
        if not dtype.hasobject and math.prod(shape) * dtype.itemsize != there:  # before room is made for it
            raise ValueError(f"{dtype} of shape {shape} does not have {there} bytes")
        with archive.open(info) as member:
            return np.lib.format.read_array(member, allow_pickle=False)
    except Exception as error:  # a header is a Python literal; parsing a hostile one fails in many ways
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = f"; text is saved as {key}.astype(str)" if "Object arrays" in reason else ""
        raise ValueError(f"{path}: {key} cannot be read as an array of numbers ({reason}){hint}") from error
