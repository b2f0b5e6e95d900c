"""BAIT against the authors' rule and its definition in float64, Vector B and bmdal_reg.

The rule, read from github.com/JordanAsh/badge (query_strategies/bait_sampling.py `select` and `BaitSampling.query`,
query_strategies/strategy.py `get_exp_grad_embedding`, run.py for λ): blocks with the rows √p_c (e_c − p) ⊗ h, F the
mean of VᵀV over the pool and the labelled, M = λI + mean_labelled · L / (L + Q) before the first pick, blocks of the
pool scaled by √(Q / (L + Q)); 2Q picks forward, Q dropped backward.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.errors import NonFiniteError
from bdal.selection.bait import bait, bait_one_vector, fisher_roots
from bdal.testing import count_compilations
from tests import vectors

pytestmark = pytest.mark.slow

FIXTURES = Path(__file__).parents[1] / "fixtures"
ORACLES = json.loads((FIXTURES / "oracles.json").read_text())["features"]
R, D, C, Q = 36, 5, 4, 4
EVERY = np.ones(R, bool)
EDGES = ("nothing labelled", "some labelled", "all but Q labelled", "all but Q + 1 labelled", "duplicates", "sure")


def fisher_blocks(features, probs):
    """`[R, C, C·D]`, row by row as in the authors' `get_exp_grad_embedding`."""
    features, probs = np.asarray(features, float), np.asarray(probs, float)
    blocks = np.zeros((*probs.shape, probs.shape[1] * features.shape[1]))
    for c, unit in enumerate(np.eye(probs.shape[1])):
        residual = unit - probs
        residual[:, c] = np.delete(probs, c, axis=1).sum(1)  # 1 − p_c of rounded p
        outer = residual[:, :, None] * features[:, None, :]
        blocks[:, c] = np.sqrt(probs[:, c, None]) * outer.reshape(len(probs), -1)
    return blocks


class Rule:
    """`tr(M⁻¹ F)` of sets of rows: M with weights of labelled and chosen blocks, F of all that matter."""

    def __init__(self, blocks, ridge, known_share, share, scale, available, labelled):
        information = np.einsum("rca,rcb->rab", blocks, blocks)
        self.fisher = scale * information[available | labelled].sum(0)
        self.start = ridge * np.eye(blocks.shape[2]) + known_share * information[labelled].sum(0)
        self.information = share * information
        self.available = available

    @classmethod
    def of_the_authors(cls, features, probs, available, labelled, query_size, ridge=1.0):
        total = labelled.sum() + query_size
        scale = 1 / (available | labelled).sum()
        blocks = fisher_blocks(features, probs)
        return cls(blocks, ridge, 1 / total, query_size / total, scale, available, labelled)

    @classmethod
    def of_vectors(cls, features, sigma, available, labelled):
        return cls(np.asarray(features, float)[:, None], sigma**2, 1, 1, 1, available, labelled)

    def traces(self, matrices):
        return np.trace(np.linalg.solve(matrices, self.fisher), axis1=-2, axis2=-1)

    def trace(self, rows):
        return self.traces(self.start + self.information[list(rows)].sum(0))

    def select(self, query_size, oversample=2):
        """By the definition: every set is summed anew."""
        picks, matrix = [], self.start
        for _ in range(min(round(oversample * query_size), self.available.sum())):
            left = np.setdiff1d(np.flatnonzero(self.available), picks)
            picks.append(int(left[self.traces(matrix + self.information[left]).argmin()]))
            matrix = matrix + self.information[picks[-1]]
        while len(picks) > query_size:
            without = [self.trace([row for row in picks if row != gone]) for gone in picks]
            del picks[int(np.argmin(without))]
        return picks

    def gains(self, picks):
        return -np.diff([self.trace(picks[:place]) for place in range(len(picks) + 1)])


def random_case(edge, seed, length):
    """Features of that mean length, probabilities, and which rows are available and labelled."""
    rng = np.random.default_rng([EDGES.index(edge), seed])
    features = rng.normal(size=(R, D))
    features *= np.logspace(0, -1.5, D) if seed % 3 == 0 else 1
    features += 1.5 if seed % 3 == 1 else 0
    features *= length / np.linalg.norm(features, axis=1).mean()
    probs = rng.dirichlet(np.full(C, (0.3, 1.0)[seed % 2]), R)
    number = {"nothing labelled": 0, "all but Q labelled": R - Q, "all but Q + 1 labelled": R - Q - 1}.get(edge, 9)
    labelled = np.arange(R) < number
    if edge == "duplicates":
        features, probs = np.repeat(features[: R // 3], 3, axis=0), np.repeat(probs[: R // 3], 3, axis=0)
    if edge == "sure":  # two thirds of the rows
        certain = np.arange(R) % 3 > 0
        probs[certain] = np.eye(C)[rng.integers(C, size=certain.sum())]
    available = ~labelled & ((rng.uniform(size=R) < 0.9) if edge == "some labelled" else True)
    return features.astype(np.float32), probs.astype(np.float32), available, labelled


def same_picks(query, rule, picks, edge):
    found = query.indices.tolist()
    if edge in ("duplicates", "sure"):  # ties: an equally good set
        assert len(set(found)) == len(picks)
        assert rule.available[found].all()
        np.testing.assert_allclose(rule.trace(found), rule.trace(picks), rtol=1e-5)
    else:
        assert found == picks
    gains = rule.gains(found)
    np.testing.assert_allclose(query.gains, gains, rtol=2e-3, atol=1e-6 * gains.max())


@pytest.mark.parametrize("length", [1.0, 30.0, 1e3, 1e4])
@pytest.mark.parametrize("edge", EDGES)
def test_picks_are_the_authors(edge, length):
    for seed in range(12):
        features, probs, available, labelled = random_case(edge, seed, length)
        rule = Rule.of_the_authors(features, probs, available, labelled, Q)
        query = bait(features, probs, available=available, labelled=labelled, query_size=Q)
        same_picks(query, rule, rule.select(Q), edge)


@pytest.mark.parametrize("length", [1.0, 30.0, 1e3, 1e4])
@pytest.mark.parametrize("edge", EDGES)
def test_picks_of_one_vector_are_the_definition(edge, length):
    for seed in range(12):
        features, _, available, labelled = random_case(edge, seed, length)
        rule = Rule.of_vectors(features, 1.0, available, labelled)
        query = bait_one_vector(
            features, noise_sigma=1.0, available=available, labelled=labelled, query_size=Q, oversample=2.0
        )
        same_picks(query, rule, rule.select(Q), "duplicates" if edge == "duplicates" else "")


@pytest.mark.parametrize("length", [1.0, 1e4])
@pytest.mark.parametrize("oversample", [1.0, 1.5])
def test_forward_only_and_half_a_backward_pass(oversample, length):
    for seed in range(6):
        features, probs, available, labelled = random_case("some labelled", seed, length)
        known = {"available": available, "labelled": labelled, "query_size": Q, "oversample": oversample}
        rule = Rule.of_the_authors(features, probs, available, labelled, Q, ridge=0.01)
        same_picks(bait(features, probs, noise_sigma=0.1, **known), rule, rule.select(Q, oversample), "")
        rule = Rule.of_vectors(features, 0.1, available, labelled)
        same_picks(bait_one_vector(features, noise_sigma=0.1, **known), rule, rule.select(Q, oversample), "")


def test_as_many_rows_as_are_asked_for():
    rng = np.random.default_rng(0)
    features, probs, every = rng.normal(size=(Q, D)), rng.dirichlet(np.ones(C), Q), np.ones(Q, bool)
    for query, rule in [
        (
            bait(features, probs, available=every, query_size=Q),
            Rule.of_the_authors(features, probs, every, ~every, Q),
        ),
        (
            bait_one_vector(features, noise_sigma=0.3, available=every, query_size=Q, oversample=2.0),
            Rule.of_vectors(features, 0.3, every, ~every),
        ),
    ]:
        same_picks(query, rule, rule.select(Q), "")


def test_no_labelled_rows_is_a_mask_of_none():
    features, probs, available, labelled = random_case("nothing labelled", 0, 10.0)
    query = bait(features, probs, available=available, query_size=Q)
    same = bait(features, probs, available=available, labelled=labelled, query_size=Q)
    assert query.indices.tolist() == same.indices.tolist()


def test_the_last_direction_is_picked_by_what_is_left():
    # With a direction that nobody knows, every row that has a part in it lowers the trace from 1e9 to some hundreds:
    # falls that float32 cannot tell apart, while what is left differs by half.
    ends = 0
    for seed in range(20):
        features, _, available, labelled = random_case("nothing labelled", 3 * seed + 2, 1e4)
        rule = Rule.of_vectors(features, 1.0, available, labelled)
        query = bait_one_vector(features, noise_sigma=1.0, available=available, query_size=D)
        ends += query.indices.tolist() == rule.select(D, 1)
    assert ends == 20


# -- edges -------------------------------------------------------------------------------------------------------------


def test_where_all_are_sure_nothing_is_gained_and_a_key_draws():
    features = random_case("some labelled", 0, 10.0)[0]
    probs = np.eye(C, dtype=np.float32)[np.arange(R) % C]
    draws = [bait(features, probs, available=EVERY, query_size=Q, key=jax.random.key(seed)) for seed in range(5)]
    assert all(draw.gains.tolist() == [0] * Q for draw in draws)
    assert len({tuple(draw.indices.tolist()) for draw in draws}) == 5


def test_one_class_has_nothing_to_tell():
    query = bait(np.ones((R, D)), np.ones((R, 1)), available=EVERY, query_size=Q)
    assert query.indices.tolist() == list(range(Q))
    assert query.gains.tolist() == [0] * Q


def test_few_rows_are_padded():
    features, probs, _, labelled = random_case("nothing labelled", 0, 10.0)
    for count in (0, 2, 4, 6):  # fewer than Q, Q, and fewer than twice Q
        available = np.arange(R) < count
        for query in (
            bait(features, probs, available=available, labelled=labelled, query_size=Q, pad=True),
            bait_one_vector(features, noise_sigma=0.1, available=available, query_size=Q, oversample=2.0, pad=True),
        ):
            found = min(count, Q)
            assert len(set(query.indices[:found].tolist())) == found
            assert (query.indices[:found] < count).all()
            assert query.indices[found:].tolist() == [-1] * (Q - found)
            assert (query.gains[:found] > 0).all()
            assert (query.gains[found:] == 0).all()


def test_of_equal_rows_the_first_are_kept():
    query = bait_one_vector(np.ones((R, D)), noise_sigma=0.1, available=EVERY, query_size=Q, oversample=2.0)
    assert query.indices.tolist() == list(range(Q))
    query = bait(np.ones((R, D)), np.full((R, C), 1 / C), available=EVERY, query_size=Q)
    assert query.indices.tolist() == list(range(Q))


def test_rows_that_do_not_matter_do_not():
    features, probs, available, labelled = random_case("some labelled", 1, 10.0)
    known = {"available": available, "labelled": labelled, "query_size": Q}
    query = bait(features, probs, **known)
    features[~(available | labelled)] = np.nan
    probs[~(available | labelled)] = 7.0
    again = bait(features, probs, **known)
    np.testing.assert_array_equal(query.indices, again.indices)
    np.testing.assert_array_equal(query.gains, again.gains)


def test_dropping_rows_does_better_than_not_picking_them():
    better = 0
    for seed in range(6):
        features, probs, available, labelled = random_case("nothing labelled", seed, 100.0)
        options = {"available": available, "labelled": labelled, "query_size": 2 * Q}
        forward, both = (bait(features, probs, oversample=over, **options).gains.sum() for over in (1.0, 2.0))
        better += bool(both > forward)
    assert better >= 5


# -- the parts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 10, 17])
def test_roots_are_of_the_information_of_a_label(classes):
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(40, classes)) * rng.choice([0.1, 3, 30], (40, 1))
    probs = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float32))).astype(float)  # some of 1 in float32
    others = np.stack([np.delete(probs, c, axis=1).sum(1) for c in range(classes)], axis=1)
    information = -probs[:, :, None] * probs[:, None, :]
    information[:, range(classes), range(classes)] = probs * others
    u = np.full(classes, classes**-0.5)  # the reflection that turns the direction of ones to the last axis
    v = u + np.eye(classes)[-1]
    basis = (np.eye(classes) - 2 * np.outer(v, v) / (v @ v))[:, :-1]
    np.testing.assert_allclose(basis.T @ u, 0, atol=1e-15)
    expected = basis.T @ information @ basis
    roots = np.asarray(fisher_roots(jnp.asarray(probs, jnp.float32))).astype(float)
    assert roots.shape == (40, classes - 1, classes - 1)
    for root, value in zip(roots, expected, strict=True):
        np.testing.assert_allclose(root.T @ root, value, rtol=1e-5, atol=1e-5 * np.abs(value).max())


def test_of_many_classes_the_likeliest_are_kept():
    rng = np.random.default_rng(0)
    features, probs = rng.normal(size=(R, D)) * 5, rng.dirichlet(np.full(25, 0.1), R)
    labelled = np.arange(R) < 5
    assert fisher_roots(jnp.asarray(probs)).shape == (R, 16, 24)
    rule = Rule.of_the_authors(features, probs, ~labelled, labelled, Q)
    query = bait(features, probs, available=~labelled, labelled=labelled, query_size=Q)
    assert rule.trace(query.indices.tolist()) <= 1.01 * rule.trace(rule.select(Q))


def test_features_of_few_dimensions_are_projected_without_loss():
    features, probs, available, labelled = random_case("some labelled", 2, 10.0)
    wide = features[:, :3] @ np.linalg.qr(np.random.default_rng(0).normal(size=(20, 3)))[0].T  # of 20, three are used
    rule = Rule.of_the_authors(wide, probs, available, labelled, Q)
    known = {"available": available, "labelled": labelled, "query_size": Q}
    query = bait(wide, probs, sketch_dim=11, **known)  # ⌊11 / 3⌋ directions
    same_picks(query, rule, rule.select(Q), "")
    lost = bait(wide, probs, sketch_dim=8, **known)
    assert lost.gains.sum() < 0.99 * query.gains.sum()


def test_rows_come_in_chunks(monkeypatch):
    module = __import__("sys").modules["bdal.selection.bait"]
    features, probs, available, labelled = random_case("some labelled", 4, 10.0)
    rule = Rule.of_the_authors(features, probs, available, labelled, Q)
    jax.clear_caches()
    for chunk in (1, 7, R):
        monkeypatch.setattr(module, "_chunk", lambda rank, width, chunk=chunk: chunk)
        known = {"available": available, "labelled": labelled, "query_size": Q}
        query = jax.jit(lambda known=known: bait(features, probs, **known))()
        same_picks(query, rule, rule.select(Q), "")
        jax.clear_caches()


def test_seeds_together_are_seeds_apart():
    # wide enough for factorisations in threads: three of them at once, each of a stack of matrices, never end
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(3, 50, 60)), jnp.float32)
    probs = jnp.asarray(rng.dirichlet(np.ones(5), (3, 50)), jnp.float32)
    labelled = jnp.asarray(np.arange(50) < np.array([[0], [3], [11]]))

    def one(features, probs, labelled):
        return bait(features, probs, available=~labelled, labelled=labelled, query_size=Q)

    together = jax.jit(jax.vmap(one))(features, probs, labelled)
    for seed in range(3):
        apart = one(features[seed], probs[seed], labelled[seed])
        np.testing.assert_array_equal(together.indices[seed], apart.indices)
        np.testing.assert_allclose(together.gains[seed], apart.gains, rtol=1e-4)


def test_nothing_is_compiled_again():
    for length, edge in ((1.0, "nothing labelled"), (1e3, "some labelled")):
        features, probs, available, labelled = random_case(edge, 0, length)
        with count_compilations() as compilations:
            bait(features, probs, available=available, labelled=labelled, query_size=Q)
            bait_one_vector(features, noise_sigma=length, available=available, labelled=labelled, query_size=Q)
    assert not compilations


# -- one vector a row --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["with_labelled", "pool_only"])
@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("select", [bait, bait_one_vector])
def test_picks_agree_with_bmdal_reg(select, name, case):
    with np.load(FIXTURES / "oracles.npz") as stored:
        features = stored[f"features_{name}"]
    pool, _ = ORACLES[name]["rows"]
    in_pool = np.arange(len(features)) < pool
    if case == "pool_only":
        features = np.where(in_pool[:, None], features, np.nan)  # one program for both cases
    query = select(
        features,
        noise_sigma=0.1,
        available=in_pool,
        labelled=~in_pool if case == "with_labelled" else ~in_pool & False,
        query_size=ORACLES[name]["query_size"],
    )
    assert query.indices.tolist() == ORACLES[name][case]["bait"]["bmdal_reg"]["indices"]


def test_vector_b():
    query = bait(
        vectors.vector_b(), noise_sigma=0.1, available=~vectors.B_LABELLED, labelled=vectors.B_LABELLED, query_size=5
    )
    assert (query.indices - 3).tolist() == [4, 0, 9, 7, 10]


def test_misuse_is_named():
    features, probs, available, labelled = random_case("some labelled", 1, 10.0)
    options = {"available": available, "labelled": labelled, "query_size": Q}
    for select in (lambda **other: bait(features, probs, **other), lambda **other: bait(features, **other)):
        with pytest.raises(ValueError, match=r"noise_sigma must be finite and positive, got 0\.0"):
            select(noise_sigma=0.0, **options)
        for oversample in (0.5, np.inf, np.nan):
            with pytest.raises(ValueError, match="oversample must be a finite number of at least 1"):
                select(oversample=oversample, **options)
        with pytest.raises(ValueError, match="query_size is 60, but only"):
            select(**(options | {"query_size": 60}))
    for sketch_dim in (C - 2, 8.0, True):
        with pytest.raises(ValueError, match="sketch_dim must be a Python int of at least C − 1 = 3, got"):
            bait(features, probs, sketch_dim=sketch_dim, **options)
    with pytest.raises(ValueError, match=r"features must have shape \[R, D\] with R = 36"):
        bait(features[1:], probs, **options)
    with pytest.raises(ValueError, match=r"probs must have shape \[R, C\] with R = 36"):
        bait(features, probs[1:], **options)
    with pytest.raises(ValueError, match=r"probs must be probabilities.*pass jnp\.exp"):
        bait(features, np.log(probs), **options)
    probs[labelled.argmax(), 0] = np.nan
    with pytest.raises(NonFiniteError, match="probs: 1 of "):
        bait(features, probs, **options)
