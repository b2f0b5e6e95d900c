"""What `over_members` shares between members, on the ways of both kinds of backend; where convolutions are found.

Axes: K members, B points, D inputs, H hidden units, C classes.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.backend import has_convolution, one_of, over_members, steps_from_python, trains_side_by_side
from tests.compilations import count_compilations

K, B, D, H, C = 6, 5, 4, 8, 3
INPUTS = jax.random.normal(jax.random.key(0), (B, D))
IMAGES = jax.random.normal(jax.random.key(1), (B, 1, 6, 6))
BODY = jax.random.normal(jax.random.key(2), (D, H))
HEADS = jax.random.normal(jax.random.key(3), (K, H, C))
KERNELS = jax.random.normal(jax.random.key(4), (K, 2, 1, 3, 3))
KEYS = jax.random.split(jax.random.key(5), K)


def conv(images, kernel):
    return jax.lax.conv(images, kernel, (1, 1), "VALID")


@jax.custom_vjp
def halved(x):
    return x / 2


halved.defvjp(lambda x: (halved(x), None), lambda _, gradient: (gradient / 2,))


@partial(jax.jit, static_argnames="scale")
def compiled_head(h, head, scale=1.0):
    """A nested program, of what depends on the member and of what does not."""
    shared = jnp.tanh(h)
    return scale * shared @ head, shared


# name -> (function of one member, what members own)
FUNCTIONS = {
    "a head": (lambda head: (jnp.tanh(INPUTS @ BODY) @ head, INPUTS @ BODY), HEADS),
    "a nested program": (lambda head: compiled_head(INPUTS @ BODY, head, scale=2.0), HEADS),
    "noise": (lambda key: INPUTS * jax.random.bernoulli(key, 0.5, (D,))[None], KEYS),
    "parts": (
        lambda own: (INPUTS @ BODY @ own["head"], INPUTS[:, 0] + own["shift"]),
        {"head": HEADS, "shift": HEADS[:, 0, 0]},
    ),
    "a convolution of its own": (lambda kernel: jax.nn.relu(conv(IMAGES, kernel)).mean((2, 3)), KERNELS),
    "a shared convolution": (lambda head: conv(IMAGES, KERNELS[0]).mean((2, 3)) @ head[:2], HEADS),
    "both": (lambda kernel: (conv(conv(IMAGES, KERNELS[0]).sum(1, keepdims=True), kernel), INPUTS), KERNELS),
    "control flow": (
        lambda head: (
            jax.lax.scan(lambda h, _: (jnp.tanh(h @ BODY.T @ BODY), (h @ head).sum(1)), INPUTS @ BODY, None, 2)[1].T
        ),
        HEADS,
    ),
    "custom derivatives": (lambda head: (halved(jax.nn.relu(INPUTS @ BODY)) @ halved(head), halved(INPUTS)), HEADS),
    "constants": (lambda head: (jnp.zeros((B, 2)), jnp.full((B,), 3), head[:B] * 0.0 + 1.0), HEADS),
    "nothing owned": (lambda _: INPUTS @ BODY, ()),
}
functions = pytest.mark.parametrize(("function", "own"), FUNCTIONS.values(), ids=FUNCTIONS)
backends = pytest.mark.parametrize("backend", ["cpu", "tpu"])


def same(actual, expected, tolerance=1e-5):
    """Equal, where an axis of members that is 1 in `actual` stands for all of them."""

    def check(found, wanted):
        assert found.shape[0] == B
        assert found.shape[1] in (1, wanted.shape[1])
        np.testing.assert_allclose(np.broadcast_to(found, wanted.shape), wanted, rtol=tolerance, atol=tolerance)

    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(check, actual, expected)


def by_vmap(function, own):
    """`[B, K, ...]` from `vmap`."""
    if not jax.tree.leaves(own):
        return jax.tree.map(lambda leaf: leaf[:, None], function(own))
    members = jax.vmap(lambda own: jax.tree.map(jnp.asarray, function(own)))(own)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), members)


# -- the same as vmap -------------------------------------------------------------------------------------------------


@pytest.fixture
def on(monkeypatch):
    """Have a backend of that name."""
    return lambda name: monkeypatch.setattr(jax, "default_backend", lambda: name)


@backends
@functions
def test_it_is_vmap_over_members(function, own, backend, on):
    on(backend)
    expected = by_vmap(function, own)
    same(over_members(function, own), expected)
    same(jax.jit(lambda own: over_members(function, own))(own), expected)


@backends
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_under_vmap_over_what_is_shared_and_what_is_owned(kind, backend, on):
    """As the seeds of an experiment, which have bodies and heads of their own."""
    on(backend)

    def run(shared, own):
        if kind == "dense":
            return over_members(lambda head: jnp.tanh(INPUTS @ shared) @ head, own)
        return over_members(lambda kernel: conv(IMAGES * shared.sum(), kernel).mean((2, 3)), own)

    shared = jnp.stack([BODY, -2 * BODY, BODY**2])
    own = jnp.stack([HEADS, HEADS + 1, -HEADS] if kind == "dense" else [KERNELS, KERNELS + 1, -KERNELS])
    expected = [run(shared[s], own[s]) for s in range(3)]
    np.testing.assert_allclose(jax.jit(jax.vmap(run))(shared, own), jnp.stack(expected), rtol=1e-4, atol=1e-5)


@backends
@pytest.mark.parametrize("kind", ["dense", "convolution", "custom derivatives"])
def test_gradients_of_what_is_shared_and_of_what_is_owned(kind, backend, on):
    on(backend)

    def function(shared, own):
        if kind == "dense":
            return jnp.tanh(INPUTS @ shared) @ own
        if kind == "convolution":
            return conv(IMAGES * jnp.sin(shared).sum(), own).mean((2, 3))
        return halved(INPUTS @ halved(shared)) @ halved(own)

    own = KERNELS if kind == "convolution" else HEADS

    def loss(members, shared, own):
        return jnp.square(members(partial(function, shared), own)).sum()

    found = jax.jit(jax.grad(partial(loss, over_members), argnums=(0, 1)))(BODY, own)
    expected = jax.jit(jax.grad(partial(loss, by_vmap), argnums=(0, 1)))(BODY, own)
    for actual, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4)


@backends
def test_inside_a_map_over_points(backend, on):
    on(backend)

    def point(x):
        return over_members(lambda head: (jnp.tanh(x @ BODY) @ head)[None], HEADS)[0]

    found = jax.jit(lambda inputs: jax.lax.map(point, inputs, batch_size=2))(INPUTS)
    same(found, by_vmap(lambda head: jnp.tanh(INPUTS @ BODY) @ head, HEADS))


# -- once for all members ---------------------------------------------------------------------------------------------


@backends
def test_what_does_not_depend_on_the_member_has_an_axis_of_one(backend, on):
    on(backend)

    def function(own):
        h = jnp.tanh(INPUTS @ BODY)
        return h @ own["head"], h, jnp.zeros((B, 2)), own["unused"].shape[0] * h

    found = over_members(function, {"head": HEADS, "unused": HEADS})
    assert [leaf.shape for leaf in found] == [(B, K, C), (B, 1, H), (B, 1, 2), (B, 1, H)]


def test_every_output_has_an_axis_of_one_where_members_are_the_same():
    assert over_members(lambda _: INPUTS, HEADS).shape == (B, 1, D)
    assert over_members(lambda _: (INPUTS, INPUTS @ BODY), ())[1].shape == (B, 1, H)


@backends
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_the_shared_part_runs_once(kind, nested, backend, on):
    on(backend)
    ran = {"shared": 0, "own": 0}

    def count(name):
        ran[name] += 1

    def body(inputs):
        jax.debug.callback(count, "shared", ordered=False)
        return jnp.tanh(inputs @ BODY)

    def member(own):
        h = (jax.jit(body) if nested else body)(INPUTS)
        jax.debug.callback(lambda _: count("own"), own.sum())
        return h @ own if kind == "dense" else conv(IMAGES * h.sum(), own).mean((2, 3))

    own = HEADS if kind == "dense" else KERNELS
    jax.block_until_ready(jax.jit(lambda own: over_members(member, own))(own))
    jax.effects_barrier()
    assert ran == {"shared": 1, "own": K}


def products(jaxpr):
    """The output shapes of every matrix product in a jaxpr."""
    shapes = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            shapes.append(equation.outvars[0].aval.shape)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns")):
            inner = getattr(value, "jaxpr", value)
            shapes += products(inner) if hasattr(inner, "eqns") else []
    return shapes


def test_in_a_nested_program_too_only_the_products_of_the_member_have_its_axis():
    def member(head):
        return compiled_head(jax.jit(jnp.tanh)(INPUTS @ BODY), head)

    found = products(jax.make_jaxpr(lambda own: over_members(member, own))(HEADS).jaxpr)
    assert sorted(map(len, found)) == [2, 3]
    assert (B, H) in found
    assert sorted(next(shape for shape in found if len(shape) == 3)) == sorted((K, B, C))


@backends
def test_members_with_a_convolution_of_their_own_come_one_at_a_time_on_a_cpu(backend, on):
    on(backend)
    for name in ("a convolution of its own", "both"):
        function, own = FUNCTIONS[name]
        program = str(jax.make_jaxpr(partial(over_members, function))(own))
        assert ("scan" in program) == (backend == "cpu")
    for name in ("a head", "noise", "a shared convolution"):
        function, own = FUNCTIONS[name]
        assert "scan" not in str(jax.make_jaxpr(partial(over_members, function))(own))


def test_a_member_that_draws_draws_what_it_draws_alone():
    def member(key):
        first, second = jax.random.split(key)
        return jax.random.normal(first, (B, 2)) + jax.random.uniform(second, (B, 1))

    np.testing.assert_array_equal(over_members(member, KEYS), jnp.stack([member(key) for key in KEYS], 1))


def test_a_second_call_compiles_nothing():
    run = jax.jit(lambda shared, own: over_members(lambda head: jnp.tanh(INPUTS @ shared) @ head, own))
    calls = [(BODY, HEADS), (BODY + 1, HEADS - 1)]
    for call in calls:
        with count_compilations() as compilations:
            jax.block_until_ready(run(*call))
    assert compilations == []


# -- convolutions -----------------------------------------------------------------------------------------------------


def plain(x):
    return jax.lax.conv(x, jnp.ones((1, 1, 2, 2)), (1, 1), "SAME")


@jax.custom_jvp
def with_jvp(x):
    return plain(x)


@jax.custom_vjp
def with_vjp(x):
    return plain(x)


with_jvp.defjvp(lambda primals, tangents: (plain(primals[0]), plain(tangents[0])))
with_vjp.defvjp(lambda x: (plain(x), None), lambda _, gradient: (gradient,))

WRAPPED = {
    "plain": plain,
    "jit": jax.jit(plain),
    "checkpoint": jax.checkpoint(plain),
    "vmap": lambda x: jax.vmap(plain)(x[None])[0],
    "scan": lambda x: jax.lax.scan(lambda x, _: (plain(x), None), x, length=2)[0],
    "while": lambda x: jax.lax.while_loop(lambda x: x.sum() > 0, plain, x),
    "cond": lambda x: jax.lax.cond(x.sum() > 0, plain, lambda x: x, x),
    "custom_jvp": with_jvp,
    "custom_vjp": with_vjp,
    "grad": jax.grad(lambda x: plain(x).sum()),
}


@pytest.mark.parametrize("fn", WRAPPED.values(), ids=WRAPPED)
def test_convolutions_are_found_wherever_they_are(fn):
    image = jnp.ones((1, 1, 4, 4))
    assert has_convolution(fn, image)
    assert has_convolution(fn, jax.ShapeDtypeStruct(image.shape, image.dtype))


def test_no_convolution_is_found_where_there_is_none():
    def network(params, key, x):
        h = jnp.tanh(x @ params)
        return h if key is None else h * jax.random.bernoulli(key, 0.5, h.shape)

    assert not has_convolution(network, BODY, KEYS[0], INPUTS[0])
    assert not has_convolution(network, BODY, None, INPUTS[0])
    assert not has_convolution(jax.jit(lambda x: jnp.linalg.norm(x @ x)), np.ones((3, 3)))


# -- by backend -------------------------------------------------------------------------------------------------------


def test_steps_come_from_python_for_convolutions_on_a_cpu(on):
    for backend, expected in (("cpu", True), ("gpu", False), ("tpu", False)):
        on(backend)
        assert steps_from_python(plain, jnp.ones((1, 1, 4, 4))) == expected
        assert not steps_from_python(jnp.tanh, INPUTS)


def test_where_members_are_trained_side_by_side(on):
    def of_size(size):
        return lambda key: {"w": jnp.zeros(size)}

    on("cpu")
    assert trains_side_by_side(of_size(2**16))
    assert not trains_side_by_side(of_size(2**16 + 1))
    on("gpu")
    assert trains_side_by_side(of_size(2**16 + 1))


def test_the_shapes_of_one():
    found = one_of({"head": HEADS, "key": KEYS})
    assert found["head"] == jax.ShapeDtypeStruct((H, C), jnp.float32)
    assert (found["key"].shape, found["key"].dtype) == ((), KEYS.dtype)
