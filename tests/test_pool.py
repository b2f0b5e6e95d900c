"""`map_pool` is one call of the function, however the pool is cut; a labelled set refuses what does not belong."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.errors import CapacityError, LabelError
from bdal.pool import ABSTAIN, LabelledSet, check_answers, check_labels, extend, map_pool
from tests.compilations import count_compilations

N, D = 23, 4
INPUTS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
STATE = {"weights": jnp.asarray(np.random.default_rng(1).normal(size=(D, 3)), jnp.float32), "scale": 2.0}


def predict(state, x):
    logits = state["scale"] * x @ state["weights"]
    return {"logits": logits, "best": logits.argmax(-1), "input": (x,)}


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


# -- map_pool ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 3, 7, N - 1, N, N + 1, 1000])
@pytest.mark.parametrize("where", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_equals_one_call(chunk_size, where):
    found = map_pool(predict, STATE, where(INPUTS), chunk_size=chunk_size)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found))
    assert_same(found, predict(STATE, jnp.asarray(INPUTS)))


def sum_of_parts(state, parts):
    return state * (parts["a"].sum((1, 2)) + parts["b"])


@pytest.mark.parametrize("chunk_size", [1, 5, N, 64])
@pytest.mark.parametrize("kinds", ["host", "device", "both"])
def test_inputs_may_be_a_pytree(chunk_size, kinds):
    a, b = np.arange(N * 6.0, dtype=np.float32).reshape(N, 2, 3), np.arange(N)
    inputs = {"a": a if kinds != "device" else jnp.asarray(a), "b": b if kinds == "host" else jnp.asarray(b)}
    found = map_pool(sum_of_parts, 2.0, inputs, chunk_size=chunk_size)
    np.testing.assert_allclose(found, 2 * (a.sum((1, 2)) + b))


@pytest.mark.parametrize("where", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_an_empty_pool_gives_empty_results_of_the_right_kind(where):
    found = map_pool(predict, STATE, where(INPUTS[:0]), chunk_size=4)
    assert found["logits"].shape == (0, 3)
    assert found["input"][0].shape == (0, D)
    assert found["best"].dtype == jnp.int32


@pytest.mark.parametrize("chunk_size", [4, N])
@pytest.mark.parametrize("where", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_under_jit(chunk_size, where):
    inputs = where(INPUTS)
    found = jax.jit(lambda state: map_pool(predict, state, inputs, chunk_size=chunk_size))(STATE)
    assert_same(found, predict(STATE, jnp.asarray(INPUTS)))
    if where is jnp.asarray:
        found = jax.jit(lambda state, x: map_pool(predict, state, x, chunk_size=chunk_size))(STATE, inputs)
        assert_same(found, predict(STATE, inputs))


@pytest.mark.parametrize("chunk_size", [4, N])
def test_under_vmap(chunk_size):
    scales = jnp.array([1.0, -2.0, 0.5])
    states = {"weights": STATE["weights"], "scale": scales}
    axes = {"weights": None, "scale": 0}
    one = lambda state: map_pool(predict, state, jnp.asarray(INPUTS), chunk_size=chunk_size)  # noqa: E731
    found = jax.vmap(one, in_axes=(axes,))(states)
    for s, scale in enumerate(scales):
        expected = predict({"weights": STATE["weights"], "scale": scale}, jnp.asarray(INPUTS))
        assert_same(jax.tree.map(lambda leaf, s=s: leaf[s], found), expected)
    pools = jnp.stack([jnp.asarray(INPUTS), -jnp.asarray(INPUTS)])
    found = jax.vmap(lambda pool: map_pool(predict, STATE, pool, chunk_size=chunk_size))(pools)
    assert_same(found["logits"][1], -predict(STATE, jnp.asarray(INPUTS))["logits"])


@pytest.mark.parametrize("where", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_a_function_is_traced_once_for_all_calls(where):
    traces = []

    def fn(state, x):
        traces.append(x.shape)
        return (state * x).sum(-1)

    first, second = where(INPUTS), where(INPUTS[::-1].copy())
    map_pool(fn, jnp.float32(1), first, chunk_size=5)
    assert set(traces) == {(5, D)}
    before = len(traces)
    with count_compilations() as compilations:
        for scale in (2, 3, 4):
            found = map_pool(fn, jnp.float32(scale), second, chunk_size=5)
    assert compilations == []
    assert len(traces) == before
    np.testing.assert_allclose(found, 4 * INPUTS[::-1].sum(-1), rtol=1e-5)
    with count_compilations() as compilations:
        map_pool(lambda state, x: fn(state, x), jnp.float32(1), first, chunk_size=5)
    assert compilations  # a new function object is a new program: the counter sees it


class Recorder(np.ndarray):
    """Host memory that writes down which rows are read of it."""

    reads: list

    def __getitem__(self, rows):
        read = np.arange(len(self))[rows]
        self.reads.append((read.min(), read.max() + 1))
        return np.asarray(self)[rows]


@pytest.mark.parametrize("with_mesh", [False, True])
def test_a_host_pool_is_sent_a_chunk_at_a_time(with_mesh):
    pool = np.arange(40.0, dtype=np.float32).reshape(20, 2).view(Recorder)
    pool.reads, seen = [], []

    def fn(state, x):
        seen.append(x.shape)
        return state * x[:, 0]

    mesh = jax.make_mesh((1,), ("pool",)) if with_mesh else None
    found = map_pool(fn, jnp.float32(2), pool, chunk_size=6, mesh=mesh)
    last = (18, 20) if with_mesh else (14, 20)
    assert pool.reads == [(0, 6), (6, 12), (12, 18), last]
    assert set(seen) == {(6, 2)}
    np.testing.assert_array_equal(found, 4 * np.arange(20.0))


class Model:
    """A model of another library: no pytree, and it computes with NumPy."""

    def __init__(self):
        self.batches = []

    def predict(self, x):
        self.batches.append(x.shape)
        return np.linalg.norm(np.asarray(x), axis=-1)


@pytest.mark.parametrize("where", [np.asarray, jnp.asarray], ids=["host", "device"])
@pytest.mark.parametrize("chunk_size", [7, 100])
def test_a_state_that_is_no_pytree_of_arrays_is_called_on_the_host(where, chunk_size):
    model = Model()
    found = map_pool(lambda model, x: {"norm": model.predict(x)}, model, where(INPUTS), chunk_size=chunk_size)
    np.testing.assert_allclose(found["norm"], np.linalg.norm(INPUTS, axis=-1), rtol=1e-6)
    assert set(model.batches) == {(min(chunk_size, N), D)}
    empty = map_pool(lambda model, x: {"norm": model.predict(x)}, model, where(INPUTS[:0]), chunk_size=chunk_size)
    assert empty["norm"].shape == (0,)


@pytest.mark.parametrize(
    ("inputs", "chunk_size", "message"),
    [
        ({"a": np.zeros((3, 2)), "b": np.zeros(4)}, 2, r"one leading axis N, got shapes \[\(3, 2\), \(4,\)\]"),
        ({"a": np.zeros((3, 2)), "b": np.float32(1)}, 2, r"one leading axis N, got shapes \[\(3, 2\), \(\)\]"),
        ([[1.0, 2.0], [3.0, 4.0]], 2, r"inputs: expected JAX or NumPy arrays \[N, ...\], got a Python list"),
        ({}, 2, r"one leading axis N, got shapes \[\]"),
        (np.zeros((3, 2)), 0, r"chunk_size must be at least 1, got 0"),
    ],
)
def test_misuse(inputs, chunk_size, message):
    with pytest.raises((TypeError, ValueError), match=message):
        map_pool(lambda state, x: x, None, inputs, chunk_size=chunk_size)


SHARDED = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType
from bdal import deep_ensemble, make_strategy, map_pool, query

jax.config.update("jax_numpy_rank_promotion", "raise")
inputs = np.random.default_rng(0).normal(size=(37, 3)).astype(np.float32)
shapes = []

def fn(state, x):
    shapes.append(x.shape)
    return {"sum": (x * state[None, :]).sum(-1), "row": x}

expected = fn(jnp.arange(3.0), jnp.asarray(inputs))
committee = deep_ensemble(lambda w, key, x: (x @ w, x), jax.random.normal(jax.random.key(0), (5, 3, 4)))
one = lambda name, mesh: query(
    jax.random.key(1), make_strategy(name), committee, inputs, query_size=4, chunk_size=10, mesh=mesh
).indices.tolist()
names = ["k_center"]
unsharded = {name: one(name, None) for name in names}
facts = {"devices": len(jax.devices()), "wrong": []}
for axis_type in AxisType.Auto, AxisType.Explicit:
    for size, axes in ((8,), ("pool",)), ((2, 4), ("a", "b")):
        mesh = jax.make_mesh(size, axes, axis_types=(axis_type,) * len(axes))
        for pool in inputs, jnp.asarray(inputs):
            for chunk_size, rounded in (1, 8), (10, 16), (1000, 40):
                shapes.clear()
                found = map_pool(fn, jnp.arange(3.0), pool, chunk_size=chunk_size, mesh=mesh)
                same = all(np.allclose(found[name], expected[name], atol=1e-6) for name in expected)
                if not same or not set(shapes) <= {(rounded, 3)}:
                    facts["wrong"].append([str(mesh), type(pool).__name__, chunk_size, shapes])
facts["wrong"] += [[str(mesh), name] for name in names if one(name, mesh) != unsharded[name]]
print(json.dumps(facts))
"""


def test_a_mesh_of_eight_devices_gives_what_one_device_gives():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"devices": 8, "wrong": []}


# -- LabelledSet ------------------------------------------------------------------------------------------------------


def two_labelled(capacity=4):
    return extend(LabelledSet.empty(capacity), [7, 2], [0, 1], num_points=10, num_classes=3)


def test_extend_appends_and_leaves_the_old_set_alone():
    before = two_labelled()
    after = extend(before, np.array([9]), np.array([2], np.uint8), num_points=10, num_classes=3)
    assert after.indices.tolist() == [7, 2, 9, -1]
    assert after.labels.tolist() == [0, 1, 2, 0]
    assert int(after.count) == 3
    assert before.indices.tolist() == [7, 2, -1, -1]
    assert before.capacity == after.capacity == 4
    assert all(part.dtype == np.int32 for part in after)


def test_extend_takes_nothing_and_a_set_on_the_device():
    labelled = two_labelled()
    same = extend(labelled, [], [], num_points=10, num_classes=3)
    assert same.indices.tolist() == labelled.indices.tolist()
    assert int(same.count) == 2
    on_device = jax.tree.map(jnp.asarray, labelled)
    assert extend(on_device, [1], [0], num_points=10).indices.tolist() == [7, 2, 1, -1]


def test_beyond_capacity_is_refused_and_nothing_is_overwritten():
    labelled = two_labelled()
    with pytest.raises(CapacityError, match=r"at most 4 labels \(its capacity\), got 2 \+ 3 new"):
        extend(labelled, [1, 3, 4], [2, 2, 2], num_points=10)
    assert labelled.indices.tolist() == [7, 2, -1, -1]
    assert labelled.labels.tolist() == [0, 1, 0, 0]
    full = extend(labelled, [1, 3], [2, 2], num_points=10)
    with pytest.raises(CapacityError):
        extend(full, [4], [2], num_points=10)
    assert full.indices.tolist() == [7, 2, 1, 3]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], r"a class in \[0, 3\), got 3 for pool point 5"),
        ([-1, 0], r"a class in \[0, 3\), got -1 for pool point 4"),
        ([0.0, 1.0], r"integer classes, got 0\.0 for pool point 4 \(dtype float64\)"),
        ([0, float("nan")], r"integer classes, got nan for pool point 5 \(dtype float64\)"),
        ([0, True], r"integer classes, got True for pool point 5"),
        ([0, [1, 2]], r"integer classes, got \[1, 2\] for pool point 5 \(dtype object\)"),
        ([0, None], r"integer classes, got None for pool point 5 \(dtype object\)"),
        ([0, "1"], r"integer classes, got '1' for pool point 5"),
        ([True, False], r"integer classes, got True for pool point 4 \(dtype bool\)"),
        ([0], r"one for each of the 2 queried points 4, 5, got shape \(1,\)"),
        ([0, 1, 2], r"one for each of the 2 queried points 4, 5, got shape \(3,\)"),
        ([[0], [1]], r"got shape \(2, 1\)"),
        (None, r"points 4, 5, got shape \(\)"),
    ],
)
def test_a_label_that_is_no_class_is_refused_by_its_pool_point(labels, message):
    with pytest.raises(LabelError, match=message):
        extend(two_labelled(), [4, 5], labels, num_points=10, num_classes=3)


def test_without_the_number_of_classes_only_impossible_labels_are_refused():
    assert check_labels([10**6], [0]).tolist() == [10**6]
    for wrong in (-1, 2**31 + 1):
        with pytest.raises(LabelError, match=r"a class in \[0, \.\.\.\), got"):
            check_labels([wrong], [0])


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([4, 4], "not labelled yet, got 4 again"),
        ([3, 2], "not labelled yet, got 2 again"),
        ([3, 10], r"pool indices in \[0, 10\), got 10"),
        ([-1, 3], r"pool indices in \[0, 10\), got -1"),
        ([3.0, 4.0], r"expected integers \[Q\], got float64"),
        ([[3], [4]], r"expected integers \[Q\], got int64 of shape \(2, 1\)"),
    ],
)
def test_an_index_that_cannot_be_labelled_is_refused(indices, message):
    labelled = two_labelled()
    with pytest.raises(ValueError, match=message):
        extend(labelled, indices, [0, 0], num_points=10)
    assert labelled.indices.tolist() == [7, 2, -1, -1]


def test_negative_capacity_is_refused():
    with pytest.raises(ValueError, match="capacity: expected at least 0, got -1"):
        LabelledSet.empty(-1)
    assert LabelledSet.empty(0).capacity == 0


# -- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_is_a_class_or_an_abstention():
    assert ABSTAIN < 0
    assert np.iinfo(np.int32).min <= ABSTAIN  # an int32 label array holds it
    for answer in ([0, ABSTAIN, 2], np.array([0, ABSTAIN, 2], np.int32), np.array([0, ABSTAIN, 2])):
        found = check_answers(answer, [4, 5, 6], 3)
        assert found.tolist() == [0, ABSTAIN, 2]
        assert found.dtype == np.int32
    assert check_answers([ABSTAIN] * 2, [4, 5]).tolist() == [ABSTAIN] * 2
    assert check_answers([], []).tolist() == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([0, -1, ABSTAIN], r"expected a class in \[0, 3\), got -1 for pool point 5"),
        ([ABSTAIN, 0, 3], r"expected a class in \[0, 3\), got 3 for pool point 6"),
        (np.array([0, -1, ABSTAIN]), r"expected a class in \[0, 3\), got -1 for pool point 5"),
        (np.array([0, ABSTAIN + 1, 1]), rf"got {ABSTAIN + 1} for pool point 5"),
        ([0, ABSTAIN + 1, 0], rf"got {ABSTAIN + 1} for pool point 5"),
        ([0, ABSTAIN], r"expected one for each of the 3 queried points 4, 5, 6, got shape \(2,\)"),
        ([[0, ABSTAIN, 1]], r"got shape \(1, 3\)"),
        ([0.0, float(ABSTAIN), 1.0], "expected integer classes, got 0.0 for pool point 4"),
        ([0, None, 1], "expected integer classes, got None for pool point 5"),
        ([True, False, True], "expected integer classes, got True for pool point 4"),
    ],
)
def test_an_answer_that_is_neither_is_refused_by_its_pool_point(answer, message):
    with pytest.raises(LabelError, match=message):
        check_answers(answer, [4, 5, 6], 3)


def test_an_abstention_is_no_label():
    with pytest.raises(LabelError, match=rf"expected a class in \[0, 3\), got {ABSTAIN} for pool point 5"):
        check_labels([0, ABSTAIN], [4, 5], 3)
    with pytest.raises(LabelError, match=f"got {ABSTAIN} for pool point 5"):
        extend(LabelledSet.empty(4), [4, 5], [0, ABSTAIN], num_points=10)
