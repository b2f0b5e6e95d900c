"""What people will pass: each is refused in one line that names the argument, what it was and what to pass instead.

Every array and every key of every public function of arrays is tried with what is none, and with what is one in
another form.
"""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal import acquisition, calibration, selection
from bdal.acquisition import Gaussian
from bdal.committee import deep_ensemble, mc_dropout
from bdal.errors import LabelError, check_array, check_count, check_inputs, check_key, check_log_probs, check_number
from bdal.loop import active_learning, ask
from bdal.model import from_batched, from_linen, from_nnx, model_from_functions
from bdal.pool import LabelledSet
from bdal.posteriors import fit_deep_ensemble, fit_mc_dropout, fit_snapshots
from bdal.strategy import make_strategy, query
from bdal.training import Training
from bdal.types import TrainingData

N, K, C, D, L, T, Q = 12, 4, 3, 5, 6, 7, 2
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def log_probs(*shape):
    return np.log(RNG.dirichlet(np.ones(shape[-1]), shape[:-1])).astype(np.float32)


EVERY = np.ones(N, bool)
LABELLED = np.arange(N) < 3
VALUES = {
    "log_probs": log_probs(N, K, C), "features": normal(N, D), "labelled_log_probs": log_probs(L, K, C),
    "labelled_features": normal(L, D), "target_log_probs": log_probs(T, K, C), "target_weights": np.ones(T, np.float32),
    "gradient_norms": np.abs(normal(N, K, C)), "labels": np.arange(N) % C, "available": EVERY, "query_size": Q,
    "gaussian": Gaussian(normal(N, K), 1 + np.abs(normal(N, K))), "key": KEY, "probs": np.exp(log_probs(N, C)),
    "targets": Gaussian(normal(T, K), 1 + np.abs(normal(T, K))), "embeddings": normal(N, D), "labelled": LABELLED,
    "scores": np.abs(normal(N)), "clusters": np.arange(N) % 3, "predicted": np.arange(N) % C, "candidates": 6,
    "counts": np.array([3, 2, 1]), "noise_sigma": 1.0, "radius": 1.0, "rows": EVERY, "weight": 1.0, "size": 6,
    "weights": np.ones(N, np.float32), "sketch_dim": 8, "num_clusters": 3, "reduce": "max", "covered": EVERY,
}  # fmt: skip
OWN = {  # where a name means something else
    "contrastive": {"labelled": np.ones(L, bool)},
    "expected_model_change": {"labels": "committee"},
    "last_layer_fisher_trace": {"labels": "committee", "features": normal(N, K, D)},
    "last_layer_gradient_norms": {"features": normal(N, K, D)},
    "aleatoric_fisher_trace": {"features": normal(N, K, D)},
    "epistemic_fisher_trace": {"features": normal(N, K, D)},
    "standardised_sum": {"scores": VALUES["scores"], "weights": np.ones(1, np.float32)},
    "joint_information": {"log_probs": log_probs(3, K, C)},
    "fit_temperature": {"log_probs": log_probs(N, C)},
    "two_stage": {"inputs": normal(N, D), "score": lambda x: jnp.asarray(x)[:, 0] ** 2, "select": selection.top_k},
    "agglomerative_clusters": {"num_clusters": 3},
}
OPTIONAL = ("labels", "labelled", "weights", "target_weights", "key", "covered", "probs")
NOT_OF_ARRAYS = ("Gaussian", "Query", "Reliability", "Scaling", "greedy")
FUNCTIONS = {
    name: getattr(room, name)
    for room in (acquisition, selection, calibration)
    for name in room.__all__
    if callable(getattr(room, name)) and name not in NOT_OF_ARRAYS
}


def arguments(name):
    """Valid arguments of a function, by their names."""
    own, found = OWN.get(name, {}), {}
    for parameter in inspect.signature(FUNCTIONS[name]).parameters.values():
        wanted = parameter.default is parameter.empty or parameter.name in OPTIONAL or parameter.name in own
        if wanted and (parameter.name in own or parameter.name in VALUES):
            found[parameter.name] = own.get(parameter.name, VALUES.get(parameter.name))
    return found


def call(name, given):
    given = dict(given)
    if name == "standardised_sum":
        return FUNCTIONS[name](given.pop("scores"), **given)
    return FUNCTIONS[name](**given)


def with_each_array(name, change):
    """The arguments of a function with one array after the other changed, and the name that is then to be named."""
    given = arguments(name)
    for argument, value in given.items():
        if isinstance(value, np.ndarray):
            yield argument, given | {argument: change(value)}
        elif isinstance(value, Gaussian):
            for field in value._fields:
                yield (
                    f"{argument}.{field}",
                    given | {argument: value._replace(**{field: change(getattr(value, field))})},
                )


class Tensor:
    """Stands for one of PyTorch: an array whose dtype is not NumPy's."""

    def __init__(self, values):
        self.values = values
        self.shape, self.ndim, self.dtype = values.shape, values.ndim, f"torch.{values.dtype}"

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)

    def __len__(self):
        return len(self.values)


Tensor.__module__ = "torch"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_tensor_is_named_with_what_to_pass(name):
    for argument, given in with_each_array(name, Tensor):
        wanted = rf"^{argument}.* got a torch\.Tensor; pass (its \.detach\(\)\.cpu\(\)\.numpy\(\)|np\.asarray)"
        with pytest.raises(TypeError, match=wanted) as caught:
            call(name, given)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["U8", object])
def test_text_and_objects_are_no_numbers(name, dtype):
    for argument, given in with_each_array(name, lambda values: values.astype(dtype)):
        with pytest.raises((TypeError, LabelError), match=rf"^{argument}.*got (dtype <?[Uo]|text)") as caught:
            call(name, given)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_widths_and_byte_orders_are_read_without_a_warning(name):
    def other(values):
        return values if values.dtype == bool else values.astype(">f8" if values.dtype.kind == "f" else ">i8")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "epig from 4 members")
        expected = jax.tree.leaves(call(name, arguments(name)))
        for argument, given in with_each_array(name, other):
            if argument == "inputs":  # as they are to a function of one's own
                continue
            for found, value in zip(jax.tree.leaves(call(name, given)), expected, strict=True):
                np.testing.assert_allclose(found, value, err_msg=argument)


NO_KEYS = {
    "a number": (50, r"got 50; pass jax\.random\.key\(50\)"),
    "a string": ("a", "got 'a'"),
    "an array": (np.ones((N, 2), np.float32), r"got an array of float32 and shape \(12, 2\); is the key forgotten"),
    "keys": (jax.random.split(KEY, 3), r"got keys of shape \(3,\); pass one of them"),
    "a tensor": (Tensor(np.zeros(2, np.uint32)), r"got a torch\.Tensor"),
}


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if "key" in inspect.signature(FUNCTIONS[name]).parameters])
@pytest.mark.parametrize("no_key", NO_KEYS)
def test_what_is_no_key(name, no_key):
    value, message = NO_KEYS[no_key]
    with pytest.raises(TypeError, match=rf"^key: expected .*{message}"):
        call(name, arguments(name) | {"key": value})


@pytest.mark.parametrize("name", ["power", "softmax", "softrank", "badge", "batchbald", "k_means", "k_means_clusters"])
def test_a_forgotten_key_is_named_before_python_counts_the_arguments(name):
    given = arguments(name)
    first = list(inspect.signature(FUNCTIONS[name]).parameters)[1]
    with pytest.raises(TypeError, match=r"^key: expected .*; is the key forgotten"):
        FUNCTIONS[name](given[first], available=EVERY, query_size=Q)


def test_checks_of_one_value():
    check_key(jax.random.PRNGKey(0))
    check_key(np.asarray(jax.random.PRNGKey(0)))
    jax.vmap(lambda key: check_key(key) or 0)(jax.random.split(KEY, 3))
    for value in ([1.0, 2.0], [[1], [2]], 3.0, jnp.ones(2), np.float64(1), np.ones(2, ">f4"), [jnp.float32(1)]):
        check_array(value, "values")
    with pytest.raises(TypeError, match=r"values must be an array, got a list whose rows differ in length"):
        check_array([[1.0], [1.0, 2.0]], "values")
    with pytest.raises(TypeError, match=r"values must be .* got a list with a torch\.Tensor"):
        check_array([Tensor(np.ones(2))], "values")
    with pytest.raises(TypeError, match=r"values must be .* got None; it is needed here"):
        check_array(None, "values")
    for count in (2.0, "2", None, True, jnp.int32(2), np.array(2)):
        with pytest.raises(TypeError, match="size must be a Python int, known before tracing, got "):
            check_count(count, "size")
    assert check_count(np.int64(2), "size") == 2
    for number in ("1", None, [1.0], np.ones(2), True):
        with pytest.raises(TypeError, match="beta must be a number, got "):
            check_number(number, "beta")
    check_number(jnp.float32(1), "beta")
    with pytest.raises(ValueError, match="inputs: expected arrays with one leading axis N, got None"):
        check_inputs(None, "inputs")


# -- the order of the axes --------------------------------------------------------------------------------------------


def committee_like(num_points, num_members, num_classes=10):
    """Log-probabilities `[N, K, C]` of members that differ less than the points do, as those of trained ones."""
    logits = 3 * normal(num_points, 1, num_classes) + 0.5 * normal(num_points, num_members, num_classes)
    return jax.nn.log_softmax(logits)


@pytest.mark.parametrize("name", acquisition.ACQUISITION_FUNCTIONS)
def test_members_in_the_place_of_points_are_warned_of(name):
    function = acquisition.ACQUISITION_FUNCTIONS[name]
    swapped = jnp.swapaxes(committee_like(1000, 5), 0, 1)
    with pytest.warns(UserWarning, match=r"5 points and 1000 members; .* jnp\.swapaxes\(log_probs, 0, 1\).*axis order"):
        function(swapped)
    with pytest.warns(UserWarning, match=r"one point and 1000 members; .* log_probs\[:, None\] .axis order"):
        function(committee_like(1000, 1)[:, 0])


@pytest.mark.parametrize(("num_points", "num_members"), [(1, 1), (2, 999), (3, 2000), (5000, 5), (1, 2000), (40, 100)])
def test_axes_in_order_are_not_warned_of(num_points, num_members):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_log_probs(committee_like(num_points, num_members))
        check_log_probs(log_probs(num_points, num_members, 10))  # members that have nothing to do with each other
        check_log_probs(committee_like(1, min(num_members, 999))[0])
        jax.eval_shape(acquisition.bald, jnp.swapaxes(committee_like(1000, 5), 0, 1))  # shapes alone do not tell


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("contrastive", ("log_probs",)),
        ("forgetting_events", ("log_probs",)),
        ("expected_model_change", ("log_probs",)),
        ("last_layer_gradient_norms", ("log_probs",)),
        ("epig", ("log_probs",)),
        ("epig", ("target_log_probs",)),
        ("epig", ("log_probs", "target_log_probs")),
        ("batchbald", ("log_probs",)),
        ("mutual_information_penalty", ("log_probs",)),
    ],
)
def test_the_axis_order_is_named_where_another_argument_tells(name, change):
    given = arguments(name)
    given |= {argument: np.swapaxes(given[argument], 0, 1) for argument in change}
    with pytest.raises(ValueError, match=r"axis order: pass \[N, K, C\].* jnp\.swapaxes\("):
        call(name, given)


@pytest.mark.parametrize("axis", [0, 1])
def test_classes_that_are_not_last(axis):
    given = np.moveaxis(VALUES["log_probs"], -1, axis)
    with pytest.raises(ValueError, match=rf"along axis {axis} .axis order.*moveaxis\(log_probs, {axis}, -1"):
        acquisition.bald(given)


def test_one_number_is_not_a_score_of_every_row():
    score = acquisition.bald(log_probs(N, C))  # no axis of members: one point
    with pytest.raises(ValueError, match=r"scores must have the shape of available.*got \(\); .*log_probs\[:, None\]"):
        selection.top_k(score, available=EVERY, query_size=Q)


# -- networks, committees, queries ------------------------------------------------------------------------------------

POOL = normal(8, D)
WEIGHTS = normal(D, 2)
COMMITTEE = deep_ensemble(lambda w, key, x: x @ w, normal(3, D, 2))
BALD = make_strategy("bald")

OUTPUTS = {
    "a dict": (lambda z: {"logits": z}, "got a dict with 'logits'"),
    "a list": (lambda z: [z, z], "got a list of 2"),
    "a tuple of one": (lambda z: (z,), "got a tuple of 1"),
    "a tuple of three": (lambda z: (z, z, z), "got a tuple of 3"),
    "nothing": (lambda z: None, "got None"),
    "a list of features": (lambda z: (z, [1.0, 2.0]), "got a tuple of 2"),
    "one number": (lambda z: z[..., 0], r"got shape"),
    "one class": (lambda z: z[..., :1], r"two classes or more, got shape \(1,\); of a binary classifier"),
    "whole numbers": (lambda z: z.astype(int), "floating-point logits"),
    "a map of features": (lambda z: (z, z[..., None]), r"features \[D\] for one input.* return features.reshape"),
}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("how", ["committee", "fit", "batched"])
def test_what_apply_may_not_return(output, how):
    change, message = OUTPUTS[output]

    def apply(params, key, x):
        return change(x @ params)

    def committee():
        return query(KEY, BALD, deep_ensemble(apply, np.stack([WEIGHTS] * 3)), POOL, query_size=Q)

    def fit():
        model = model_from_functions(lambda key: jnp.asarray(WEIGHTS), apply)
        fit = fit_deep_ensemble(model, members=2, training=Training(steps=2))
        return fit(KEY, TrainingData(POOL, jnp.zeros(8, jnp.int32), 8))

    def batched():
        return mc_dropout(*from_batched(apply, WEIGHTS), jax.random.split(KEY, 3)).log_probs(POOL)

    ways = {"committee": committee, "fit": fit, "batched": batched}
    with pytest.raises((TypeError, ValueError), match=rf"^apply: expected .*{message}") as caught:
        ways[how]()
    assert "\n" not in str(caught.value)


def linear(params, key, x):
    return x @ params


@pytest.mark.parametrize(
    "keys",
    [50, None, "a", KEY, [0, 1], np.ones(3), jnp.arange(5), jnp.int32(50), Tensor(np.zeros((3, 2), np.uint32))],
)
def test_keys_of_members_that_are_none(keys):
    with pytest.raises((TypeError, ValueError), match=r"^keys: expected \[K\] keys.*pass jax\.random\.split\(key, K\)"):
        mc_dropout(linear, WEIGHTS, keys)


def test_keys_of_members_as_a_list_and_as_words():
    keys = jax.random.split(KEY, 3)
    expected = mc_dropout(linear, WEIGHTS, keys).noise
    assert (mc_dropout(linear, WEIGHTS, list(keys)).noise == expected).all()
    assert (mc_dropout(linear, WEIGHTS, jax.random.key_data(keys)).noise == expected).all()


def test_networks_that_are_none():
    with pytest.raises(TypeError, match=r"^apply: expected a function"):
        mc_dropout(WEIGHTS, linear, jax.random.split(KEY, 3))  # the two exchanged
    with pytest.raises(TypeError, match=r"^params must be .* got a torch.Tensor; pass its .detach"):
        mc_dropout(linear, {"w": Tensor(WEIGHTS)}, jax.random.split(KEY, 3))
    with pytest.raises(TypeError, match=r"^module: expected a flax nnx.Module, got a function; see from_linen"):
        from_nnx(lambda x: x)
    with pytest.raises(TypeError, match=r"^module: expected a flax linen.Module, got None; see from_nnx"):
        from_linen(None, {})


POOLS = {
    "a list": (POOL.tolist(), "got a Python list; pass np.asarray"),
    "a tensor": (Tensor(POOL), "got a torch.Tensor; pass np.asarray"),
    "text": (POOL.astype("U5"), "got dtype <U5; turn text"),
    "nothing": (None, "got None"),
    "a number": (np.float32(1), r"one leading axis N, got shapes \[\(\)\]"),
}


@pytest.mark.parametrize("pool", POOLS)
def test_pools_that_are_none(pool):
    value, message = POOLS[pool]
    labelled = LabelledSet.empty(3)
    with pytest.raises((TypeError, ValueError), match=rf"^candidates: expected .*{message}"):
        query(KEY, BALD, COMMITTEE, value, query_size=Q)
    with pytest.raises((TypeError, ValueError), match=rf"^inputs: expected .*{message}"):
        ask(KEY, COMMITTEE, labelled, strategy=BALD, inputs=value, query_size=Q)
    if value is not None:
        with pytest.raises((TypeError, ValueError), match=rf"^labelled_inputs: expected .*{message}"):
            query(KEY, make_strategy("k_center"), COMMITTEE, POOL, query_size=Q, labels=[0], labelled_inputs=value)


def test_arguments_of_a_query_in_another_order():
    with pytest.raises(TypeError, match=r"^key: expected .* got a QueryStrategy; is the key forgotten"):
        query(BALD, COMMITTEE, POOL, query_size=Q)
    with pytest.raises(TypeError, match=r"^key: expected .* got a Committee; is the key forgotten"):
        ask(COMMITTEE, LabelledSet.empty(3), strategy=BALD, inputs=POOL, query_size=Q)
    with pytest.raises(TypeError, match=r"^strategy: expected a QueryStrategy, got 'bald'; pass make_strategy\('bald'"):
        query(KEY, "bald", COMMITTEE, POOL, query_size=Q)
    with pytest.raises(TypeError, match=r"^strategy: expected a QueryStrategy, got a Committee"):
        query(KEY, COMMITTEE, BALD, POOL, query_size=Q)
    with pytest.raises(TypeError, match=r"^candidates: expected inputs .* got a Committee"):
        query(KEY, BALD, POOL, COMMITTEE, query_size=Q)


@pytest.mark.parametrize("size", [2.0, "2", None, jnp.int32(2)])
def test_a_query_size_that_is_no_python_int(size):
    given = {"strategy": BALD, "inputs": POOL, "query_size": size}
    labelled = LabelledSet.empty(4)
    with pytest.raises(TypeError, match=r"^query_size must be a Python int"):
        query(KEY, BALD, COMMITTEE, POOL, query_size=size)
    with pytest.raises(TypeError, match=r"^query_size must be a Python int"):
        ask(KEY, COMMITTEE, labelled, **given)
    with pytest.raises(TypeError, match=r"^query_size must be a Python int"):
        next(active_learning(KEY, fit=None, oracle=None, labelled=labelled, rounds=1, **given))


def test_labelled_inputs_and_targets_in_another_byte_order():
    strategy = make_strategy("core_mse")
    given = {"labels": np.array([0, 1], ">i8"), "query_size": Q}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = query(KEY, strategy, COMMITTEE, POOL, labelled_inputs=POOL[:2], targets=POOL, **given)
        found = query(
            KEY, strategy, COMMITTEE, POOL.astype(">f8"), labelled_inputs=POOL[:2].astype(">f4"),
            targets=POOL.astype(">f8"), **given,
        )  # fmt: skip
    np.testing.assert_array_equal(found.indices, expected.indices)


@pytest.mark.parametrize("make", [fit_deep_ensemble, fit_mc_dropout, fit_snapshots])
def test_what_a_fit_may_not_get(make):
    model = model_from_functions(lambda key: jnp.asarray(WEIGHTS), linear)
    for members in ("2", 2.5, None):
        with pytest.raises(TypeError, match=r"^members must be a Python int"):
            make(model, members=members)
    fit = make(model, members=2, training=Training(steps=2))
    labels = np.zeros(8, np.int32)
    data = TrainingData(POOL, labels, 8)
    for key in (0, None, POOL):
        with pytest.raises(TypeError, match=r"^key: expected a key"):
            fit(key, data)
    with pytest.raises(TypeError, match=r"^key: .*is the key forgotten"):
        fit(data)
    for wrong, found in ((None, "None"), (POOL, "a numpy.ndarray"), ((POOL, labels, 8), "a tuple")):
        with pytest.raises(TypeError, match=rf"^data: expected TrainingData, got {found}; pass bdal\.Train"):
            fit(KEY, wrong)
    with pytest.raises(TypeError, match=r"^inputs: expected .* got a torch.Tensor"):
        fit(KEY, data._replace(inputs=Tensor(POOL)))
    with pytest.raises(TypeError, match=r"^labels must be .* got a torch.Tensor"):
        fit(KEY, data._replace(labels=Tensor(labels)))
    for wrong in (labels[:5], labels.astype(np.float32), np.eye(8, 2, dtype=int)):
        with pytest.raises(LabelError, match=r"^labels: expected one integer class for each of the inputs"):
            fit(KEY, data._replace(labels=wrong))
    with pytest.raises(LabelError, match=r"^validation labels: expected one integer class"):
        fit(KEY, data._replace(validation=(POOL, labels[:2])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swapped = TrainingData(POOL.astype(">f8"), labels.astype(">i8"), 8)
        np.testing.assert_array_equal(fit(KEY, swapped).log_probs(POOL), fit(KEY, data).log_probs(POOL))
