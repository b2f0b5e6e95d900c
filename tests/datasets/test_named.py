"""`load` by name: the embedded digits are UCI's, byte for byte, and nothing heavy is imported for them."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from bdal.datasets import fingerprint, load
from bdal.errors import DataNotFoundError


def test_optdigits_facts():
    data = load("optdigits")
    assert (data.name, data.num_classes) == ("optdigits", 10)
    assert data.inputs.shape == (3823, 8, 8, 1)
    assert data.test_inputs.shape == (1797, 8, 8, 1)
    assert [v.dtype for v in data[:4]] == [np.float32, np.int32, np.float32, np.int32]
    assert (data.inputs.min(), data.inputs.max(), data.test_inputs.max()) == (0, 1, 1)
    assert np.bincount(data.labels).tolist() == [376, 389, 380, 389, 387, 376, 377, 387, 380, 382]
    assert np.bincount(data.test_labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize(
    ("part", "checksum"),
    [
        ("", "e1b683cc211604fe8fd8c4417e6a69f31380e0c61d4af22e93cc21e9257ffedd"),
        ("test_", "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"),
    ],
)
def test_optdigits_written_back_as_text_is_the_published_file(part, checksum):
    data = load("optdigits")._asdict()
    values = data[f"{part}inputs"].reshape(-1, 64) * 16  # exact: sixteenths
    rows = np.concatenate([values, data[f"{part}labels"][:, None]], axis=1).astype(int)
    text = "".join(",".join(map(str, row)) + "\n" for row in rows.tolist())
    assert hashlib.sha256(text.encode()).hexdigest() == checksum


def test_optdigits_fingerprint_stays():
    """Run directories hold it: a change here would refuse to resume every run made before."""
    assert fingerprint(load("optdigits")) == "b244bd62eb4d873f46e8b611bf933ccd23d1444676f8300d1b82645e0b642db5"


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"expected optdigits, mnist, fashion_mnist.* \.npz file .*, got 'minst'"):
        load("minst")
    with pytest.raises(DataNotFoundError, match=r"^x/minst: no such folder of images"):
        load("x/minst")


def test_class_names_of_a_named_set():
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert load("optdigits", class_names=names).class_names == names
    with pytest.raises(ValueError, match="class_names: expected 10, one a class, got 2"):
        load("optdigits", class_names=["a", "b"])
    with pytest.raises(
        ValueError, match=r"size: expected it for a folder of images only, got \(4, 4\) for 'optdigits'"
    ):
        load("optdigits", size=(4, 4))


def test_neither_import_nor_the_embedded_set_touches_tensorflow_or_tensorflow_datasets():
    code = (
        "import sys, bdal.datasets\n"
        "bdal.datasets.load('optdigits')\n"
        "print([m for m in ('tensorflow', 'tensorflow_datasets', 'requests', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["cifar10", "emnist/balanced", "imagenet", "SVHN"])
def test_other_data_sets_are_told_how_to_come_in(name):
    with pytest.raises((ValueError, DataNotFoundError), match=r"from_arrays\(.*numpy\.savez\(") as caught:
        load(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(("asked", "name"), [("MNIST", "mnist"), ("fashion-mnist", "fashion_mnist")])
def test_a_misspelt_data_set(asked, name):
    with pytest.raises(ValueError, match=f"got '{asked}' .did you mean '{name}'"):
        load(asked)
