"""Parameters on disk: arrays by orbax, and a manifest with the SHA-256 of every file, which is what makes a save count.

    FOLDER/manifest.json        the leaves of the tree, and size and SHA-256 of the files of the last save
    FOLDER/previous.json        the same of the save before it
    FOLDER/save_000007/         what orbax wrote, as one flat dictionary {path in the tree: array}

A save writes a new `save_*` beside the others, and counts from the moment that its manifest is renamed into its place.
A process that is killed leaves the last save or the new one, whole; what else it leaves is deleted by the next save.
Orbax notices neither a flipped bit nor two writers: the digests find the one, the lock of the run forbids the other.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdal.store.durable import check_own, failpoint, sync_folder, write_atomic

FORMAT = 1  # of the manifest
NUMBERS = {"bool": bool, "int": int, "float": float, "complex": complex}
DTYPES = {  # that orbax writes and reads as they are
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "bfloat16", "float32",
    "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "int4",
}  # fmt: skip


class CorruptCheckpointError(ValueError):
    """A file of saved parameters that is not as it was written."""


def save(folder: str | Path, tree: Any) -> None:
    """Write a tree of arrays to `folder`, whole or not at all; the save before this one is kept beside it.

    Args:
      folder: made if it is not there. It is for these files alone, and for one process at a time.
      tree: a pytree of JAX and NumPy arrays, typed PRNG keys, NumPy scalars and Python numbers; such as a `Committee`,
        whose function is not saved, or `{"round": 3, "params": params}`.

    Raises:
      TypeError: a leaf that is none of these; the message names its path in the tree.
      OSError: it cannot be written, for example because the disk is full. What was saved before is as it was.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> save(folder, {"round": 3, "weights": jnp.ones((2, 2)), "key": jax.random.key(0)})
    >>> tree = restore(folder, {"round": 0, "weights": jnp.zeros((2, 2)), "key": jax.random.key(1)})
    >>> tree["round"], tree["weights"].tolist(), bool(tree["key"] == jax.random.key(0))
    (3, [[1.0, 1.0], [1.0, 1.0]], True)
    """
    folder = _absolute(folder)
    check_own(folder)
    leaves, arrays = {}, {}
    for path, leaf in _leaves(tree).items():
        leaves[path], array = _described(path, leaf)
        if array is not None and array.size:  # orbax refuses arrays of no elements
            arrays[path] = array
    folder.mkdir(parents=True, exist_ok=True)
    _clean(folder)
    number = 1 + max([0, *(int(path.name[5:]) for path in folder.glob("save_*") if _SAVE.fullmatch(path.name))])
    new = folder / f"save_{number:06d}"
    try:
        new.mkdir()
        if arrays:
            _write_arrays(new / "arrays", arrays)
        _sync(new)
        files = {name: _digest(new / name) for name in _files(new)}
        failpoint("parameters_written")
        manifest = json.dumps({"format": FORMAT, "save": new.name, "files": files, "leaves": leaves}, indent=1)
        seal = hashlib.sha256(manifest.encode()).hexdigest()
        with contextlib.suppress(FileNotFoundError, ValueError):  # a damaged one does not replace a whole one
            _parsed(folder / "manifest.json")
            write_atomic(folder / "previous.json", (folder / "manifest.json").read_bytes())
        write_atomic(folder / "manifest.json", f"{manifest}\n{seal}\n")
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    failpoint("parameters_renamed")
    _clean(folder)


def restore(folder: str | Path, like: Any, *, previous: bool = False) -> Any:
    """The tree that was last saved, once every file is known to be as it was written.

    Args:
      folder: where `save` wrote.
      like: a tree of the same structure, shapes and dtypes: arrays, or `jax.ShapeDtypeStruct`s as `jax.eval_shape`
        gives them. Where a leaf of it has a sharding, the restored array gets it.
      previous: the save before the last one, for when the last one is damaged. It is never taken unasked.

    Returns:
      A tree like `like`. Each leaf is of the kind that was saved: JAX array, NumPy array or scalar, key, number.

    Raises:
      FileNotFoundError: nothing was saved here.
      CorruptCheckpointError: a file is missing, or changed, or was not written by `save`.
      ValueError: `like` has another structure, or a leaf of another shape or dtype; both are shown.
    """
    saved = _manifest(_absolute(folder), previous)
    expected = _leaves(like)
    _check_like(saved["folder"], expected, saved["leaves"])
    leaves = _read(saved)
    ordered = [_place(leaves[path], leaf) for path, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), ordered)


def restore_leaves(folder: str | Path, *, previous: bool = False) -> dict[str, Any]:
    """What `restore` reads, without a tree to compare it with: `{path in the tree: leaf}`.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> save(folder, {"params": [np.zeros(2), np.int32(7)]})
    >>> restore_leaves(folder)
    {"['params'][0]": array([0., 0.]), "['params'][1]": np.int32(7)}
    """
    return _read(_manifest(_absolute(folder), previous))


def exists(folder: str | Path) -> bool:
    """Whether a save was completed in `folder`; whether it is still as it was written, `restore` finds out."""
    return (Path(folder) / "manifest.json").exists()


# -- leaves ----------------------------------------------------------------------------------------------------------


def _leaves(tree: Any) -> dict[str, Any]:
    """The leaves by their path, in the order of the tree."""
    pairs = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
    leaves = dict(pairs)
    if len(leaves) < len(pairs):
        raise ValueError(f"tree: expected leaves with paths of their own, got {len(pairs)} with {len(leaves)} paths")
    return leaves


def can_be_saved(tree: Any) -> bool:
    """Whether every leaf is one that `save` takes.

    >>> can_be_saved({"weights": jnp.ones(2), "round": 3}), can_be_saved({"model": object()})
    (True, False)
    """
    try:
        for path, leaf in _leaves(tree).items():
            _described(path, leaf)
    except TypeError:
        return False
    return True


def _described(path: str, leaf: Any) -> tuple[dict[str, Any], np.ndarray | None]:
    """A leaf for the manifest, and its numbers for orbax; a Python number is written in the manifest itself."""
    if type(leaf) in NUMBERS.values():
        return {"kind": type(leaf).__name__, "value": repr(leaf)}, None
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        array = np.asarray(jax.random.key_data(leaf))
        impl = str(jax.random.key_impl(leaf))
        return {"kind": "key", "dtype": str(leaf.dtype), "shape": list(leaf.shape), "impl": impl}, array
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic) or leaf.dtype.name not in DTYPES:
        raise TypeError(
            f"tree: {path or 'the tree'}: expected an array of numbers, a PRNG key or a number, got "
            f"{type(leaf).__name__}{f' of dtype {leaf.dtype}' if hasattr(leaf, 'dtype') else ''}"
        )
    array = np.asarray(leaf)
    kind = "jax" if isinstance(leaf, jax.Array) else "scalar" if isinstance(leaf, np.generic) else "numpy"
    return {"kind": kind, "dtype": array.dtype.name, "shape": list(array.shape)}, array


def _rebuilt(described: dict[str, Any], array: np.ndarray | None) -> Any:
    """The leaf that `_described` took apart."""
    kind = described["kind"]
    if kind in NUMBERS:
        return described["value"] == "True" if kind == "bool" else NUMBERS[kind](described["value"])
    leaf: Any
    if kind == "key":
        if array is None:  # of no elements
            one = jax.random.key_data(jax.random.key(0, impl=described["impl"]))
            array = np.zeros((*described["shape"], *one.shape), one.dtype)
        leaf = jax.random.wrap_key_data(jnp.asarray(array), impl=described["impl"])
    else:
        if array is None:
            array = np.zeros(described["shape"], jnp.dtype(described["dtype"]))
        leaf = jnp.asarray(array) if kind == "jax" else array
    if str(leaf.dtype) != described["dtype"] or list(leaf.shape) != described["shape"]:
        raise ValueError(
            f"expected {_shown(described)}, got {leaf.dtype} {list(leaf.shape)} (64 bits need jax_enable_x64)"
        )
    return leaf[()] if kind == "scalar" else leaf


def _place(leaf: Any, like: Any) -> Any:
    sharding = getattr(like, "sharding", None)
    return leaf if sharding is None or not isinstance(leaf, jax.Array) else jax.device_put(leaf, sharding)


def _check_like(folder: Path, expected: dict[str, Any], leaves: dict[str, Any]) -> None:
    missing = [path or "the tree" for path in expected if path not in leaves]
    unexpected = [path or "the tree" for path in leaves if path not in expected]
    if missing or unexpected:
        parts = [(missing, "expected and not saved"), (unexpected, "saved and not expected")]
        raise ValueError(f"{folder}: another tree was saved: {'; '.join(_first(*part) for part in parts if part[0])}")
    differing = [
        f"{path or 'the tree'}: expected {_shown(_like(like))}, saved {_shown(leaves[path])}"
        for path, like in expected.items()
        if not _fits(_like(like), leaves[path])
    ]
    if differing:
        raise ValueError(f"{folder}: another tree was saved: {_first(differing)}")


def _like(leaf: Any) -> dict[str, Any]:
    if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
        return {"kind": type(leaf).__name__}
    return {"kind": "array", "dtype": str(leaf.dtype), "shape": list(leaf.shape)}


def _fits(like: dict[str, Any], described: dict[str, Any]) -> bool:
    if "dtype" in like and "dtype" in described:
        return (like["dtype"], like["shape"]) == (described["dtype"], described["shape"])
    if "dtype" in like:  # a number, which `jax.eval_shape` shows as an array without axes
        kinds = {"bool": np.bool_, "int": np.integer, "float": np.floating, "complex": np.complexfloating}
        dtype = jnp.dtype(like["dtype"]) if like["dtype"] in DTYPES else np.dtype(object)
        return like["shape"] == [] and jnp.issubdtype(dtype, kinds[described["kind"]])
    return like["kind"] == described["kind"]


def _shown(described: dict[str, Any]) -> str:
    if "dtype" not in described:
        return described["kind"]
    return f"{described['dtype']} {list(described['shape'])}"


def _first(texts: list[str], what: str = "") -> str:
    more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
    return f"{what}{': ' if what else ''}{', '.join(texts[:3])}{more}"


# -- files -----------------------------------------------------------------------------------------------------------

_SAVE = re.compile(r"save_\d{6,}")
_LEFT = re.compile(r"save_\d{6,}|\.(manifest|previous)\.json\.\d+\.tmp")


def _absolute(folder: str | Path) -> Path:
    return Path(os.path.abspath(folder))  # orbax wants it; a link stays a link


def _clean(folder: Path) -> None:
    """Delete what no manifest names: older saves, and what killed processes left. Nothing else in the folder."""
    manifests = [folder / name for name in ("manifest.json", "previous.json") if (folder / name).exists()]
    try:
        named = {_parsed(manifest)["save"] for manifest in manifests}
    except ValueError:
        return  # damaged: what it named is kept
    for path in folder.iterdir():
        if _LEFT.fullmatch(path.name) and path.name not in named:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _manifest(folder: Path, previous: bool) -> dict[str, Any]:
    """The manifest, once it and every file it names are known to be as they were written."""
    path = folder / ("previous.json" if previous else "manifest.json")
    if not path.exists():
        left = sorted(left.name for left in folder.glob("*") if _LEFT.fullmatch(left.name)) if folder.is_dir() else []
        if left and not previous:
            raise CorruptCheckpointError(
                f"{path}: not there, beside {', '.join(left[:3])}: a first save that was interrupted, or a deleted file"
            )
        raise FileNotFoundError(errno.ENOENT, "no parameters were saved here", str(path))
    advice = "" if previous or not (folder / "previous.json").exists() else "; previous=True reads the save before it"
    try:
        manifest = _parsed(path)
        _check_files(folder / manifest["save"], manifest["files"])
    except ValueError as error:
        raise CorruptCheckpointError(f"{error}{advice}") from None
    except (KeyError, TypeError, AttributeError):
        raise CorruptCheckpointError(f"{path}: expected what `save` writes, found other JSON{advice}") from None
    return {**manifest, "folder": folder / manifest["save"]}


def _parsed(path: Path) -> dict[str, Any]:
    _check_regular(path)
    content = path.read_bytes()
    text = content[:-1].rpartition(b"\n")[0]
    if content != text + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n":
        raise ValueError(f"{path}: not as it was written: its last line is not the SHA-256 of the lines before it")
    manifest = json.loads(text)
    if not isinstance(manifest, dict):
        raise ValueError(f"{path}: expected one JSON object, found a {type(manifest).__name__}")
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT}, found {manifest.get('format')} (a newer bdal?)")
    if not _SAVE.fullmatch(manifest["save"]):
        raise ValueError(f"{path}: expected the name of a save in this folder, found {manifest['save']!r}")
    return manifest


def _check_files(folder: Path, files: dict[str, Any]) -> None:
    found = _files(folder)
    if missing := sorted(files.keys() - set(found)):
        raise ValueError(f"{folder}: {_first(missing, 'missing')}")
    if unexpected := sorted(set(found) - files.keys()):
        raise ValueError(f"{folder}: {_first(unexpected, 'not written by this save')}")
    for name in found:
        now, then = _digest(folder / name), files[name]
        for what in ("bytes", "sha256"):
            if now[what] != then[what]:
                raise ValueError(f"{folder / name}: not as it was written: {what} {then[what]} != {now[what]}")


def _files(folder: Path) -> list[str]:
    """The files below a folder, by name; links are listed, not followed."""
    names = []
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        names += [os.path.relpath(os.path.join(parent, name), folder) for name in files + links]
    return sorted(name.replace(os.sep, "/") for name in names)


def _digest(path: Path) -> dict[str, Any]:
    _check_regular(path)
    with path.open("rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _check_regular(path: Path) -> None:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{path}: expected a file, found a link, a folder or a device")


def _sync(folder: Path) -> None:
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            with open(os.path.join(parent, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))
    sync_folder(folder.parent)


# -- orbax -----------------------------------------------------------------------------------------------------------


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    from orbax.checkpoint import v1 as ocp  # half a second

    try:
        with _quiet():
            ocp.save_checkpointables(str(path), {"leaves": arrays})
    except ValueError as error:  # TensorStore's, of several lines; its code is the system's
        if found := re.search(r"os_error_code='(\d+)'", str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from None
        raise


def _read(saved: dict[str, Any]) -> dict[str, Any]:
    from orbax.checkpoint import v1 as ocp

    arrays, folder = {}, saved["folder"]
    try:
        if (folder / "arrays").exists():
            with _quiet():
                arrays = ocp.load_checkpointables(str(folder / "arrays"))["leaves"]
        return {path: _rebuilt(leaf, arrays.get(path)) for path, leaf in saved["leaves"].items()}
    except MemoryError:  # no fault of the files
        raise
    except Exception as error:
        first = str(error).strip().split("\n")[0][:200]
        raise CorruptCheckpointError(
            f"{folder}: every file is as it was written, and still it cannot be read: {type(error).__name__}: {first}"
        ) from error


@contextlib.contextmanager
def _quiet():
    """What orbax raises it also logs, once from each of its threads."""
    logger = logging.getLogger("absl")

    def of_others(record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    logger.addFilter(of_others)
    try:
        yield
    finally:
        logger.removeFilter(of_others)
