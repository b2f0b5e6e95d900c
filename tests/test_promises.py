"""What bdal promises, one test a promise. Where a room's own tests prove it at length, they are named here."""

import ast
import inspect
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bdal import acquisition, config, models, posteriors, selection, training
from bdal.acquisition import ACQUISITION_FUNCTIONS, bald
from bdal.backend import spec
from bdal.committee import deep_ensemble, mc_dropout
from bdal.errors import CapacityError, NonFiniteError
from bdal.model import from_batched, from_nnx
from bdal.pool import LabelledSet, extend
from bdal.strategy import STRATEGIES, make_strategy, query, score_and_select
from bdal.testing import check_committee
from bdal.training import Training
from bdal.types import TrainingData

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path
    for folder in ("bdal", "tools", "benchmarks", "notebooks")
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
KEY = jax.random.key(0)
POOL = jax.random.normal(KEY, (20, 3))
EVERYTHING = jnp.ones(20, bool)
WEIGHTS = jax.random.normal(jax.random.key(1), (4, 3, 5))


def apply(weights, key, x):
    return x @ weights, x


COMMITTEE = deep_ensemble(apply, WEIGHTS)


def proved_by(*tests):
    """The tests `path::name` exist, and run."""
    for test in tests:
        path, name = test.split("::")
        tree = ast.parse((ROOT / "tests" / path).read_text())
        (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
        assert not re.search(r"skip|xfail|slow", " ".join(map(ast.unparse, function.decorator_list))), test


def calls(paths):
    """Every call in some sources: where, the dotted name that is called, and the keywords."""
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                yield f"{path.relative_to(ROOT)}:{node.lineno}", ast.unparse(node.func), keywords


# -- the promises, by their numbers -----------------------------------------------------------------------------------


def test_promise_01_a_score_that_is_no_number_is_never_picked():
    scores = jnp.array([0.0, jnp.nan, 1.0, jnp.inf])
    with pytest.raises(NonFiniteError, match=r"2 of 4 available rows are NaN or infinite \(rows 1, 3\)"):
        selection.top_k(scores, available=jnp.ones(4, bool), query_size=1)
    broken = deep_ensemble(apply, WEIGHTS.at[2].set(jnp.nan))
    with pytest.raises(NonFiniteError, match="20 available points"):
        query(KEY, make_strategy("bald"), broken, POOL, query_size=2)
    empty, labels = POOL[:0], jnp.zeros(0, int)
    chosen, health = jax.jit(partial(score_and_select, strategy=make_strategy("bald"), query_size=2, chunk_size=8))(
        KEY, committee=broken, candidates=POOL, labelled_inputs=empty, labels=labels, targets=None,
        available=EVERYTHING, labelled=jnp.zeros(0, bool),
    )  # fmt: skip
    assert chosen.indices.tolist() == [-1, -1]  # even where nothing can be raised
    assert int(health.num_nonfinite) == 20


@pytest.mark.parametrize(
    "select",
    [
        partial(selection.top_k, jnp.arange(5.0)),
        partial(selection.power, KEY, jnp.arange(5.0)),
        partial(selection.k_center, POOL[:5]),
    ],
)
def test_promise_02_no_row_is_returned_again_and_again(select):
    available = jnp.arange(5) < 2
    with pytest.raises(ValueError, match="query_size is 3, but only 2 of 5 rows are available"):
        select(available=available, query_size=3)
    assert sorted(select(available=available, query_size=3, pad=True).indices.tolist()) == [-1, 0, 1]


def test_promise_03_no_label_is_overwritten():
    labelled = extend(LabelledSet.empty(2), [4, 3], [1, 1], num_points=9)
    with pytest.raises(CapacityError):
        extend(labelled, [5], [0], num_points=9)
    assert labelled.indices.tolist() == [4, 3]


def test_promise_04_finite_scores_and_gradients_at_saturated_logits_and_zeros():
    logits = jnp.array([[[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], [[0.0, -jnp.inf, -jnp.inf], [0.0, 0.0, -jnp.inf]]])

    def total(logits):
        return bald(jax.nn.log_softmax(logits)).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(logits)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    proved_by("acquisition/test_battery.py::test_the_shipped_checks")


def test_promise_05_products_keep_float32():
    found = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                found.append(equation.params["precision"])
            for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    visit(inner)

    log_probs = jax.ShapeDtypeStruct((20, 4, 5), jnp.float32)
    options = {"available": EVERYTHING, "query_size": 3}
    functions = {
        "penalty": lambda x: selection.mutual_information_penalty(jax.nn.log_softmax(x), reduce="max", **options),
        "diverse": lambda x: selection.diverse(x[:, 0, 0], x[:, 0], weight=1.0, **options),
        "k_center": lambda x: selection.k_center(x[:, 0], labelled=EVERYTHING, **options),
        **{name: lambda x, f=function: f(jax.nn.log_softmax(x)) for name, function in ACQUISITION_FUNCTIONS.items()},
    }
    for name, function in functions.items():
        visit(jax.make_jaxpr(function)(log_probs).jaxpr)
        assert set(found) <= {(jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)}, name
    assert len(found) >= 2


def test_promise_06_members_are_functions():
    def batched(params, key, inputs):
        masks = jax.random.bernoulli(key, 0.5, inputs.shape)  # a mask a row, as dropout layers draw them
        return (inputs * masks) @ params

    apply, params = from_batched(batched, WEIGHTS[0])
    members = mc_dropout(apply, params, jax.random.split(KEY, 6))
    log_probs = members.log_probs(jnp.ones((7, 3)))
    np.testing.assert_array_equal(log_probs, jnp.broadcast_to(log_probs[:1], log_probs.shape))
    assert len({tuple(row) for row in np.asarray(log_probs[0]).tolist()}) > 1  # and members differ

    class PerExample:
        def log_probs(self, inputs):
            return jax.nn.log_softmax(batched(WEIGHTS[0], KEY, inputs))[:, None]

    with pytest.raises(ValueError, match="expected members that are functions of one input"):
        check_committee(PerExample(), POOL[:8])
    with pytest.raises(ValueError, match="expected members that are functions of one input"):
        query(KEY, make_strategy("bald"), PerExample(), POOL, query_size=2)


def test_promise_07_flax_modules_can_be_traced():
    apply, params = from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    gradient = jax.jit(jax.vmap(jax.grad(lambda params, x: apply(params, None, x).sum()), in_axes=(None, 0)))
    assert gradient(params, POOL).params["kernel"][...].shape == (20, 3, 2)
    merges = [(where, keywords) for where, name, keywords in calls(SOURCES) if name.endswith("nnx.merge")]
    assert merges
    assert [where for where, keywords in merges if keywords.get("copy") != "True"] == []


def test_promise_08_nothing_is_uninitialised():
    empty = {"empty", "empty_like"}
    assert [where for where, name, _ in calls(SOURCES) if name.split(".")[-1] in empty and "np" in name] == []


def test_promise_09_meshes_have_automatic_axes():
    meshes = [(where, keywords) for where, name, keywords in calls(SOURCES) if name.split(".")[-1] == "make_mesh"]
    assert [where for where, keywords in meshes if "Auto" not in keywords.get("axis_types", "")] == []
    proved_by("test_pool.py::test_a_mesh_of_eight_devices_gives_what_one_device_gives")


def test_promise_10_a_committee_carries_at_most_log_k_nats():
    log_probs = jnp.where(jnp.eye(4, 10, dtype=bool), 0.0, -jnp.inf)  # four members that are sure and disagree
    np.testing.assert_allclose(bald(log_probs), np.log(4), rtol=1e-6)
    copies = jnp.broadcast_to(log_probs, (6, 4, 10))
    found = selection.mutual_information_penalty(copies, reduce="max", available=jnp.ones(6, bool), query_size=3)
    np.testing.assert_allclose(found.gains, [np.log(4), 0, 0], atol=1e-6)  # what is known already is worth nothing


def test_promise_11_members_that_agree_give_a_random_query_with_a_warning():
    one = deep_ensemble(apply, WEIGHTS[:1])
    found = set()
    for seed in range(4):
        with pytest.warns(UserWarning, match="same score up to rounding"):
            chosen = query(jax.random.key(seed), make_strategy("bald"), one, POOL, query_size=3)
        assert chosen.gains.tolist() == [0.0, 0.0, 0.0]
        found.add(tuple(chosen.indices.tolist()))
    assert len(found) == 4


def test_promise_12_ties_are_broken_by_the_key_also_those_that_rounding_hides():
    scores = jnp.where(jnp.arange(20) < 10, 1.0, 0.0).at[7].add(1.2e-7)
    assert scores[7] > scores[6]
    picks = [
        selection.top_k(scores, available=EVERYTHING, query_size=1, key=jax.random.key(s)).indices[0] for s in range(60)
    ]
    assert set(np.asarray(picks).tolist()) == set(range(10))
    proved_by(
        "selection/test_battery.py::test_equal_rows_are_picked_at_random_by_the_key",
        "selection/test_ranking.py::test_rounding_does_not_change_the_order_of_ties",
    )


def test_promise_13_nothing_is_compiled_after_round_one():
    proved_by(
        "test_loop.py::test_nothing_is_compiled_after_round_one",
        "test_strategy.py::test_nothing_is_compiled_at_the_second_query",
        "test_pool.py::test_a_function_is_traced_once_for_all_calls",
        "experiment/test_run.py::test_fit_is_compiled_once_for_all_strategies_and_nothing_after_the_first_round",
    )


def test_promise_14_the_same_key_gives_the_same_queries_and_bytes():
    proved_by(
        "test_loop.py::test_the_same_key_gives_the_same_queries_and_another_key_others",
        "test_loop.py::test_a_round_depends_on_the_key_its_number_and_the_labelled_set_only",
        "experiment/test_run.py::test_an_interrupted_run_goes_on_to_the_same_bytes_with_nothing_new_to_compile",
        "experiment/test_run.py::test_from_any_event_on_it_goes_on_to_the_same_bytes",
    )


def test_promise_15_a_strategy_sees_no_label_that_was_not_bought():
    proved_by(
        "test_loop.py::test_labels_that_were_not_bought_change_nothing",
        "experiment/test_run.py::test_labels_that_were_not_bought_and_test_labels_change_no_query",
    )


def test_promise_16_validation_labels_are_a_fifth_of_the_budget_and_counted():
    labels = config.Labels(budget=250)
    assert (labels.validation, labels.validation_labels, labels.training_labels) == (0.2, 50, 200)
    proved_by(
        "experiment/test_run.py::test_ledgers_hold_what_happened_in_its_order",
        "experiment/test_run.py::test_the_start_may_be_balanced_and_validation_is_a_fifth_of_the_budget",
    )


MODULES_OF_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def loads_code(paths):
    """Where a source could run what it reads."""
    for where, name, keywords in calls(paths):
        if name in ("eval", "exec", "compile", "__import__") or re.match(r"yaml\.(load|unsafe_load|full_load)", name):
            yield f"{where}: {name}"
        if keywords.get("allow_pickle", "False") != "False":
            yield f"{where}: allow_pickle"
        if name in ("np.load", "numpy.load", "jnp.load") and keywords.get("allow_pickle") != "False":
            yield f"{where}: {name} without allow_pickle=False"
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if MODULES_OF_CODE & {name.split(".")[0] for name in names}:
                yield f"{path.name}: imports {names}"


def test_promise_17_everything_that_is_loaded_is_data(tmp_path, monkeypatch):
    assert list(loads_code(SOURCES)) == []
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    for bad in (
        "import pickle", "from joblib import load", "eval('1')", "yaml.load(text)", "exec(text)", "__import__(name)",
        "np.load(path)", "np.load(path, allow_pickle=True)", "np.savez(path, allow_pickle=flag)", "yaml.unsafe_load(t)",
    ):  # fmt: skip
        (tmp_path / "bad.py").write_text(bad)
        assert len(list(loads_code([tmp_path / "bad.py"]))) >= 1, bad
    (tmp_path / "good.py").write_text(
        "model.eval(); re.compile('x'); np.load(p, allow_pickle=False); yaml.safe_load(t)"
    )
    assert list(loads_code([tmp_path / "good.py"])) == []


# -- the same programs on an accelerator ------------------------------------------------------------------------------


def lowers_for_tpu(function, *arguments):
    """The program as a TPU would get it, from shapes alone."""
    shapes = jax.tree.map(spec, arguments)
    text = jax.jit(function).trace(*shapes).lower(lowering_platforms=("tpu",)).as_text()
    assert "func.func public @main" in text
    assert "f64" not in text
    return text


@pytest.fixture
def on_tpu(monkeypatch):
    """The choices that bdal makes by backend, as on a TPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")


LOG_PROBS = jnp.zeros((20, 4, 5))
SCORES = jnp.zeros(20)
CHOICE = {"query_size": 3}
SELECTORS = {
    "top_k": lambda key, x, a: selection.top_k(x[:, 0, 0], available=a, key=key, **CHOICE),
    "top_k without key": lambda key, x, a: selection.top_k(x[:, 0, 0], available=a, **CHOICE),
    "power": lambda key, x, a: selection.power(key, x[:, 0, 0], available=a, **CHOICE),
    "softmax": lambda key, x, a: selection.softmax(key, x[:, 0, 0], available=a, **CHOICE),
    "softrank": lambda key, x, a: selection.softrank(key, x[:, 0, 0], available=a, **CHOICE),
    "diverse": lambda key, x, a: selection.diverse(x[:, 0, 0], x[:, 0], weight=1.0, available=a, key=key, **CHOICE),
    "penalty": lambda key, x, a: selection.mutual_information_penalty(x, reduce="sum", available=a, key=key, **CHOICE),
    "k_center": lambda key, x, a: selection.k_center(x[:, 0], labelled=~a, available=a, key=key, **CHOICE),
    "greedy": lambda key, x, a: selection.greedy(
        x[:, 0, 0], lambda state: state, lambda state, index: state, available=a, key=key, **CHOICE
    ),
}


@pytest.mark.parametrize("name", SELECTORS)
def test_selectors_lower_for_tpu(name, on_tpu):
    lowers_for_tpu(SELECTORS[name], KEY, LOG_PROBS, EVERYTHING)


def test_every_selector_is_among_them():
    selectors = {
        name for name in selection.__all__ if "query_size" in inspect.signature(getattr(selection, name)).parameters
    }
    # or lowers as the strategy of its name; `two_stage` maps and selects by functions of its caller's
    assert selectors <= {*SELECTORS, *STRATEGIES, "two_stage"}


POINTWISE = {*ACQUISITION_FUNCTIONS, "entropy", "softmax_bald", "softrank_bald"}  # they lower as functions, and as bald


@pytest.mark.slow
@pytest.mark.parametrize("name", ACQUISITION_FUNCTIONS)
def test_acquisition_functions_lower_for_tpu(name, on_tpu):
    lowers_for_tpu(ACQUISITION_FUNCTIONS[name], LOG_PROBS)


@pytest.mark.slow
def test_model_change_lowers_for_tpu(on_tpu):
    lowers_for_tpu(
        lambda x, h: acquisition.expected_model_change(x, acquisition.last_layer_gradient_norms(x, h)),
        LOG_PROBS, jnp.zeros((20, 4, 7)),
    )  # fmt: skip


def cnn_committee(shared_masks):
    make = partial(models.CNN, 10)
    apply, params = from_nnx(make(shared_masks=shared_masks, rngs=nnx.Rngs(0)), batched=False)
    return mc_dropout(apply, params, jax.random.split(KEY, 3))


@pytest.mark.slow
@pytest.mark.parametrize("shared_masks", [False, True])
def test_a_committee_of_the_cnn_lowers_for_tpu(on_tpu, shared_masks):
    images = jnp.zeros((4, 28, 28, 1))
    lowers_for_tpu(lambda c, x: (c.log_probs(x), c.embedding(x)), cnn_committee(shared_masks), images)
    if not shared_masks:
        lowers_for_tpu(lambda c, x: c.gradient_norms(x), cnn_committee(shared_masks), images)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:epig from 4 members")
@pytest.mark.parametrize("name", [name for name in STRATEGIES if name == "bald" or name not in POINTWISE])
def test_queries_lower_for_tpu(name, on_tpu):
    def whole(key, committee, pool, available):
        return score_and_select(
            key, make_strategy(name), committee, pool, pool[:5], jnp.zeros(5, int), pool[:4], available,
            jnp.ones(5, bool), query_size=3, chunk_size=8,
        )  # fmt: skip

    lowers_for_tpu(whole, KEY, COMMITTEE, POOL, EVERYTHING)


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["mc_dropout", "deep_ensemble"])
def test_training_of_the_cnn_lowers_for_tpu(on_tpu, posterior):
    model = models.cnn((28, 28, 1), 10)
    schedule = Training(steps=20, batch_size=8, eval_every=10)
    fits = {"mc_dropout": posteriors.fit_mc_dropout, "deep_ensemble": posteriors.fit_deep_ensemble}
    fit = fits[posterior](model, members=2, training=schedule)
    images, labels = jnp.zeros((12, 28, 28, 1)), jnp.zeros(12, jnp.int32)
    assert not training.leaves_loop_to_python(model, images)
    lowers_for_tpu(fit, KEY, TrainingData(images, labels, jnp.int32(3), (images[:4], labels[:4])))


def test_the_check_sees_double_precision():
    jax.config.update("jax_enable_x64", True)  # the context manager has another name in older versions
    try:
        with pytest.raises(AssertionError, match="f64"):
            lowers_for_tpu(lambda x: x * 2.0, jnp.zeros(3, jnp.float64))
    finally:
        jax.config.update("jax_enable_x64", False)
