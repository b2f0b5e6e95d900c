"""MNIST, Fashion-MNIST and notMNIST: found or fetched, verified, decoded in file order, and cached.

tensorflow-datasets knows where the four original files of each are, what they must hash to, and downloads them. Its own
preparation step is left out on purpose: without TensorFlow it cannot unpack them, with it the records come out shuffled
by a hash of their keys (so pool indices would not be those of the files), and decoding 70,000 PNGs takes half a minute
where these files take a second.
"""

import gzip
import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdal.datasets.archives import read_npz
from bdal.datasets.arrays import KEYS
from bdal.environment import expanded
from bdal.errors import ConfigError, DataNotFoundError

FILES = {
    "inputs": "train-images-idx3-ubyte.gz",
    "labels": "train-labels-idx1-ubyte.gz",
    "test_inputs": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}
# The test part of notMNIST in MNIST's format, as https://github.com/davidflanagan/notMNIST-to-MNIST publishes it.
NOTMNIST = {
    "t10k-images-idx3-ubyte.gz": "70ae9e06201f2827e5b0a3781a3169d735dd2efc69996b9eeaee7f10ed4044d7",
    "t10k-labels-idx1-ubyte.gz": "1fa03836e01c862542f8eb83463bb951bebec6fcb3efa28dad748c6b38a9021b",
}


class Source(NamedTuple):
    url: str
    info: Any  # tensorflow-datasets' UrlInfo: size, checksum (SHA-256), filename


def read_mnist(name: str, data_dir: str | Path | None) -> dict[str, np.ndarray]:
    """Bytes as in the files: inputs [N, 28, 28], labels [N], test_inputs [T, 28, 28], test_labels [T]."""
    cache = _private_folder(cache_dir() / name)
    cached = cache / "arrays.npz"
    if cached.exists():  # what the files must hold is fixed by their checksums, so it does not matter where they lay
        try:
            if not (seal := cache / "arrays.sha256").exists() or seal.read_text() != _seal(name, cached):
                raise ValueError(f"{cached}: not as it was decoded: its SHA-256 is not that in {seal.name}")
            return read_npz(cached, KEYS)
        except (ValueError, OSError) as error:
            print(f"bdal: {error}; making it again", file=sys.stderr)
    folders = [*data_folders(name, data_dir), cache]
    sources = _sources(name)
    missing = [file for file in FILES.values() if find(file, folders) is None]
    if missing:
        _download(name, {file: sources[file] for file in missing}, folders)
    arrays = {}
    for key in KEYS:
        path = find(FILES[key], folders)
        assert path is not None
        arrays[key] = _decode(path, sources[FILES[key]].info.checksum)
    _write(cached, arrays)
    _put(cache / "arrays.sha256", lambda file: file.write(_seal(name, cached).encode()))
    print(f"bdal: {name} checked and decoded, kept in {cached}", file=sys.stderr)
    return arrays


def read_notmnist(data_dir: str | Path | None) -> dict[str, np.ndarray]:
    """Bytes as in the files: inputs [10000, 28, 28], labels [10000]; in `<data_dir>/notmnist/`, never downloaded."""
    folders = data_folders("notmnist", data_dir)[:1]  # MNIST's files have the same names
    paths = [find(file, folders) for file in NOTMNIST]
    if None in paths:
        missing = [file for file, path in zip(NOTMNIST, paths, strict=True) if path is None]
        raise DataNotFoundError(
            f"notmnist: {', '.join(missing)} not found in {folders[0] if folders else 'any folder'}. Put the two files "
            f"{', '.join(NOTMNIST)} of https://github.com/davidflanagan/notMNIST-to-MNIST into a folder DIR/notmnist "
            f"and pass data_dir=DIR (shell: --data-dir DIR), or set BDAL_DATA_DIR=DIR"
        )
    images, labels = (_decode(path, NOTMNIST[path.name]) for path in paths if path is not None)
    return {"inputs": images, "labels": labels}


def cache_dir() -> Path:
    """`BDAL_CACHE_DIR`, or `~/.cache/bdal`."""
    try:
        return expanded(os.environ.get("BDAL_CACHE_DIR") or "~/.cache/bdal")
    except ConfigError as error:
        raise ConfigError(f"BDAL_CACHE_DIR: {error}") from None


def _private_folder(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise OSError(
            f"{path}: cannot make this cache folder ({error}); set BDAL_CACHE_DIR to a writable one"
        ) from error
    return path


def data_folders(name: str, data_dir: str | Path | None) -> list[Path]:
    """Where the original files may lie: `<data_dir>/<name>/`, or `data_dir` itself."""
    chosen = data_dir or os.environ.get("BDAL_DATA_DIR")
    if not chosen:
        return []
    folder = expanded(chosen)
    if not folder.is_dir():
        origin = "data_dir" if data_dir else "BDAL_DATA_DIR"
        raise DataNotFoundError(f"{origin}: expected a folder that holds {name}/, got {folder}, which does not exist")
    return [folder / name, folder]


def find(file: str, folders: list[Path]) -> Path | None:
    return next((folder / file for folder in folders if (folder / file).is_file()), None)


def _sources(name: str) -> dict[str, Source]:
    """File name -> address and checksum, as tensorflow-datasets has them on record."""
    import tensorflow_datasets as tfds

    infos = tfds.builder_cls(name).url_infos
    assert infos is not None
    return {info.filename: Source(url, info) for url, info in infos.items()}


def _download(name: str, sources: dict[str, Source], folders: list[Path]) -> None:
    """The missing files into the last folder, the cache, by tensorflow-datasets, which verifies their checksums."""
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

    address = next(iter(sources.values())).url
    reason = _unreachable(address)  # asked first because tensorflow-datasets goes on trying for over three minutes
    if reason is None:
        print(f"bdal: downloading {name} from {os.path.dirname(address)}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=folders[-1], prefix="download-") as scratch:
            manager = tfds.download.DownloadManager(
                download_dir=scratch, url_infos={s.url: s.info for s in sources.values()}, dataset_name=name
            )
            try:
                paths = manager.download({file: source.url for file, source in sources.items()})
            except (requests.RequestException, tfds.download.DownloadError) as error:
                reason = f"{type(error).__name__}: {error}"
            except NonMatchingChecksumError as error:
                raise ValueError(" ".join(str(error).split())) from error
            else:
                for file, path in paths.items():
                    os.replace(path, folders[-1] / file)
    if reason is not None:
        raise DataNotFoundError(
            f"{name}: {', '.join(sources)} not found in {' or '.join(map(str, folders))}, and {address} could not be "
            f"fetched ({reason}). Put the four files {', '.join(FILES.values())} into a folder DIR/{name} and pass "
            f"data_dir=DIR (shell: --data-dir DIR), or set BDAL_DATA_DIR=DIR"
        )


def _unreachable(address: str, seconds: float = 5.0) -> str | None:
    """Why one small request gets no answer; None if it does. In a thread, because a name look-up has no time limit."""
    import requests

    outcome: list[str | None] = [f"no answer in {seconds:g} s"]

    def knock() -> None:
        try:
            requests.head(address, timeout=seconds).raise_for_status()
            outcome[0] = None
        except requests.RequestException as error:
            outcome[0] = type(error).__name__

    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0]


def verified(path: Path, *checksums: str) -> bytes:
    """The bytes of a file that has one of these SHA-256 sums; from one reading, as the file may change after it."""
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found not in checksums:
        raise ValueError(f"{path}: not the published file: expected SHA-256 {' or '.join(checksums)}, got {found}")
    return content


def _decode(path: Path, checksum: str) -> np.ndarray:
    """A gzipped idx file: two zeros, the type (8: bytes), the rank, a big-endian uint32 an axis, row-major values."""
    content = gzip.decompress(verified(path, checksum))
    rank = content[3]
    shape = np.frombuffer(content, ">u4", count=rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _seal(name: str, path: Path) -> str:
    """SHA-256 of the data set's name and the file's content."""
    digest = hashlib.sha256(f"{name}|".encode())
    with path.open("rb") as file:
        while block := file.read(2**24):
            digest.update(block)
    return digest.hexdigest()


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    _put(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def _put(path: Path, write: Callable[[Any], Any]) -> None:
    """Whole or not at all: a temporary name in the same folder, then a rename."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
