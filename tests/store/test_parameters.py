import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from bdal.committee import Committee, deep_ensemble
from bdal.store import parameters
from bdal.store.parameters import CorruptCheckpointError, exists, restore, restore_leaves, save


def network(width=5):
    return {"hidden": {"kernel": jnp.arange(4.0 * width).reshape(4, width), "bias": jnp.ones(width)}, "step": 3}


def assert_same(tree, expected):
    leaves, structure = jax.tree.flatten(tree)
    wanted, wanted_structure = jax.tree.flatten(expected)
    assert structure == wanted_structure
    for leaf, want in zip(leaves, wanted, strict=True):
        if not hasattr(want, "dtype"):
            assert type(leaf) is type(want)
            assert repr(leaf) == repr(want)
            continue
        assert isinstance(leaf, jax.Array) == isinstance(want, jax.Array)
        assert isinstance(leaf, np.generic) == isinstance(want, np.generic)
        assert (leaf.dtype, leaf.shape) == (want.dtype, want.shape)
        if jnp.issubdtype(want.dtype, jax.dtypes.prng_key):
            assert jax.random.key_impl(leaf) == jax.random.key_impl(want)
            leaf, want = jax.random.key_data(leaf), jax.random.key_data(want)
        assert np.asarray(leaf).tobytes() == np.asarray(want).tobytes()


# -- what goes in comes out --------------------------------------------------------------------------------------------

EVERYTHING = {
    "jax": [jnp.arange(6, dtype=dtype).reshape(2, 3) for dtype in (jnp.float32, jnp.bfloat16, jnp.int8, jnp.uint32)],
    "numpy": (np.array([1e-300, np.nan, -np.inf]), np.array([True, False]), np.ones(2, ml_dtypes.bfloat16)),
    "no axes, no elements": {"a": jnp.float32(2.5), "b": jnp.zeros((0, 3)), "c": np.array(7), "d": np.zeros((2, 0))},
    "scalars": [np.int32(4), np.float64(0.1), np.bool_(True), ml_dtypes.bfloat16(1.5)],
    "numbers": [5, -(2**80), 0.1, float("inf"), float("nan"), True, False, 1 - 2j],
    "keys": [
        jax.random.key(0), jax.random.split(jax.random.key(1), 3), jax.random.key(2, impl="rbg"),
        jax.random.split(jax.random.key(1), 0),
    ],
    "None": None,
    "odd / names.": {"é": jnp.ones(1), "": jnp.zeros(1), "a.b": jnp.ones(2), "a": {"b": jnp.zeros(2)}},
}  # fmt: skip


def test_everything_comes_back_as_it_was(tmp_path):
    save(tmp_path, EVERYTHING)
    assert_same(restore(tmp_path, EVERYTHING), EVERYTHING)
    leaves = restore_leaves(tmp_path)
    assert list(leaves) == [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(EVERYTHING)]
    assert_same(list(leaves.values()), jax.tree.leaves(EVERYTHING))


def test_other_byte_order_and_strides_are_the_same_numbers(tmp_path):
    array = np.arange(12, dtype=">f4").reshape(3, 4).T[::2]
    save(tmp_path, array)
    np.testing.assert_array_equal(restore(tmp_path, array.astype("<f4")), array)


def test_like_may_be_shapes_of_a_trace_with_a_sharding(tmp_path):
    tree = {"params": jnp.ones((2, 3)), "keys": jax.random.split(jax.random.key(0), 2), "round": 3}
    save(tmp_path, tree)
    assert_same(restore(tmp_path, jax.eval_shape(lambda: tree)), tree)
    mesh = jax.make_mesh((1,), ("members",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("members"))
    like = {**tree, "params": jax.ShapeDtypeStruct((2, 3), jnp.float32, sharding=sharding)}
    assert restore(tmp_path, like)["params"].sharding == sharding


def apply(params, key, x):
    return x @ params + (0.0 if key is None else jax.random.normal(key, (2,)))


def test_a_committee_votes_as_before(tmp_path):
    keys = jax.random.split(jax.random.key(1), 3)
    committee = deep_ensemble(apply, jax.random.normal(jax.random.key(0), (3, 4, 2)), keys)
    save(tmp_path, committee)
    again = restore(tmp_path, jax.eval_shape(lambda: committee))
    assert isinstance(again, Committee)
    np.testing.assert_array_equal(again.log_probs(jnp.eye(4)), committee.log_probs(jnp.eye(4)))


def test_a_relative_folder_is_resolved_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    write = parameters._write_arrays

    def write_from_elsewhere(path, arrays):
        monkeypatch.chdir(tmp_path / "elsewhere")
        write(path, arrays)

    monkeypatch.setattr(parameters, "_write_arrays", write_from_elsewhere)
    save("run/../runs/parameters", network())
    assert os.listdir(tmp_path / "elsewhere") == []
    assert_same(restore(tmp_path / "runs/parameters", network()), network())
    monkeypatch.chdir(tmp_path)
    assert_same(restore("runs/parameters", network()), network())


def test_the_manifest_has_the_digest_of_every_file(tmp_path):
    save(tmp_path, network())
    lines = (tmp_path / "manifest.json").read_text().splitlines()
    manifest, seal = json.loads("\n".join(lines[:-1])), lines[-1]
    assert hashlib.sha256("\n".join(lines[:-1]).encode()).hexdigest() == seal
    folder = tmp_path / manifest["save"]
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert len(files) > 3
    assert manifest["files"] == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in files.items()
    }
    assert manifest["leaves"]["['hidden']['kernel']"] == {"kind": "jax", "dtype": "float32", "shape": [4, 5]}


def test_one_save_before_is_kept_and_is_read_only_if_told(tmp_path):
    for step in range(4):
        save(tmp_path, {"step": step, "weights": jnp.full(3, step)})
        names = {"manifest.json", f"save_{step + 1:06d}", *(["previous.json", f"save_{step:06d}"] if step else [])}
        assert {path.name for path in tmp_path.iterdir()} == names
    like = {"step": 0, "weights": jnp.zeros(3, jnp.int32)}
    assert restore(tmp_path, like)["step"] == 3
    assert restore(tmp_path, like, previous=True)["step"] == 2
    assert restore_leaves(tmp_path, previous=True)["['weights']"].tolist() == [2, 2, 2]


def test_nothing_is_said_and_orbax_is_not_imported_with_the_module(tmp_path, capfd):
    save(tmp_path, network())
    restore(tmp_path, network())
    assert capfd.readouterr() == ("", "")
    code = "import sys, bdal.store.parameters; assert not {'orbax', 'tensorstore'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leaf", "found"),
    [
        ("text", "got str"),
        (None.__class__, "got type"),
        (np.array(["a"]), "got ndarray of dtype <U1"),
        (np.array([object()]), "got ndarray of dtype object"),
        (np.array(["2020"], "datetime64[Y]"), r"got ndarray of dtype datetime64\[Y\]"),
        (np.zeros(2, np.longdouble), "got ndarray of dtype float128"),
        (jax.ShapeDtypeStruct((2,), np.float32), "got ShapeDtypeStruct of dtype float32"),
    ],
)
def test_a_leaf_that_is_no_number_is_refused(tmp_path, leaf, found):
    with pytest.raises(TypeError, match=rf"^tree: \['a'\]\[1\]: expected an array of numbers, .*{found}$"):
        save(tmp_path / "parameters", {"a": [jnp.ones(1), leaf]})
    assert not (tmp_path / "parameters").exists()


@jax.tree_util.register_pytree_with_keys_class
class Twins:
    """Two leaves by one name."""

    def __init__(self, one, other):
        self.one, self.other = one, other

    def tree_flatten_with_keys(self):
        key = jax.tree_util.GetAttrKey("twin")
        return ((key, self.one), (key, self.other)), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)


def test_leaves_that_share_a_path_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected leaves with paths of their own, got 2 with 1 paths"):
        save(tmp_path, Twins(1, 2))


LIKES = {
    "width": (
        lambda: network(width=6),
        "['hidden']['bias']: expected float32 [6], saved float32 [5], "
        "['hidden']['kernel']: expected float32 [4, 6], saved float32 [4, 5]",
    ),
    "dtype": (
        lambda: {**network(), "hidden": {"kernel": jnp.zeros((4, 5), jnp.bfloat16), "bias": jnp.ones(5)}},
        "['hidden']['kernel']: expected bfloat16 [4, 5], saved float32 [4, 5]",
    ),
    "structure": (
        lambda: {"hidden": {"kernel": jnp.zeros((4, 5))}, "head": jnp.zeros(2), "step": 0},
        "expected and not saved: ['head']; saved and not expected: ['hidden']['bias']",
    ),
    "many": (
        lambda: {"hidden": network()["hidden"], "step": [0] * 5},
        "expected and not saved: ['step'][0], ['step'][1], ['step'][2] and 2 more; saved and not expected: ['step']",
    ),
    "a number of another kind": (lambda: {**network(), "step": 0.0}, "['step']: expected float, saved int"),
    "an array for a number": (lambda: {**network(), "step": jnp.ones(2)}, "['step']: expected float32 [2], saved int"),
    "no array": (lambda: {**network(), "step": "3"}, "['step']: expected str, saved int"),
    "a number for an array": (
        lambda: {**network(), "hidden": {"kernel": 0.0, "bias": jnp.ones(5)}},
        "['hidden']['kernel']: expected float, saved float32 [4, 5]",
    ),
}


@pytest.mark.parametrize("case", LIKES)
def test_another_tree_is_refused_with_both_shapes(tmp_path, case):
    like, found = LIKES[case]
    save(tmp_path, network())
    with pytest.raises(ValueError) as error:
        restore(tmp_path, like())
    assert str(error.value) == f"{tmp_path / 'save_000001'}: another tree was saved: {found}"
    assert not isinstance(error.value, CorruptCheckpointError)


def test_a_key_is_no_array_and_no_key_of_another_kind(tmp_path):
    save(tmp_path, jax.random.key(0))
    with pytest.raises(ValueError, match=r"the tree: expected uint32 \[2\], saved key<fry> \[\]$"):
        restore(tmp_path, jax.random.key_data(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"the tree: expected key<rbg> \[\], saved key<fry> \[\]$"):
        restore(tmp_path, jax.random.key(0, impl="rbg"))


def test_double_precision_is_not_rounded_in_silence(tmp_path):
    try:
        jax.config.update("jax_enable_x64", True)
        tree = jnp.ones(2) / 3
        save(tmp_path, tree)
        assert_same(restore(tmp_path, tree), tree)
    finally:
        jax.config.update("jax_enable_x64", False)
    like = jax.ShapeDtypeStruct((2,), np.float64)
    with pytest.raises(ValueError, match=r"expected float64 .*, got float32 .* need jax_enable_x64"):
        restore(tmp_path, like)


def test_nothing_saved(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert not exists(folder)
        with pytest.raises(FileNotFoundError, match="no parameters were saved here"):
            restore(folder, network())
    save(tmp_path, network())
    assert exists(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no parameters were saved here.*previous\.json"):
        restore(tmp_path, network(), previous=True)


# -- damage ------------------------------------------------------------------------------------------------------------


def files_of(folder: Path) -> list[Path]:
    """Every file that a save wrote, the largest first."""
    return sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: -path.stat().st_size)


def assert_corrupt(folder: Path, named: str):
    with pytest.raises(CorruptCheckpointError) as error:
        restore(folder, network())
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    assert named in str(error.value)
    with pytest.raises(CorruptCheckpointError):
        restore_leaves(folder)


def test_one_flipped_bit_anywhere_is_found(tmp_path):
    save(tmp_path, network())
    for path in files_of(tmp_path):
        content = path.read_bytes()
        for place in {int(len(content) * share) for share in (0.0, 0.2, 0.5, 0.8, 0.9999)} if content else ():
            damaged = bytearray(content)
            damaged[place] ^= 1 << place % 8
            path.write_bytes(damaged)
            assert_corrupt(tmp_path, str(path))
        path.write_bytes(content)
    assert_same(restore(tmp_path, network()), network())


@pytest.mark.parametrize("how", ["truncate", "empty", "extend", "delete", "link", "folder"])
def test_every_file_matters(tmp_path, how):
    save(tmp_path / "p", network())
    for path in files_of(tmp_path / "p"):
        content = path.read_bytes()
        if not content and how in ("truncate", "empty"):
            continue
        path.unlink()
        if how == "truncate":
            path.write_bytes(content[:-1])
        elif how == "empty":
            path.touch()
        elif how == "extend":
            path.write_bytes(content + b"\0")
        elif how == "link":
            (tmp_path / "copy").write_bytes(content)
            path.symlink_to(tmp_path / "copy")
        elif how == "folder":
            path.mkdir()
        assert_corrupt(tmp_path / "p", path.name)
        path.rmdir() if how == "folder" else path.unlink(missing_ok=True)
        path.write_bytes(content)
    assert_same(restore(tmp_path / "p", network()), network())


def test_a_file_too_many_is_found(tmp_path):
    save(tmp_path, network())
    extra = tmp_path / "save_000001" / "arrays" / "leaves" / "d" / "0123"
    extra.write_bytes(b"")
    assert_corrupt(tmp_path, "not written by this save: arrays/leaves/d/0123")


def test_two_saves_are_not_mixed_up(tmp_path):
    save(tmp_path, network())
    save(tmp_path, {**network(), "step": 4})
    (tmp_path / "save_000002").rename(tmp_path / "aside")
    (tmp_path / "save_000001").rename(tmp_path / "save_000002")
    assert_corrupt(tmp_path, "save_000002")


def test_the_save_before_a_damaged_one_is_whole_and_asked_for(tmp_path):
    save(tmp_path, network())
    save(tmp_path, {**network(), "step": 4})
    largest = files_of(tmp_path / "save_000002")[0]
    largest.write_bytes(largest.read_bytes()[:-1])
    assert_corrupt(tmp_path, "; previous=True reads the save before it")
    assert restore(tmp_path, network(), previous=True)["step"] == 3


def test_a_damaged_manifest_does_not_replace_a_whole_one(tmp_path):
    save(tmp_path, network())
    save(tmp_path, {**network(), "step": 4})
    (tmp_path / "manifest.json").write_text("{}")
    assert_corrupt(tmp_path, "manifest.json")
    save(tmp_path, {**network(), "step": 5})
    assert restore(tmp_path, network())["step"] == 5
    assert restore(tmp_path, network(), previous=True)["step"] == 3
    save(tmp_path, {**network(), "step": 6})
    assert sorted(path.name for path in tmp_path.glob("save_*")) == ["save_000003", "save_000004"]


HOSTILE = {
    "a path": {"format": 1, "save": "../../elsewhere", "files": {}, "leaves": {}},
    "a number": {"format": 1, "save": 1, "files": {}, "leaves": {}},
    "a list": [],
    "no files": {"format": 1, "save": "save_000001", "leaves": {}},
    "files that are none": {"format": 1, "save": "save_000001", "files": 3, "leaves": {}},
    "another format": {"format": 2, "save": "save_000001"},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_manifest_made_by_hand(tmp_path, case):
    save(tmp_path, network())
    text = json.dumps(HOSTILE[case])
    (tmp_path / "manifest.json").write_text(f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n")
    assert_corrupt(tmp_path, "manifest.json")


@pytest.mark.parametrize(
    "leaf",
    [
        {"kind": "key", "dtype": "key<fry>", "shape": [], "impl": "os.system"},
        {"kind": "jax", "dtype": "object", "shape": [1]},
        {"kind": "int", "value": "__import__('os')"},
        {"kind": "jax", "dtype": "float32", "shape": [4]},
        {},
    ],
)
def test_leaves_made_by_hand(tmp_path, leaf):
    save(tmp_path, network())
    *lines, _ = (tmp_path / "manifest.json").read_text().splitlines()
    manifest = json.loads("\n".join(lines))
    manifest["leaves"]["['hidden']['bias']"] = leaf
    text = json.dumps(manifest)
    (tmp_path / "manifest.json").write_text(f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n")
    with pytest.raises(CorruptCheckpointError, match="every file is as it was written, and still it cannot be read"):
        restore_leaves(tmp_path)


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    for name in ("notes.txt", "save_me", "save_1"):
        (tmp_path / name).write_text("mine")
    for _ in range(3):
        save(tmp_path, network())
    assert [(tmp_path / name).read_text() for name in ("notes.txt", "save_me", "save_1")] == ["mine"] * 3


# -- a full disk -------------------------------------------------------------------------------------------------------

FULL = """
import resource, signal, sys
import numpy as np
from bdal.store.parameters import restore, save
small, large = {"w": np.arange(3)}, {"w": np.random.default_rng(0).normal(size=2_000_000)}
save(sys.argv[1], small)
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if sys.argv[2] == "limited":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
try:
    save(sys.argv[1], large)
except OSError as error:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    print(error.errno)
assert restore(sys.argv[1], small)["w"].tolist() == [0, 1, 2]
save(sys.argv[1], small)
"""


def run(code: str, *arguments, **environment):
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 3 MB, and "full"; where mounting is forbidden, any folder, and "limited"."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path], capture_output=True)
    yield tmp_path, "limited" if mounted.returncode else "full"
    if not mounted.returncode:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_disk_that_is_full_leaves_what_was_saved(small_disk):
    folder, how = small_disk
    done = run(FULL, folder / "p", how)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{errno.ENOSPC if how == 'full' else errno.EFBIG}\n"
    assert sorted(path.name for path in (folder / "p").glob("save_*")) == ["save_000001", "save_000002"]


def test_no_room_for_a_large_file(tmp_path):
    done = run(FULL, tmp_path, "limited")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{errno.EFBIG}\n", "")


@pytest.mark.parametrize("name", ["mkdir", "_write_arrays", "_sync", "write_atomic"])
def test_no_room_at_any_step(tmp_path, monkeypatch, name):
    save(tmp_path, network())

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path if name == "mkdir" else parameters, name, full)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, {**network(), "step": 4})
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", "save_000001"}
    assert restore(tmp_path, network())["step"] == 3
    save(tmp_path, {**network(), "step": 5})
    assert restore(tmp_path, network())["step"] == 5


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(parameters, "_sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, network())
    assert list(tmp_path.iterdir()) == []


# -- kill -9 -----------------------------------------------------------------------------------------------------------

SAVES = """
import sys
import numpy as np
from bdal.store.parameters import exists, restore, save
like = {"step": 0, "weights": [np.zeros((100, 100)), np.zeros(7)]}
first = restore(sys.argv[1], like)["step"] + 1 if exists(sys.argv[1]) else 1
for step in range(first, first + int(sys.argv[2])):
    save(sys.argv[1], {"step": step, "weights": [np.full((100, 100), step / 3), np.full(7, step / 3)]})
    print(step, flush=True)
"""
LIKE = {"step": 0, "weights": [np.zeros((100, 100)), np.zeros(7)]}


def step_of(folder: Path, previous: bool = False) -> int:
    """The step of the last save, 0 if there is none; every array is of that step."""
    if not exists(folder):
        return 0
    tree = restore(folder, LIKE, previous=previous)
    assert all((leaf == tree["step"] / 3).all() for leaf in tree["weights"])
    return tree["step"]


POINTS = {  # and the step that is read after the second save died there
    "parameters_written:2": 1, "before_previous.json:1": 1, "after_previous.json:1": 1, "before_manifest.json:2": 1,
    "after_manifest.json:2": 2, "parameters_renamed:2": 2, "parameters_written:1": 0,
}  # fmt: skip
FEW = ["parameters_written:2", "parameters_renamed:2", "parameters_written:1"]


@pytest.mark.parametrize(
    "point", [pytest.param(name, marks=[] if name in FEW else pytest.mark.slow) for name in POINTS]
)
def test_killed_at_a_point(tmp_path, point):
    done = run(SAVES, tmp_path, 2, BDAL_FAILPOINT=point)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    assert done.stdout == ("" if point.endswith("written:1") else "1\n")
    assert step_of(tmp_path) == POINTS[point]
    if not POINTS[point]:
        with pytest.raises(CorruptCheckpointError, match="a first save that was interrupted, or a deleted file"):
            restore(tmp_path, LIKE)
    save(tmp_path, {"step": 9, "weights": [np.full((100, 100), 3.0), np.full(7, 3.0)]})
    assert step_of(tmp_path) == 9
    names = {"manifest.json", "previous.json", "save_"} if POINTS[point] else {"manifest.json", "save_"}
    assert {path.name[: 5 if path.is_dir() else None] for path in tmp_path.iterdir()} == names
    if POINTS[point]:
        assert step_of(tmp_path, previous=True) == POINTS[point]
    assert len(list(tmp_path.glob("save_*"))) == len(names) - 1


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_at_any_moment(tmp_path, kills):
    moments, step = np.random.default_rng(kills), 0
    for _ in range(kills):
        with subprocess.Popen(
            [sys.executable, "-c", SAVES, tmp_path, "100"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            said = int(process.stdout.readline())
            assert said == step + 1
            time.sleep(moments.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            rest, errors = process.communicate()
        assert (process.returncode, errors) == (-signal.SIGKILL, "")
        said = int((rest.split() or [said])[-1])
        step = step_of(tmp_path)
        assert step in (said, said + 1)
        assert len(list(tmp_path.glob("save_*"))) <= 4
