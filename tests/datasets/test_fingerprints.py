"""The digest of all numbers of a data set, in blocks, and kept for large memory maps."""

import hashlib
import os

import numpy as np
import pytest

from bdal.datasets import fingerprint, fingerprints, from_arrays

DATA = from_arrays(np.random.default_rng(0).normal(size=(101, 7, 3)), np.arange(101) % 4)


def test_it_is_sha_256_of_what_is_there():
    """By its definition, from the bytes."""
    digest = hashlib.sha256(b"4")
    for values in (DATA.labels, DATA.inputs):
        digest.update(f"|{values.shape} {values.dtype.str}|".encode() + hashlib.sha256(values.tobytes()).digest())
    digest.update(b"|none||none|")
    assert fingerprint(DATA) == digest.hexdigest()


@pytest.mark.parametrize("block", [1, 83, 84, 85, 1000, 10**9])
def test_blocks_and_layouts_change_nothing(monkeypatch, block):
    whole = fingerprint(DATA)
    monkeypatch.setattr(fingerprints, "BLOCK", block)
    assert fingerprint(DATA) == whole
    assert fingerprint(DATA._replace(inputs=np.asfortranarray(DATA.inputs))) == whole


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """The inputs as a file, older than a moment, and every memory map large."""
    monkeypatch.setenv("BDAL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "LARGE", 1)
    path = tmp_path / "inputs.npy"
    np.save(path, DATA.inputs)
    os.utime(path, (1e9, 1e9))
    return path


def reading(path):
    return DATA._replace(inputs=np.load(path, mmap_mode="r"))


@pytest.fixture
def hashed(monkeypatch):
    """The number of rows of inputs that were hashed."""
    seen, read = [0], np.ascontiguousarray

    def count(values):
        seen[0] += len(values) if values.ndim == 3 else 0
        return read(values)

    monkeypatch.setattr(fingerprints.np, "ascontiguousarray", count)
    return seen


def test_a_memory_map_is_the_array_and_is_hashed_once(mapped, hashed):
    assert fingerprint(reading(mapped)) == fingerprint(DATA)
    assert hashed == [202]
    assert fingerprint(reading(mapped)) == fingerprint(DATA)
    assert hashed == [303]  # the array is hashed, and the map is known


@pytest.mark.parametrize("size", ["the same", "another"])
def test_a_changed_file_is_hashed_again(mapped, size):
    before = fingerprint(reading(mapped))
    inputs = DATA.inputs.copy()
    inputs[50] += 1
    np.save(mapped, inputs if size == "the same" else inputs[:100])
    assert fingerprint(reading(mapped)) != before


def test_a_part_of_a_file_is_not_taken_for_it(mapped):
    whole = reading(mapped)
    fingerprint(whole)
    for part in (whole.inputs[::-1], whole.inputs.transpose(0, 2, 1), whole.inputs[1:]):
        known = fingerprint(whole._replace(inputs=part))
        assert known == fingerprint(whole._replace(inputs=np.array(part))) != fingerprint(whole)


def test_a_file_that_was_just_written_is_not_trusted_by_its_time(mapped, hashed):
    """Two changes in one tick of the clock have the same time."""
    os.utime(mapped)
    fingerprint(reading(mapped))
    fingerprint(reading(mapped))
    assert hashed == [202]


def test_a_kept_digest_that_was_cut_short_or_cannot_be_kept_is_computed_again(mapped, tmp_path, monkeypatch):
    expected = fingerprint(reading(mapped))
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    kept.write_bytes(b"cut")
    assert fingerprint(reading(mapped)) == expected
    monkeypatch.setenv("BDAL_CACHE_DIR", str(mapped))  # a file
    assert fingerprint(reading(mapped)) == expected
