"""PneumoniaMNIST: chest X-rays of children, 28 x 28, found in a folder of one's own and verified."""

import io
from pathlib import Path

import numpy as np

from bdal.datasets.archives import read_npz
from bdal.datasets.mnist import data_folders, find, verified
from bdal.errors import DataNotFoundError

FILES = {
    # as tensorflow-datasets has it on record for https://zenodo.org/records/10519652
    "pneumoniamnist.npz": "e1792d3f03751cb101e99f19a63b3c1941436c988665f47853417b05be250cd8",
    # the same arrays put together from two public copies, with the training rows ordered by the SHA-256 of their pixels
    "pneumoniamnist_reassembled.npz": "421c15d9f795602e5c6705501c2fb7c1e1691132666ab8dbb83a1ec9deca9d68",
}
ARRAYS = {
    "inputs": "train_images", "labels": "train_labels", "test_inputs": "test_images", "test_labels": "test_labels",
}  # fmt: skip


def read_pneumoniamnist(data_dir: str | Path | None) -> dict[str, np.ndarray]:
    """Bytes as in the file: the training part as inputs [4708, 28, 28] and labels, and the test part [624]."""
    folders = data_folders("pneumoniamnist", data_dir)
    paths = [path for file in FILES if (path := find(file, folders)) is not None]
    if not paths:
        raise DataNotFoundError(
            f"pneumoniamnist: pneumoniamnist.npz not found in {' or '.join(map(str, folders)) or 'any folder'}. Put "
            f"that file of https://zenodo.org/records/10519652 into a folder DIR/pneumoniamnist and pass data_dir=DIR "
            f"(shell: --data-dir DIR), or set BDAL_DATA_DIR=DIR"
        )
    content = verified(paths[0], FILES[paths[0].name])
    arrays = read_npz(paths[0], tuple(ARRAYS.values()), ("val_images", "val_labels"), content=io.BytesIO(content))
    return {ours: arrays[theirs].reshape(-1) if "labels" in ours else arrays[theirs] for ours, theirs in ARRAYS.items()}
