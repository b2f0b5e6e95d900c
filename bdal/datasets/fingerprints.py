"""The fingerprint of a data set: one SHA-256 over all of it."""

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np

from bdal.datasets.arrays import Dataset
from bdal.datasets.mnist import cache_dir


def fingerprint(dataset: Dataset) -> str:
    """Whether it is the same data: SHA-256 over counts, shapes, dtypes, and all inputs and labels, pool and test set.

    The names of the classes, which tell what an answer means, and of the files that people are shown, below the folder
    that all of them are in, are part of it. Arrays are read in blocks, so that a memory map need not fit into memory;
    the digest of a map of a gibibyte or more is kept in the cache folder, for as long as its file has the same size and
    time of change.

    >>> from bdal.datasets import from_arrays
    >>> data = from_arrays([[0.0], [1.0]], [0, 1], [[0.5]], [0])
    >>> fingerprint(data) == fingerprint(data._replace(name="renamed"))
    True
    >>> fingerprint(data) == fingerprint(data._replace(labels=data.labels[::-1]))
    False
    """
    digest = hashlib.sha256(str(dataset.num_classes).encode())
    for names in (dataset.class_names, dataset.file_names):
        if names is not None or dataset.labels is None:
            digest.update(f"|{names}|".encode("utf-8", "backslashreplace"))
    for values in (dataset.labels, dataset.inputs, dataset.test_labels, dataset.test_inputs):
        if values is None:
            digest.update(b"|none|")
            continue
        digest.update(f"|{values.shape} {values.dtype.str}|".encode())
        digest.update(_digest(values))
    return digest.hexdigest()


BLOCK = 2**26  # bytes that are hashed at a time
LARGE = 2**30  # bytes of a memory map whose digest is kept
SETTLED = 2 * 10**9  # nanoseconds after which no change of a file can have the same time as the one before


def _digest(values: np.ndarray) -> bytes:
    """SHA-256 of an array's numbers in row-major order."""
    kept, before = _kept_digest(values)
    if kept is not None and kept.exists() and kept.stat().st_mtime_ns > before[1] + SETTLED:
        found = kept.read_bytes()
        if len(found) == hashlib.sha256().digest_size:
            return found
    digest = hashlib.sha256()
    rows = max(1, BLOCK // max(1, values[:1].nbytes))
    for first in range(0, len(values), rows):
        digest.update(np.ascontiguousarray(values[first : first + rows]).data)
    if kept is not None and _kept_digest(values)[0] == kept:  # the file was not changed meanwhile
        with contextlib.suppress(OSError):  # then it is computed again
            kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = kept.with_name(f".{kept.name}.{os.getpid()}")
            new.write_bytes(digest.digest())
            new.replace(kept)
    return digest.digest()


def _kept_digest(values: np.ndarray) -> tuple[Path | None, tuple[int, int]]:
    """Where the digest of a large memory map is kept, with its file's size and time of change; None for others."""
    file = getattr(values, "filename", None)
    if file is None or values.nbytes < LARGE or not values.flags.c_contiguous:
        return None, (0, 0)
    stat = Path(file).stat()
    if values.offset + values.nbytes != stat.st_size:  # type: ignore[attr-defined]  # a part of the file
        return None, (0, 0)
    facts = [str(Path(file).resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino, values.shape, values.dtype.str]
    name = hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()
    return cache_dir() / "digests" / name, (stat.st_size, stat.st_mtime_ns)
