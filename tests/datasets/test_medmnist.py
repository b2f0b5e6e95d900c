"""PneumoniaMNIST: which arrays of its file are used, and what is said when it is missing or another one."""

import hashlib

import numpy as np
import pytest

from bdal.datasets import load, medmnist
from bdal.errors import DataNotFoundError


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Six, two and three images in the published layout, each part with a brightness of its own."""
    monkeypatch.delenv("BDAL_DATA_DIR", raising=False)
    folder = tmp_path / "pneumoniamnist"
    folder.mkdir()
    sizes, grey = {"train": 6, "val": 2, "test": 3}, {"train": 51, "val": 102, "test": 255}
    images = {f"{part}_images": np.full((n, 28, 28), grey[part], np.uint8) for part, n in sizes.items()}
    labels = {f"{part}_labels": (np.arange(n)[:, None] % 2).astype(np.uint8) for part, n in sizes.items()}
    path = folder / "pneumoniamnist.npz"
    np.savez(path, **images, **labels)
    monkeypatch.setitem(medmnist.FILES, path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_the_training_part_is_the_pool_and_the_test_part_the_test_set(small):
    data = load("pneumoniamnist", data_dir=small.parents[1])
    assert (data.inputs.shape, data.test_inputs.shape) == ((6, 28, 28, 1), (3, 28, 28, 1))
    assert data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.test_labels.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(np.unique(data.inputs), np.float32(0.2))
    np.testing.assert_array_equal(np.unique(data.test_inputs), 1)
    assert (data.num_classes, data.class_names) == (2, ("normal", "pneumonia"))


def test_a_tampered_file_of_pneumoniamnist_is_refused_with_its_name_and_both_digests(small):
    content = bytearray(small.read_bytes())
    expected = hashlib.sha256(content).hexdigest()
    content[len(content) // 2] ^= 1
    small.write_bytes(content)
    with pytest.raises(ValueError, match="not the published file") as caught:
        load("pneumoniamnist", data_dir=small.parents[1])
    for word in (str(small), expected, hashlib.sha256(content).hexdigest()):
        assert word in str(caught.value)


def test_without_its_file_pneumoniamnist_says_what_goes_where(small):
    small.unlink()
    with pytest.raises(DataNotFoundError, match=r"^pneumoniamnist: pneumoniamnist\.npz not found in") as caught:
        load("pneumoniamnist", data_dir=small.parents[1])
    for word in (str(small.parent), "DIR/pneumoniamnist", "--data-dir", "BDAL_DATA_DIR"):
        assert word in str(caught.value)


@pytest.mark.data
def test_the_real_x_rays(data_dir):
    data = load("pneumoniamnist", data_dir=data_dir)
    assert np.bincount(data.labels).tolist() == [1214, 3494]
    assert np.bincount(data.test_labels).tolist() == [234, 390]
    assert (data.inputs.min(), data.inputs.max()) == (0, 1)
