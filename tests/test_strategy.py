"""Every named strategy is its two functions, one after the other; what else a query needs is checked once for all."""

import inspect
import re
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal import acquisition, contrib, selection
from bdal.calibration import fit_temperature
from bdal.committee import deep_ensemble, mc_dropout
from bdal.errors import LabelError, NonFiniteError
from bdal.information import log_mean_exp
from bdal.loop import active_learning
from bdal.pool import LabelledSet
from bdal.strategy import STRATEGIES, QueryStrategy, make_strategy, query, score_and_select
from bdal.strategy.scores import NOT_NEGATIVE, POINTWISE
from bdal.strategy.table import AUTHORS, OTHER_NAMES
from bdal.testing import check_committee
from tests.compilations import count_compilations

N, K, C, D, L, Q = 40, 5, 4, 3, 6, 4
RNG = np.random.default_rng(0)
POOL = jnp.asarray(RNG.normal(size=(N, D)), jnp.float32)
LABELLED = jnp.asarray(RNG.normal(size=(L, D)), jnp.float32)
AVAILABLE = jnp.asarray(RNG.random(N) < 0.6)
TARGETS = jnp.asarray(RNG.normal(size=(7, D)), jnp.float32)
KEY = jax.random.key(7)


def apply(params, key, x):
    weights, bad = params["weights"], params["bad"]
    broken = (bad > 0) & (x[0] > 1.3)
    return jnp.where(broken, jnp.nan, x @ weights), jnp.where(broken, jnp.nan, jnp.sin(x))


def members(bad=(0, 0, 0, 0, 0), scale=2.0):
    weights = scale * jax.random.normal(jax.random.key(1), (len(bad), D, C))
    return deep_ensemble(apply, {"weights": weights, "bad": jnp.asarray(bad)})


def dropout_apply(params, key, x):
    mask = jnp.ones(8) if key is None else 2.0 * jax.random.bernoulli(key, 0.5, (8,))
    h = mask * jnp.tanh(x @ params["in"])
    return h @ params["out"], h


def dropout_committee():
    a, b = jax.random.split(jax.random.key(2))
    params = {"in": jax.random.normal(a, (D, 8)), "out": 2 * jax.random.normal(b, (8, C))}
    return mc_dropout(dropout_apply, params, jax.random.split(jax.random.key(3), K))


COMMITTEE = members()
LABELS = jnp.zeros(L, jnp.int32)
ALL = sorted(STRATEGIES)
TABLE = STRATEGIES | contrib.STRATEGIES
SOME = ["bald", "k_center", "mutual_information_penalty"]  # one of each kind, where one of each is enough


def ask(name, key=KEY, committee=COMMITTEE, pool=POOL, query_size=Q, available=AVAILABLE, **options):
    return query(
        key, make_strategy(name, **options), committee, pool, query_size=query_size, available=available,
        labelled_inputs=LABELLED, labels=LABELS, targets=TARGETS, chunk_size=16,
    )  # fmt: skip


def same_query(one, other):
    assert np.asarray(one.indices).tolist() == np.asarray(other.indices).tolist()
    np.testing.assert_allclose(one.gains, other.gains, rtol=1e-5, atol=1e-6)


# -- named strategies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
def test_a_pool_on_the_host_gives_the_same_query(name):
    same_query(ask(name), ask(name, pool=np.asarray(POOL)))


def top(score):
    """`top_k` of a score."""
    return lambda keys, log_probs, available: selection.top_k(
        score(log_probs), available=available, query_size=Q, key=keys[1]
    )


def by_score(select, score=acquisition.bald, **options):
    """A selector of a key and scores."""
    return lambda keys, log_probs, available: select(
        keys[1], score(log_probs), available=available, query_size=Q, **options
    )


def by_both(select, score=acquisition.bald, **options):
    """A selector of scores and embeddings."""
    return lambda keys, log_probs, available: select(
        score(log_probs), COMMITTEE.embedding(POOL), available=available, query_size=Q, key=keys[1], **options
    )


def by_both_and_labelled(select, score):
    """A selector of scores and embeddings of the candidates and, after them, of the labelled points."""
    return lambda keys, log_probs, available: select(
        jnp.r_[score(log_probs), jnp.zeros(L)], COMMITTEE.embedding(jnp.concatenate([POOL, LABELLED])),
        available=jnp.r_[available, jnp.zeros(L, bool)], labelled=jnp.arange(N + L) >= N, query_size=Q, key=keys[1],
    )  # fmt: skip


def by_features(select, kernel="features", *, key_first=False, with_labelled=True, **options):
    """A selector of the features of the candidates and, after them, of the labelled points."""

    def run(keys, log_probs, available):
        rows = jnp.concatenate([POOL, LABELLED]) if with_labelled else POOL
        probs = jnp.exp(log_mean_exp(COMMITTEE.log_probs(rows)))
        features = {
            "features": lambda: COMMITTEE.embedding(rows),
            "committee": lambda: selection.committee_features(COMMITTEE.log_probs(rows)),
            "gradient": lambda: selection.gradient_features(
                probs, COMMITTEE.embedding(rows), sketch_dim=512, key=keys[0]
            ),
        }[kernel]()
        known = {"labelled": jnp.arange(len(rows)) >= N} if with_labelled else {}
        chosen = partial(
            select, available=jnp.r_[available, jnp.zeros(len(rows) - N, bool)], query_size=Q, **known, **options
        )
        return chosen(keys[1], features) if key_first else chosen(features, key=keys[1])

    return run


def model_change(function):
    return lambda log_probs: function(log_probs, COMMITTEE.features(POOL))


def toward_targets(function):
    return top(lambda log_probs: function(log_probs, COMMITTEE.log_probs(TARGETS)))


def mean(inputs):
    return log_mean_exp(COMMITTEE.log_probs(inputs))


def cluster_margin(keys, log_probs, available):
    cluster_key, key = jax.random.split(keys[1])
    clusters = selection.k_means_clusters(
        cluster_key, COMMITTEE.embedding(POOL), num_clusters=5 * Q, available=available
    )
    return selection.cluster_margin(
        key, acquisition.margin(log_probs), clusters, candidates=10 * Q, available=available, query_size=Q
    )


def diverse_mini_batch(keys, log_probs, available, query_size=Q, candidates=10 * Q):
    """Zhdanov (2019), algorithm 1, with a prefilter in float64."""
    _, key = jax.random.split(keys[1])
    probs = np.sort(np.exp(np.asarray(log_probs, np.float64)).mean(1), axis=1)
    informativeness = 1 - (probs[:, -1] - probs[:, -2])
    best = np.argsort(np.where(available, -informativeness, np.inf))[:candidates]
    uncertain = available & jnp.zeros(N, bool).at[best].set(True)
    return selection.k_means(
        key, COMMITTEE.embedding(POOL), weights=informativeness, available=uncertain, query_size=query_size
    )


def prob_cover(keys, log_probs, available, wide=True):
    key, cluster_key = jax.random.split(keys[1])
    rows = selection.unit_rows(COMMITTEE.embedding(jnp.concatenate([POOL, LABELLED])))
    available, labelled = jnp.r_[available, jnp.zeros(L, bool)], jnp.arange(N + L) >= N
    clusters = selection.k_means_clusters(cluster_key, rows, num_clusters=C, available=available | labelled)
    radius = selection.purity_radius(rows, clusters, available=available | labelled)
    radius = max(radius, selection.half_spread(rows, available | labelled)) if wide else radius
    return selection.prob_cover(rows, radius=radius, available=available, labelled=labelled, query_size=Q, key=key)


DIRECT = {  # (the keys of prepare and select, log_probs, available) -> Query: the functions themselves
    **{name: top(function) for name, function in acquisition.ACQUISITION_FUNCTIONS.items() if name in STRATEGIES},
    "entropy": top(acquisition.predictive_entropy),
    "random": lambda keys, log_probs, available: selection.top_k(
        jax.random.uniform(keys[1], (N,)), available=available, query_size=Q
    ),
    "power_bald": by_score(selection.power, beta=8.0),
    "softmax_bald": by_score(selection.softmax, beta=8.0),
    "softrank_bald": by_score(selection.softrank, beta=1.0),
    "expected_model_change": top(
        lambda log_probs: acquisition.expected_model_change(
            log_probs, acquisition.last_layer_gradient_norms(log_probs, COMMITTEE.features(POOL))
        )
    ),
    "fisher_trace": top(model_change(acquisition.last_layer_fisher_trace)),
    **{
        name: toward_targets(getattr(acquisition, name))
        for name in (
            "epig", "expected_error_reduction", "core_mse", "core_log", "mocu", "weighted_mocu", "soft_mocu"
        )
    },
    "contrastive": top(
        lambda log_probs: acquisition.contrastive(
            mean(POOL), COMMITTEE.embedding(POOL), mean(LABELLED), COMMITTEE.embedding(LABELLED)
        )
    ),
    "label_dispersion": top(acquisition.label_dispersion),
    "forgetting_events": top(acquisition.forgetting_events),
    "bald_diverse": by_both(selection.diverse, weight=1.0),
    "mutual_information_penalty": lambda keys, log_probs, available: selection.mutual_information_penalty(
        log_probs, reduce="max", available=available, query_size=Q, key=keys[1]
    ),
    "batchbald": lambda keys, log_probs, available: selection.batchbald(
        keys[1], log_probs, available=available, query_size=Q
    ),
    "badge": lambda keys, log_probs, available: selection.badge(
        keys[1], jnp.exp(mean(POOL)), COMMITTEE.embedding(POOL), available=available, query_size=Q
    ),
    "uncertainty_herding": by_both_and_labelled(selection.uncertainty_herding, lambda l: 1 + acquisition.margin(l)),
    "weighted_coverage": by_both_and_labelled(selection.weighted_coverage, acquisition.predictive_entropy),
    "suggestive_annotation": by_both(
        selection.suggestive_annotation, acquisition.predictive_variance, candidates=2 * Q
    ),
    "cluster_margin": cluster_margin,
    "diverse_mini_batch": diverse_mini_batch,
    "class_balanced": lambda keys, log_probs, available: selection.class_balanced(
        acquisition.margin(log_probs), mean(POOL).argmax(-1), jnp.array([L, 0, 0, 0]), available=available,
        query_size=Q, key=keys[1],
    ),
    "k_center": by_features(selection.k_center),
    "lcmd": by_features(selection.lcmd),
    "max_det": by_features(selection.max_det, "committee", noise_sigma=0.1),
    "bait": lambda keys, log_probs, available: selection.bait(
        COMMITTEE.embedding(jnp.concatenate([POOL, LABELLED])), jnp.exp(mean(jnp.concatenate([POOL, LABELLED]))),
        available=jnp.r_[available, jnp.zeros(L, bool)], labelled=jnp.arange(N + L) >= N, query_size=Q, key=keys[1],
    ),
    "bait_one_vector": by_features(selection.bait_one_vector, "gradient", noise_sigma=0.1, oversample=2.0),
    "frank_wolfe": by_features(selection.frank_wolfe, "gradient", with_labelled=False),
    "k_means": by_features(selection.k_means, with_labelled=False, key_first=True),
    "k_means_plus_plus": by_features(selection.k_means_plus_plus, key_first=True),
    "typiclust": by_features(
        lambda key, features, **how: selection.typiclust(key, selection.unit_rows(features), **how), key_first=True
    ),
    "prob_cover": prob_cover,
    "max_herding": by_features(selection.max_herding),
    "facility_location": by_features(selection.facility_location),
}  # fmt: skip


BY_SCORE_ALONE = {
    name for name, direct in DIRECT.items() if direct.__qualname__.startswith("top.") and "mocu" not in name
} - {"expected_error_reduction", "forgetting_events"}  # in which both kinds below are worth the same


OF_EACH_KIND = {
    *SOME, "random", "entropy", "power_bald", "expected_model_change", "epig", "contrastive", "bald_diverse", "badge",
    "batchbald", "lcmd",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:epig from 5 members")
@pytest.mark.parametrize("name", [n if n in OF_EACH_KIND else pytest.param(n, marks=pytest.mark.slow) for n in ALL])
def test_a_named_strategy(name):  # all in one: a strategy is compiled once for every test
    found, expected = ask(name), DIRECT[name](jax.random.split(KEY), COMMITTEE.log_probs(POOL), AVAILABLE)
    same_query(found, expected)  # the vote scores too: their many ties are in an order that rounding does not change
    again = ask(name, pool=POOL + 0)
    np.testing.assert_array_equal(found.indices, again.indices)
    np.testing.assert_array_equal(found.gains, again.gains)

    for seed in range(3):  # never an unavailable point, and none twice
        rows = np.random.default_rng(seed).permutation(N)[:Q]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # so few points may all have the same votes
            indices = ask(name, available=jnp.zeros(N, bool).at[rows].set(True)).indices
        assert sorted(np.asarray(indices).tolist()) == sorted(rows.tolist())

    pool, everything = jnp.tile(POOL[:2], (N // 2, 1)), jnp.ones(N, bool)  # twice twenty equal points
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both kinds may be worth the same
        ties = [ask(name, key=jax.random.key(s), pool=pool, available=everything).indices.tolist() for s in range(6)]
    assert len({tuple(indices) for indices in ties}) == 6  # broken by the key
    if name in BY_SCORE_ALONE:
        assert all(len({index % 2 for index in indices}) == 1 for indices in ties)  # the better kind, but any of it


FUNCTIONS = {  # where the function of a strategy has another name
    "entropy": "predictive_entropy",
    "power_bald": "power",
    "softmax_bald": "softmax",
    "softrank_bald": "softrank",
    "fisher_trace": "last_layer_fisher_trace",
    "bald_diverse": "diverse",
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table_says_what_pins_a_method(name):
    method = TABLE[name]
    test = Path(__file__).resolve().parents[1] / method.test
    assert re.search(rf"\b{FUNCTIONS.get(name, name)}\b", test.read_text())
    assert method.needs
    assert method.cost


@pytest.mark.parametrize("name", TABLE)
def test_the_table_says_whose_rule_a_method_is_and_so_does_the_docstring(name):
    method = TABLE[name]
    factory = method.make.func if isinstance(method.make, partial) else method.make
    function = FUNCTIONS.get(name, name)
    documented = [factory, *(getattr(room, function, None) for room in (acquisition, selection))]
    docstrings = " ".join(" ".join((inspect.getdoc(each) or "").split()) for each in documented if each is not None)
    assert method.paper or name == "random"
    for author, year in re.findall(r"(\w+)[^;]* (\d{4})", method.paper):
        assert re.search(rf"\b{author}\b.{{0,60}}\(?{year}", docstrings), (author, year)
    if method.rule == AUTHORS:
        assert "Differs from the paper" not in docstrings
    elif name != "random":
        assert f"Differs from the paper: {method.rule}" in docstrings
    assert 3 <= len(method.rule.split()) <= 22
    assert method.rule == method.rule.strip().rstrip(".")


def parts(key, strategy, committee=COMMITTEE):
    """A query without `query`: the map over the whole pool, then the fold."""
    values = strategy.score(strategy.prepare(KEY, committee, LABELLED, LABELS, None), POOL)
    return strategy.select(key, values, available=AVAILABLE, labelled=jnp.zeros(N, bool), query_size=Q)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("power_bald", {"beta": 0.5}),
        ("power_bald", {"score": "predictive_entropy"}),
        ("softmax_bald", {"beta": 0.5}),
        ("softmax_bald", {"score": "mean_std"}),
        ("softrank_bald", {"beta": 0.1}),
        ("softrank_bald", {"score": "predictive_entropy"}),
        ("bald_diverse", {"weight": 50}),
        ("bald_diverse", {"score": "predictive_entropy"}),
        ("expected_model_change", {"layers": "all"}),
        ("mutual_information_penalty", {"reduce": "sum"}),
        ("diverse_mini_batch", {"candidates_per_pick": 1}),
        ("suggestive_annotation", {"candidates_per_pick": 1}),
        ("suggestive_annotation", {"score": "margin"}),
        ("cluster_margin", {"candidates_per_pick": 1}),
        ("cluster_margin", {"clusters_per_pick": 1}),
        ("typiclust", {"rule": "paper"}),
    ],
)
def test_options_reach_the_functions(name, options):
    plain, changed = parts(KEY, make_strategy(name)), parts(KEY, make_strategy(name, **options))
    assert np.asarray(plain.indices).tolist() != np.asarray(changed.indices).tolist()


@pytest.mark.parametrize("query_size", [1, 3])
def test_candidates_are_multiples_of_the_query(query_size):
    """All picks are among the best 2 Q, 10 Q or 10 Q points; of 3 Q, the k-means of `diverse_mini_batch` has 10 Q."""
    log_probs, everything = COMMITTEE.log_probs(POOL), jnp.ones(N, bool)
    for name, score, multiple in (
        ("suggestive_annotation", acquisition.predictive_variance, 2),
        ("cluster_margin", acquisition.margin, 10),
        ("diverse_mini_batch", acquisition.margin, 10),
    ):
        best = np.argsort(-score(log_probs))[: multiple * query_size]
        picks = [
            ask(name, key=jax.random.key(seed), available=everything, query_size=query_size).indices.tolist()
            for seed in range(10)
        ]
        assert {pick for indices in picks for pick in indices} <= set(best.tolist()), name
        found = ask(name, available=everything, query_size=query_size, candidates_per_pick=0.5)
        assert sorted(found.indices.tolist()) == sorted(best[:query_size].tolist())  # never fewer than the query
    expected = diverse_mini_batch(jax.random.split(KEY), log_probs, everything, query_size, 10 * query_size)
    same_query(ask("diverse_mini_batch", available=everything, query_size=query_size), expected)


def test_prob_cover_has_the_radius_of_the_paper_where_that_is_the_rule():
    log_probs, everything = COMMITTEE.log_probs(POOL), jnp.ones(N, bool)
    expected = prob_cover(jax.random.split(KEY), log_probs, everything, wide=False)
    same_query(ask("prob_cover", rule="paper", available=everything), expected)
    wide = prob_cover(jax.random.split(KEY), log_probs, everything)
    assert wide.indices.tolist() != expected.indices.tolist()


def test_expected_model_change_of_all_layers_is_the_full_gradient():
    committee = dropout_committee()

    def length(k, c, x):
        gradient = jax.grad(lambda params: jax.nn.log_softmax(dropout_apply(params, committee.noise[k], x)[0])[c])
        return jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradient(committee.shared))))

    @jax.jit
    def expected(x):
        probs = jnp.exp(committee.log_probs(x[None]))[0].mean(0)
        lengths = jax.vmap(lambda k: jax.vmap(lambda c: length(k, c, x))(jnp.arange(C)))(jnp.arange(K))
        return jnp.sum(probs * lengths.mean(0))

    score = jax.jit(make_strategy("expected_model_change", layers="all").score)
    np.testing.assert_allclose(score(committee, POOL[:3]), [expected(x) for x in POOL[:3]], rtol=1e-5)


def test_k_center_sees_what_is_labelled():
    keys = jax.random.split(KEY)
    with_labelled = ask("k_center").indices.tolist()
    assert with_labelled == DIRECT["k_center"](keys, None, AVAILABLE).indices.tolist()
    assert with_labelled != parts(keys[1], make_strategy("k_center")).indices.tolist()


def test_equal_options_are_one_strategy():
    assert make_strategy("power_bald", beta=4) is make_strategy("power_bald", beta=4.0)
    assert make_strategy("power_bald", beta=4) is not make_strategy("power_bald", beta=5)
    assert make_strategy("bald") is make_strategy("bald")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("BALD", {}, r"got 'BALD' \(did you mean 'bald'\?\)"),
        ("batch_bald", {}, r"\(did you mean 'batchbald'\?\)"),
        ("core-set", {}, r"\(did you mean 'k_center'\?\)"),
        ("EGL", {}, r"\(did you mean 'expected_model_change'\?\)"),
        ("blad", {}, r"strategy: got 'blad' \(did you mean 'bald'\?\), expected one of badge, bait, "),
        ("bald", {"beta": 2}, r"strategy bald: expected no options, got 'beta'"),
        ("power_bald", {"betta": 2}, r"strategy power_bald: expected options score, beta, got 'betta'"),
        ("power_bald", {"beta": "high"}, r"a beta that is finite and not negative, got 'high'"),
        ("power_bald", {"beta": True}, r"a beta that is finite and not negative, got True"),
        ("softrank_bald", {"beta": -1}, r"a beta that is finite and not negative, got -1"),
        ("bald_diverse", {"weight": float("nan")}, r"a weight that is finite and not negative, got nan"),
        ("softmax_bald", {"score": "uncertainty"}, r"a score among predictive_entropy, .*, got 'uncertainty'"),
        ("mutual_information_penalty", {"reduce": "mean"}, r"a reduce among max, sum, got 'mean'"),
        ("expected_model_change", {"layers": "first"}, r"a layers among last, all, got 'first'"),
    ],
)
def test_an_unknown_name_option_or_value_is_refused_before_anything_runs(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_strategy(name, **options)


# -- numbers that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "where"),
    [(name, jnp.asarray) for name in (*SOME, "power_bald", "bald_diverse", "expected_model_change", "badge", "max_det")]
    + [(name, np.asarray) for name in SOME],
)
def test_nan_in_one_member_is_named_by_its_pool_points(name, where):
    committee = members(bad=(0, 0, 1, 0, 0))
    bad = np.flatnonzero(np.asarray(AVAILABLE & (POOL[:, 0] > 1.3))).tolist()
    assert 1 < len(bad) <= 5
    with pytest.raises(
        NonFiniteError, match=rf"in {len(bad)} available points \(pool indices \[{', '.join(map(str, bad))}\]"
    ):
        ask(name, committee=committee, pool=where(POOL))
    fine = AVAILABLE & ~(POOL[:, 0] > 1.3)  # the same members, asked about other points
    assert set(np.asarray(ask(name, committee=committee, pool=where(POOL), available=fine).indices)) <= set(
        np.flatnonzero(fine).tolist()
    )


@pytest.mark.parametrize("where", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_nan_everywhere_is_a_non_finite_error_too(where):
    committee = deep_ensemble(apply, {"weights": jnp.full((K, D, C), jnp.nan), "bad": jnp.zeros(K, int)})
    with pytest.raises(NonFiniteError, match=rf"in {int(AVAILABLE.sum())} available points .* \.\.\.\)"):
        ask("bald", committee=committee, pool=where(POOL))


DISAGREEMENT = ["bald", "power_bald", "softmax_bald", "softrank_bald", "mutual_information_penalty", "mean_std",
                "predictive_variance", "variation_ratio", "vote_entropy"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "num_members"),
    [(name, K) for name in DISAGREEMENT] + [(name, 1) for name in ("bald", "mutual_information_penalty")],
)
def test_members_that_cannot_disagree_give_a_random_query_and_a_warning(name, num_members):
    weights = jax.random.normal(jax.random.key(1), (1, D, C))
    params = {"weights": jnp.repeat(weights, num_members, axis=0), "bad": jnp.zeros(num_members, int)}
    committee = deep_ensemble(apply, params)
    found = []
    for s in range(3):
        with pytest.warns(UserWarning, match="same score up to rounding"):
            found.append(tuple(np.asarray(ask(name, key=jax.random.key(s), committee=committee).indices)))
    assert len(set(found)) == 3
    assert {index for indices in found for index in indices} <= set(np.flatnonzero(AVAILABLE).tolist())


@pytest.mark.parametrize("name", ["bald", "mutual_information_penalty", "predictive_variance"])
def test_members_that_differ_by_rounding_only_give_the_warning(name):
    weights = jax.random.normal(jax.random.key(1), (1, D, C)) * (1 + 1e-7 * jnp.arange(K)[:, None, None])
    committee = deep_ensemble(apply, {"weights": weights, "bad": jnp.zeros(K, int)})
    assert jnp.ptp(committee.log_probs(POOL), axis=1).max() > 0
    with pytest.warns(UserWarning, match="same score up to rounding"):
        ask(name, committee=committee)


def test_bald_of_one_member_is_exactly_zero():
    with pytest.warns(UserWarning, match="random"):
        assert ask("bald", committee=members(bad=(0,))).gains.tolist() == [0.0] * Q


# -- stages, targets, masks ------------------------------------------------------------------------------------------


def test_a_prefilter_lets_pass_the_highest_scores_only():
    bald = acquisition.bald(COMMITTEE.log_probs(POOL))
    best = jax.lax.top_k(jnp.where(AVAILABLE, bald, -jnp.inf), 6)[1]
    found = ask("margin", prefilter=6)
    assert set(found.indices.tolist()) < set(best.tolist())
    margin = acquisition.margin(COMMITTEE.log_probs(POOL))
    np.testing.assert_allclose(found.gains, jax.lax.top_k(margin[best], Q)[0], rtol=1e-5)
    assert sorted(ask("random", prefilter=1).indices.tolist()) == sorted(
        best[:Q].tolist()
    )  # never fewer than the query
    same_query(ask("margin", prefilter=1000), ask("margin"))
    with pytest.raises(ValueError, match="expected a prefilter of at least 1, an integer, got 0"):
        make_strategy("margin", prefilter=0)


def test_a_prefilter_names_a_point_whose_score_is_no_number():
    with pytest.raises(NonFiniteError, match="pool indices"):
        ask("random", committee=members(bad=(1, 0, 0, 0, 0)), pool=POOL.at[3, 0].set(1.5), prefilter=5,
            available=jnp.ones(N, bool))  # fmt: skip


def test_a_number_of_targets_is_so_many_random_candidates():
    seen = []

    def prepare(key, committee, labelled_inputs, labels, targets):
        seen.append((targets, labels))
        return committee

    own = make_strategy("bald")._replace(prepare=prepare)
    for _ in range(2):
        query(KEY, own, COMMITTEE, np.asarray(POOL), query_size=2, targets=5, labelled_inputs=LABELLED, labels=LABELS)
    (targets, labels), (again, _) = seen
    assert targets.shape == (5, D)
    assert {tuple(row) for row in np.asarray(targets)} <= {tuple(row) for row in np.asarray(POOL)}
    np.testing.assert_array_equal(targets, again)
    np.testing.assert_array_equal(labels, LABELS)
    with pytest.raises(ValueError, match="targets: epig expects the inputs that the model is to be good at"):
        query(KEY, make_strategy("epig"), COMMITTEE, POOL, query_size=2)


def test_where_there_is_no_label_yet_prepare_sees_minus_one():
    own = QueryStrategy(
        lambda labels, x: jnp.broadcast_to(labels.sum(), x.shape[:1]) + x[:, 0],
        make_strategy("bald").select,
        lambda key, committee, inputs, labels, targets: labels,
    )
    labelled = jnp.array([True, True, False, False])
    chosen, _ = score_and_select(
        KEY, own, COMMITTEE, POOL, POOL[:4], jnp.array([2, 3, 7, 7]), None, AVAILABLE, labelled, query_size=1,
        chunk_size=16,
    )  # fmt: skip
    np.testing.assert_allclose(chosen.gains[0], 2 + 3 - 1 - 1 + jnp.where(AVAILABLE, POOL[:, 0], -9).max(), rtol=1e-5)


@pytest.mark.parametrize("value", [-jnp.inf, jnp.inf, jnp.nan, 3e19])
@pytest.mark.parametrize("name", ["k_center", "bald_diverse"])
def test_features_that_are_no_numbers_or_overflow_are_refused(name, value):
    def odd(weights, key, x):
        return x @ weights, jnp.where(x[0] > 1, jnp.where(x[1] > 0, value, -value), x)

    committee = deep_ensemble(odd, COMMITTEE.own["weights"])
    if name == "bald_diverse" and value == 3e19:  # directions are of length one
        assert jnp.isfinite(ask(name, committee=committee).gains).all()
        return
    with pytest.raises(NonFiniteError, match="pool indices"):
        ask(name, committee=committee)


@pytest.mark.parametrize("mask", [np.arange(N), ~np.arange(2).repeat(N // 2), np.ones(N, np.float32)])
def test_a_mask_that_is_not_boolean_is_refused(mask):
    with pytest.raises(ValueError, match="available: expected one boolean for each of 40 candidates, got"):
        ask("random", available=mask)


def test_other_names_lead_to_strategies_that_there_are():
    assert set(OTHER_NAMES.values()) <= set(STRATEGIES)
    assert not set(OTHER_NAMES) & set(STRATEGIES)


def test_core_set_without_the_labelled_points_warns():
    with pytest.warns(UserWarning, match="labelled_inputs: this strategy looks at what is labelled already"):
        query(KEY, make_strategy("k_center"), COMMITTEE, POOL, query_size=2)
    query(KEY, make_strategy("k_center"), COMMITTEE, POOL, query_size=2, labelled_inputs=POOL[:0], labels=LABELS[:0])


def test_a_traced_query_shows_a_score_that_is_no_number():
    bad = members(bad=(1, 0, 0, 0, 0))
    pool = POOL.at[3, 0].set(1.5)
    traced = jax.jit(lambda key, pool: query(key, make_strategy("bald"), bad, pool, query_size=3))
    assert jnp.isnan(traced(KEY, pool).gains).all()
    assert jnp.isfinite(traced(KEY, jnp.minimum(pool, 1.0)).gains).all()


@pytest.mark.parametrize("name", ["power_bald", "weighted_coverage"])
@pytest.mark.parametrize("score", sorted(NOT_NEGATIVE))
def test_scores_below_zero_weigh_by_an_increasing_form(name, score):
    values = jnp.sort(jnp.r_[jnp.linspace(-1, 0, 9), jnp.linspace(0, 1e6 if score == "balanced_entropy" else 0, 9)])
    form = np.asarray(NOT_NEGATIVE[score](values))
    assert (form >= 0).all()
    assert (np.diff(form) >= 0).all()
    strategy = make_strategy(name, score=score)
    carry = strategy.prepare(KEY, COMMITTEE, LABELLED, LABELS, TARGETS)
    found = jax.tree.leaves(strategy.score(carry, POOL))[0]
    own = make_strategy(score)
    plain = own.score(own.prepare(KEY, COMMITTEE, LABELLED, LABELS, TARGETS), POOL)
    np.testing.assert_allclose(found, NOT_NEGATIVE[score](plain), rtol=1e-5)
    assert len(set(np.asarray(ask(name, score=score).indices).tolist())) == Q


@pytest.mark.filterwarnings("ignore:epig from 5 members")
@pytest.mark.parametrize("score", sorted(POINTWISE))
def test_any_pointwise_score_may_weigh(score):
    own = make_strategy(score if score in STRATEGIES else "entropy" if score == "predictive_entropy" else "bald")
    plain = own.score(own.prepare(KEY, COMMITTEE, LABELLED, LABELS, TARGETS), POOL)
    plain = NOT_NEGATIVE.get(score, lambda s: s)(plain)
    strategy = make_strategy("weighted_coverage", score=score)
    found, rows = strategy.score(strategy.prepare(KEY, COMMITTEE, LABELLED, LABELS, TARGETS), POOL)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(rows, COMMITTEE.embedding(POOL))
    assert float(np.min(found)) >= 0


def test_uncertainty_herding_scales_by_the_temperature_of_held_out_labels():
    committee, rng = members(scale=6.0), np.random.default_rng(0)  # sure, and wrong half of the time
    inputs = jnp.asarray(rng.normal(size=(60, D)), jnp.float32)
    log_probs = log_mean_exp(committee.log_probs(inputs))
    labels = jnp.where(rng.random(60) < 0.5, log_probs.argmax(1), rng.integers(C, size=60)).astype(jnp.int32)
    temperature = float(fit_temperature(log_probs, labels).temperature)
    assert 1.5 < temperature < 20
    options = {"query_size": Q, "labelled_inputs": LABELLED, "labels": LABELS}
    found = query(KEY, make_strategy("uncertainty_herding"), committee, POOL, held_out=(inputs, labels), **options)

    scaled = jax.nn.log_softmax(log_mean_exp(committee.log_probs(POOL)) / temperature)
    scores = 1 + acquisition.margin(scaled[:, None, :])
    labelled = jnp.arange(N + L) >= N
    expected = selection.uncertainty_herding(
        jnp.r_[scores, jnp.zeros(L)], committee.embedding(jnp.concatenate([POOL, LABELLED])),
        available=~labelled, labelled=labelled, query_size=Q, key=jax.random.split(KEY)[1],
    )  # fmt: skip
    same_query(found, expected)
    plain = query(KEY, make_strategy("uncertainty_herding"), committee, POOL, **options)
    assert np.abs(np.asarray(plain.gains) - np.asarray(found.gains)).max() > 1e-3
    none = (inputs[:0], labels[:0])
    same_query(plain, query(KEY, make_strategy("uncertainty_herding"), committee, POOL, held_out=none, **options))


def test_uncertainty_herding_of_nothing_labelled_is_herding_with_bandwidth_1():
    none = {"labelled_inputs": LABELLED[:0], "labels": LABELS[:0], "query_size": Q}
    found = query(KEY, make_strategy("uncertainty_herding"), COMMITTEE, POOL, **none)
    rows = selection.unit_rows(COMMITTEE.embedding(POOL))
    expected = selection.max_herding(
        rows, bandwidth=1.0, available=jnp.ones(N, bool), query_size=Q, key=jax.random.split(KEY)[1]
    )
    same_query(found, expected)


@pytest.mark.parametrize("kernel", ["features", "gradient", "committee"])
@pytest.mark.parametrize("name", ["prob_cover", "max_herding", "uncertainty_herding", "weighted_coverage"])
def test_the_scale_of_a_cover_comes_from_the_features(name, kernel):
    def scaled(params, key, x):  # the same function, with features a thousand times as long
        logits, features = apply(params, key, x)
        return logits, 1000 * features

    found = ask(name, kernel=kernel)
    far = ask(name, kernel=kernel, committee=deep_ensemble(scaled, COMMITTEE.own))
    np.testing.assert_array_equal(found.indices, far.indices)
    np.testing.assert_allclose(found.gains, far.gains, rtol=1e-3)


@pytest.mark.parametrize("name", ["prob_cover", "max_herding", "uncertainty_herding", "weighted_coverage"])
def test_a_scale_that_is_given_is_taken_as_it_is(name):
    option = "radius" if name == "prob_cover" else "bandwidth"
    strategy = make_strategy(name, **{option: 0.7})
    more = {"held_out": None} if strategy.held_out else {}
    values = strategy.score(strategy.prepare(KEY, COMMITTEE, LABELLED, LABELS, None, **more), POOL)
    how = {"available": AVAILABLE, "labelled": jnp.arange(N) == int(jnp.argmin(AVAILABLE))}
    found = strategy.select(KEY, values, query_size=Q, **how)
    function = getattr(selection, name)
    arrays = values if isinstance(values, tuple) else (values,)
    same_query(found, function(*arrays, query_size=Q, key=KEY, **{option: 0.7}, **how))
    with pytest.raises(ValueError, match=f"expected a {option} that is finite and positive, got 0"):
        make_strategy(name, **{option: 0})


# -- a query ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["expected_model_change", "k_center", "bald_diverse"])
def test_an_apply_without_features_is_named(name):
    committee = deep_ensemble(lambda weights, key, x: x @ weights, jnp.ones((2, D, C)))
    with pytest.raises(ValueError, match=r"expected an apply that returns \(logits.*features.*\), got logits only"):
        ask(name, committee=committee)


def test_misuse_of_query():
    strategy = make_strategy("bald")
    with pytest.raises(ValueError, match=rf"at most the {int(AVAILABLE.sum())} available candidates, got {N}"):
        query(KEY, strategy, COMMITTEE, POOL, query_size=N, available=AVAILABLE)
    with pytest.raises(ValueError, match=r"one boolean for each of 40 candidates, got int32 of shape \(3,\)"):
        query(KEY, strategy, COMMITTEE, POOL, query_size=1, available=[0, 1, 2])
    with pytest.raises(ValueError, match="query_size must be at least 1, got 0"):
        query(KEY, strategy, COMMITTEE, POOL, query_size=0)


def test_inside_a_program_and_for_many_keys_at_once():
    keys = jax.random.split(KEY, 3)
    expected = [ask("power_bald", key=key).indices.tolist() for key in keys]
    found = jax.jit(jax.vmap(lambda key, committee: ask("power_bald", key, committee).indices, (0, None)))
    assert found(keys, COMMITTEE).tolist() == expected


def test_fewer_available_than_asked_for_is_padded_inside_a_program():
    chosen, _ = score_and_select(
        KEY, make_strategy("bald"), COMMITTEE, np.asarray(POOL), LABELLED, LABELS, None, jnp.arange(N) < 2,
        jnp.ones(L, bool), query_size=Q, chunk_size=16,
    )  # fmt: skip
    assert sorted(chosen.indices.tolist()) == [-1, -1, 0, 1]


@pytest.mark.parametrize("where", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_nothing_is_compiled_at_the_second_query(where):
    ask("mutual_information_penalty", pool=where(POOL))
    other = members(scale=1.0)
    key, pool = jax.random.key(99), where(POOL + 0)
    with count_compilations() as compilations:
        ask("mutual_information_penalty", pool=pool, committee=other, key=key)
    assert compilations == []


# -- of one's own -----------------------------------------------------------------------------------------------------


def far_from_zero(carry, x):
    return {"distance": jnp.abs(x).sum(-1) * carry["scale"]}


def farthest(key, values, *, available, labelled, query_size):
    assert labelled.shape == available.shape
    distance = values["distance"]
    return selection.greedy(
        distance, lambda state: state, lambda state, index: state, available=available, query_size=query_size
    )


def scale_of_labels(key, committee, labelled_inputs, labels, targets):
    return {"scale": labelled_inputs.sum() * 0 + labels.sum() + targets}


@pytest.mark.parametrize("where", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_a_strategy_of_ones_own(where):
    own = QueryStrategy(far_from_zero, farthest, scale_of_labels)

    def run(key):
        return query(
            key, own, COMMITTEE, where(POOL), query_size=3, available=AVAILABLE, labelled_inputs=LABELLED,
            labels=jnp.ones(L, jnp.int32), targets=jnp.float32(4),
        )  # fmt: skip

    chosen = run(KEY)
    distance = np.where(AVAILABLE, np.abs(POOL).sum(-1), -1)
    assert np.asarray(chosen.indices).tolist() == np.argsort(-distance)[:3].tolist()
    np.testing.assert_allclose(chosen.gains, 10 * np.sort(distance)[::-1][:3], rtol=1e-6)
    key = jax.random.key(3)
    with count_compilations() as compilations:
        run(key)
    assert compilations == []


class HostCommittee:
    """Logistic regressions in NumPy: an object, no pytree."""

    def __init__(self, weights):
        self.weights = np.asarray(weights, np.float64)

    def log_probs(self, inputs):
        logits = np.einsum("bd,kdc->bkc", np.asarray(inputs, np.float64), self.weights)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    def features(self, inputs):
        inputs = np.asarray(inputs)
        return np.sin(np.broadcast_to(inputs[:, None], (len(inputs), len(self.weights), D)))

    def embedding(self, inputs):
        features = self.features(inputs)
        return features.reshape(len(features), -1) / np.sqrt(len(self.weights))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PytreeCommittee:
    """The same as arrays that JAX can trace."""

    weights: jax.Array

    def log_probs(self, inputs):
        return jax.nn.log_softmax(jnp.einsum("bd,kdc->bkc", inputs, self.weights))


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, HostCommittee) for name in [*SOME, "expected_model_change"]] + [("bald", PytreeCommittee)],
)
def test_a_committee_of_ones_own(name, kind):
    own = kind(COMMITTEE.own["weights"])
    same_query(ask(name, committee=own), ask(name))
    if name == "bald":
        same_query(ask(name, committee=own, pool=np.asarray(POOL)), ask(name))


def test_nan_in_a_committee_of_ones_own_is_named_by_its_pool_points():
    pool = POOL.at[33].set(jnp.nan)
    with pytest.raises(NonFiniteError, match=r"in 1 available points \(pool indices \[33\]"):
        ask("bald", committee=HostCommittee(COMMITTEE.own["weights"]), pool=pool, available=jnp.ones(N, bool))


class PerExampleMasks(HostCommittee):
    def log_probs(self, inputs):
        masks = np.random.default_rng(0).random((len(inputs), D)) < 0.5
        return super().log_probs(np.asarray(inputs) * masks)


class FreshMasks(HostCommittee):
    rng = np.random.default_rng(0)

    def log_probs(self, inputs):
        return super().log_probs(np.asarray(inputs) * (self.rng.random(D) < 0.5))


class BatchStatistics(HostCommittee):
    def log_probs(self, inputs):
        inputs = np.asarray(inputs)
        return super().log_probs(inputs - inputs.mean(0))


class Logits(HostCommittee):
    def log_probs(self, inputs):
        return super().log_probs(inputs) + 1


class Probabilities(HostCommittee):
    def log_probs(self, inputs):
        return np.exp(super().log_probs(inputs))


class Broken(HostCommittee):
    def log_probs(self, inputs):
        log_probs = super().log_probs(inputs)
        log_probs[:, 1] = np.nan
        return log_probs


class MembersFirst(HostCommittee):
    def log_probs(self, inputs):
        return super().log_probs(inputs).swapaxes(0, 1)


class MeanOnly(HostCommittee):
    def log_probs(self, inputs):
        return np.log(np.exp(super().log_probs(inputs)).mean(1))


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (
            PerExampleMasks,
            ValueError,
            r"member \d answers point \d otherwise when the batch comes in the reverse order",
        ),
        (FreshMasks, ValueError, r"member \d answers point \d otherwise when the batch comes in the reverse order"),
        (BatchStatistics, ValueError, r"answers point 0 otherwise when the batch comes with that point alone"),
        (Logits, ValueError, r"committee\.log_probs must be log-probabilities.*look like logits"),
        (Probabilities, ValueError, r"committee\.log_probs must be log-probabilities.*look like probabilities"),
        (Broken, NonFiniteError, r"committee\.log_probs has NaN or \+inf in 8 of 8 points .*in member 1 of 5"),
        (MembersFirst, ValueError, r"expected \[B, K, C\] with B = 8, got \(5, 8, 4\)"),
        (MeanOnly, ValueError, r"must have shape \[N, K, C\] .*got \(8, 4\)"),
    ],
)
def test_a_committee_whose_members_are_no_functions_is_refused(kind, error, message):
    committee = kind(COMMITTEE.own["weights"])
    with pytest.raises(error, match=message):
        check_committee(committee, POOL[:8])
    with pytest.raises(error, match=message):
        ask("random", committee=committee)


def test_consistent_committees_pass_also_in_half_precision():
    check_committee(HostCommittee(COMMITTEE.own["weights"]), POOL[:1])
    for committee in (dropout_committee(), HostCommittee(COMMITTEE.own["weights"])):
        check_committee(committee, POOL[:8])
    half = deep_ensemble(
        lambda w, key, x: (x.astype(jnp.bfloat16) @ w).astype(jnp.float32),
        COMMITTEE.own["weights"].astype(jnp.bfloat16),
    )
    check_committee(half, POOL[:8])


def test_a_committee_may_be_anything_that_the_strategy_understands():
    own = QueryStrategy(lambda weights, x: x @ weights, make_strategy("bald").select)
    chosen = query(KEY, own, jnp.array([1.0, 0.0, 0.0]), POOL, query_size=1, available=AVAILABLE)
    assert chosen.indices[0] == jnp.where(AVAILABLE, POOL[:, 0], -jnp.inf).argmax()


# -- numbers that are none, left out ----------------------------------------------------------------------------------

FINE = AVAILABLE & ~(POOL[:, 0] > 1.3)
BAD = np.flatnonzero(np.asarray(AVAILABLE & ~FINE)).tolist()


BROKEN = members(bad=(0, 0, 1, 0, 0))


def ask_excluding(name, committee=BROKEN, pool=POOL, query_size=Q, available=AVAILABLE, **options):
    return query(
        KEY, make_strategy(name, **options), committee, pool, query_size=query_size, available=available,
        labelled_inputs=LABELLED, labels=LABELS, targets=jnp.minimum(TARGETS, 1), chunk_size=16, on_nonfinite="exclude",
    )  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in (*SOME, "power_bald") else pytest.mark.slow) for name in ALL],
)
@pytest.mark.filterwarnings("ignore:.*from 5 members", "ignore:batchbald")
def test_excluded_points_are_named_and_the_query_is_that_of_the_others(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = ask_excluding(name)
    excluded = [str(w.message) for w in caught if "excluded from this query" in str(w.message)]
    if name == "random":  # it looks at no score
        assert not excluded
        same_query(found, ask(name))
        return
    same_query(found, ask_excluding(name, available=FINE))
    assert not set(BAD) & set(found.indices.tolist())
    (message,) = excluded
    assert f"NaN or infinity in {len(BAD)} available points (pool indices {BAD}), which are excluded" in message


LOOK_AT_THE_LABELLED = sorted(name for name in ALL if make_strategy(name).rows_labelled) + ["contrastive"]
LOOK_AT_TARGETS = sorted(name for name in ALL if "targets" in make_strategy(name).uses)
FAR = jnp.full((1, D), 9.0).at[:, 1:].set(0)  # its prediction by the third member of `BROKEN` is NaN


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("k_center", "contrastive", "epig", "bait") else pytest.mark.slow)
        for name in LOOK_AT_THE_LABELLED + LOOK_AT_TARGETS
    ],
)
@pytest.mark.filterwarnings("ignore:.*from 5 members")
def test_labelled_points_and_targets_without_finite_predictions_are_named_or_left_out(name):
    what, noun = ("targets", "targets") if name in LOOK_AT_TARGETS else ("labelled_inputs", "labelled points")
    points = TARGETS if what == "targets" else LABELLED

    def asked(points, on_nonfinite):
        known = {"labelled_inputs": LABELLED, "labels": LABELS, "targets": jnp.minimum(TARGETS, 1)} | {what: points}
        known["labels"] = jnp.zeros(len(known["labelled_inputs"]), jnp.int32)
        return query(
            KEY, make_strategy(name), BROKEN, jnp.minimum(POOL, 1), query_size=Q, available=AVAILABLE, chunk_size=16,
            on_nonfinite=on_nonfinite, **known,
        )  # fmt: skip

    fine, three = jnp.minimum(points, 1), jnp.concatenate([FAR, FAR + 1, FAR])
    broken = jnp.concatenate([fine[:2], three, fine[2:]])
    with pytest.raises(NonFiniteError, match=f"{noun}: expected finite predictions, .* in rows 2, 3, 4;"):
        asked(broken, "raise")
    with pytest.warns(UserWarning, match=f"{noun}: .* in rows 2, 3, 4, which this query leaves out"):
        found = asked(broken, "exclude")
    if what == "targets":  # others stand for these
        same_query(found, asked(jnp.concatenate([fine[:5], fine[2:]]), "raise"))
    elif name not in ("typiclust", "prob_cover", "k_means_plus_plus"):  # these draw as many numbers as rows
        same_query(found, asked(fine, "raise"))


@pytest.mark.parametrize(
    "wrong", [None, LABELS[:-1], LABELS.astype(float), np.asarray(LABELS, np.int64) + 2**32, LABELS - 1]
)
def test_labels_that_are_none_are_refused_before_any_cast(wrong):
    known = {"labelled_inputs": LABELLED, "labels": LABELS}
    for changed, name in ((known | {"labels": wrong}, "labels"), (known | {"held_out": (LABELLED, wrong)}, "held_out")):
        with pytest.raises(LabelError, match=rf"^{name}.*: expected .*class.* got"):
            query(KEY, make_strategy("uncertainty_herding"), COMMITTEE, POOL, query_size=Q, **changed)


@pytest.mark.parametrize(
    ("name", "options", "noun"),
    [
        ("weighted_coverage", {"score": "contrastive"}, "labelled points"),  # the score and the cover both look at them
        ("uncertainty_herding", {"score": "contrastive"}, "labelled points"),
        ("uncertainty_herding", {}, "held_out"),
    ],
)
def test_what_a_cover_looks_at_is_named_or_left_out_without_finite_predictions(name, options, noun):
    held_out = noun == "held_out"
    fine = jnp.minimum(TARGETS if held_out else LABELLED, 1)

    def asked(points, on_nonfinite):
        known = {"labelled_inputs": jnp.minimum(LABELLED, 1), "labels": LABELS}
        labels = jnp.zeros(len(points), int)
        known |= {"held_out": (points, labels)} if held_out else {"labelled_inputs": points, "labels": labels}
        return query(
            KEY, make_strategy(name, **options), BROKEN, jnp.minimum(POOL, 1), query_size=Q, available=AVAILABLE,
            on_nonfinite=on_nonfinite, **known,
        )  # fmt: skip

    broken = jnp.concatenate([fine, FAR])
    with pytest.raises(NonFiniteError, match=rf"{noun}: expected finite predictions, .* in row {len(fine)};"):
        asked(broken, "raise")
    with pytest.warns(UserWarning, match=rf"{noun}: .* in row {len(fine)}, which this query leaves out"):
        found = asked(broken, "exclude")
    same_query(found, asked(jnp.concatenate([fine, fine[:1]]) if held_out else fine, "raise"))


@pytest.mark.parametrize("where", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_exclusion_on_host_and_device(where):
    with pytest.warns(UserWarning, match="excluded from this query"):
        found = ask_excluding("bald", pool=where(POOL))
    same_query(found, ask("bald", available=FINE))


def test_with_only_finite_points_excluding_changes_nothing():
    for name in SOME:
        same_query(ask_excluding(name, committee=COMMITTEE), ask(name))


def test_too_few_finite_points_are_an_error_even_so():
    finite = int(FINE.sum())
    with pytest.warns(UserWarning, match="excluded from this query"):
        assert sorted(ask_excluding("bald", query_size=finite).indices.tolist()) == np.flatnonzero(FINE).tolist()
    with pytest.raises(
        NonFiniteError,
        match=rf"at least {finite + 1} available points .* in {len(BAD)} available points .* and {finite} without",
    ):
        ask_excluding("bald", query_size=finite + 1)
    with pytest.raises(NonFiniteError, match=rf"in {len(BAD)} available points .* and 0 without"):
        ask_excluding("bald", query_size=1, available=AVAILABLE & ~FINE)


def test_gains_that_overflow_are_an_error_even_so():
    def odd(weights, key, x):
        return x @ weights, jnp.where(x[0] > 1, jnp.where(x[1] > 0, 3e19, -3e19), x)

    with pytest.raises(NonFiniteError, match=r"gains: expected finite values, .* whose own values are finite"):
        ask_excluding("k_center", committee=deep_ensemble(odd, COMMITTEE.own["weights"]))


def test_a_prefilter_lets_pass_no_point_whose_score_is_no_number():
    for size in (Q, N):
        with pytest.warns(UserWarning, match=rf"in {len(BAD)} available points \(pool indices {re.escape(str(BAD))}\)"):
            found = ask_excluding("margin", prefilter=size)
        same_query(found, ask("margin", committee=BROKEN, available=FINE, prefilter=size))
    with pytest.raises(NonFiniteError, match=rf"in {len(BAD)} available points"):
        ask("margin", committee=BROKEN, prefilter=Q)


def test_numbers_of_both_stages_are_counted():
    first, later = [7, 30], [5, 9]
    available = jnp.ones(N, bool)

    def score(committee, inputs):
        return jnp.where(jnp.isin(inputs[:, 0], POOL[jnp.array(later), 0]), jnp.nan, inputs[:, 0])

    strategy = make_strategy("margin", prefilter=N)._replace(score=score)
    strategy = strategy._replace(prefilter=strategy.prefilter._replace(
        score=lambda committee, inputs: jnp.where(jnp.isin(inputs[:, 0], POOL[jnp.array(first), 0]), jnp.inf, 0.0)
    ))  # fmt: skip
    both = sorted(first + later)
    with pytest.warns(UserWarning, match=rf"in 4 available points \(pool indices {re.escape(str(both))}\)"):
        found = query(KEY, strategy, COMMITTEE, POOL, query_size=N - 4, available=available, on_nonfinite="exclude")
    assert sorted(found.indices.tolist()) == sorted(set(range(N)) - set(both))


def test_what_is_neither_is_refused():
    with pytest.raises(ValueError, match=r'^on_nonfinite: expected "raise" or "exclude", got \'ignore\'$'):
        query(KEY, make_strategy("bald"), COMMITTEE, POOL, query_size=Q, on_nonfinite="ignore")


def test_a_trace_marks_what_it_cannot_raise():
    def gains(weights, on_nonfinite, query_size=Q):
        def run(weights):
            committee = deep_ensemble(apply, {"weights": weights, "bad": jnp.array([0, 0, 1, 0, 0])})
            return query(
                KEY, make_strategy("bald"), committee, POOL, query_size=query_size, available=AVAILABLE,
                chunk_size=16, on_nonfinite=on_nonfinite,
            )  # fmt: skip

        return jax.jit(run)(weights).gains

    weights = COMMITTEE.own["weights"]
    assert np.isnan(gains(weights, "raise")).all()
    np.testing.assert_allclose(gains(weights, "exclude"), ask("bald", available=FINE).gains, rtol=1e-5)
    assert np.isnan(gains(weights, "exclude", query_size=int(FINE.sum()) + 1)).all()


# -- quantiles of the scores ------------------------------------------------------------------------------------------


def health_of(values, available, strategy=make_strategy("margin")):  # noqa: B008
    """The `Health` of a query where the score of a point is the point."""
    strategy = QueryStrategy(lambda carry, inputs: inputs, strategy.select)
    nothing = jnp.zeros((0, 1)), jnp.zeros(0, jnp.int32), None
    return score_and_select(
        KEY, strategy, None, values, *nothing, available, jnp.zeros(0, bool), query_size=2, chunk_size=16
    )[1]


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5, 18, 39, 40])
def test_score_quantiles_are_those_of_numpy(number):
    rng = np.random.default_rng(number)
    values = rng.normal(size=N).astype(np.float32)
    values[: N // 4] = np.round(values[: N // 4])  # some of them equal
    available = rng.permutation(N) < number
    expected = np.quantile(values[available], [0, 0.25, 0.5, 0.75, 1]) if number else np.full(5, np.nan)
    found = health_of(jnp.asarray(values), jnp.asarray(available)).score_quantiles
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    if number:
        assert (found[0], found[4]) == (values[available].min(), values[available].max())


def test_score_quantiles_leave_out_what_is_no_number():
    values = RNG.normal(size=N).astype(np.float32)
    values[[1, 5, 9]] = [np.nan, np.inf, -np.inf]
    found = health_of(jnp.asarray(values), jnp.ones(N, bool))
    finite = np.where(np.isfinite(values), values, np.nan)
    np.testing.assert_allclose(found.score_quantiles, np.nanquantile(finite, [0, 0.25, 0.5, 0.75, 1]), rtol=1e-6)
    assert (int(found.num_nonfinite), int(found.num_finite), bool(found.overflown)) == (3, N - 3, False)


def test_a_tie_is_one_among_the_points_that_are_left():
    values = jnp.ones(N).at[3].set(jnp.nan)
    assert bool(health_of(values, jnp.ones(N, bool)).all_tied)
    assert not bool(health_of(values.at[4].set(2.0), jnp.ones(N, bool)).all_tied)


def test_score_quantiles_side_by_side_and_compiled_once():
    values = jnp.asarray(RNG.normal(size=(3, N)), jnp.float32)
    available = jnp.asarray(RNG.random((3, N)) < jnp.array([[0.1], [0.5], [1.0]]))
    run = jax.jit(jax.vmap(lambda values, available: health_of(values, available).score_quantiles))
    found = run(values, available)
    for s in range(3):
        expected = np.quantile(np.asarray(values[s])[np.asarray(available[s])], [0, 0.25, 0.5, 0.75, 1])
        np.testing.assert_allclose(found[s], expected, rtol=1e-6)
    others = ~available
    with count_compilations() as compilations:
        run(values, others)
    assert not compilations


def test_score_quantiles_of_a_strategy():
    def quantiles(name):
        return score_and_select(
            KEY, make_strategy(name), COMMITTEE, POOL, LABELLED, LABELS, TARGETS, AVAILABLE, jnp.ones(L, bool),
            query_size=Q, chunk_size=16,
        )[1].score_quantiles  # fmt: skip

    bald = np.asarray(acquisition.bald(COMMITTEE.log_probs(POOL)))[np.asarray(AVAILABLE)]
    for name in ("power_bald", "bald_diverse"):  # the scores, before anything is drawn or added
        np.testing.assert_allclose(quantiles(name), np.quantile(bald, [0, 0.25, 0.5, 0.75, 1]), rtol=1e-4, atol=1e-6)
    assert np.isnan(quantiles("k_center")).all()


def test_prob_cover_of_predictions_that_are_sure():
    committee = members(scale=1e4)
    assert (np.asarray(jnp.exp(log_mean_exp(committee.log_probs(POOL)))) == 0).any()
    indices = np.asarray(ask("prob_cover", committee=committee).indices).tolist()
    assert len(set(indices)) == Q


# -- networks that are not what they should be ------------------------------------------------------------------------


def asked_of(name, apply):
    params = jax.random.normal(jax.random.key(2), (D, C))
    committee = mc_dropout(apply, params, jax.random.split(jax.random.key(3), K))
    return query(KEY, make_strategy(name), committee, POOL, query_size=Q, labelled_inputs=LABELLED, labels=LABELS)


@pytest.mark.parametrize("name", ["entropy", "margin", "expected_model_change", "badge", "bald", "random"])
def test_members_whose_keys_change_nothing_are_warned_of_once(name):
    def inactive(params, key, x):
        return x @ params, x

    def active(params, key, x):
        mask = 1.0 if key is None else 2.0 * jax.random.bernoulli(key, 0.5, x.shape)
        return (mask * x) @ params, x

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asked_of(name, inactive)
    (warning,) = [str(w.message) for w in caught if w.category is UserWarning]
    assert "the members have keys of their own and agree exactly" in warning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked_of(name, active)


@pytest.mark.parametrize("final", [jax.nn.softmax, jax.nn.log_softmax, jax.nn.relu, lambda logits: 1e-3 * logits])
def test_a_network_that_ends_in_softmax_is_warned_of(final):
    def apply(params, key, x):
        mask = 1.0 if key is None else 2.0 * jax.random.bernoulli(key, 0.5, x.shape)
        return final((mask * x) @ params), x

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asked_of("entropy", apply)
    found = [str(w.message) for w in caught if "apply: expected logits" in str(w.message)]
    assert len(found) == (final is jax.nn.softmax)


@pytest.mark.parametrize(
    ("out", "found"),
    [
        (lambda logits: {"logits": logits}, "got a dict with 'logits'"),
        (lambda logits: [logits, logits], "got a list of 2"),
        (lambda logits: (logits,), "got a tuple of 1"),
        (lambda logits: (logits, logits, logits), "got a tuple of 3"),
        (lambda logits: None, "got None"),
    ],
)
def test_what_apply_returns_is_named_where_it_is_no_logits(out, found):
    with pytest.raises(TypeError, match=r"apply: expected logits \[C\], or a tuple .*" + found):
        asked_of("entropy", lambda params, key, x: out(x @ params))


class Lazy:
    """Read like an array, such as a data set of h5py."""

    shape, dtype, ndim = (N, D), np.dtype("f4"), 2

    def __len__(self):
        return N

    def __getitem__(self, rows):
        return np.asarray(POOL)[rows]


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        (np.asarray(POOL).tolist(), "candidates: expected JAX or NumPy arrays .*, got a Python list"),
        (Lazy(), r"candidates: expected JAX or NumPy arrays .*, got a .*Lazy; pass np.asarray"),
        (np.array(["a", "b"]), "candidates: expected numbers, got dtype <U1"),
        (np.array([None, "b"]), "candidates: expected numbers, got dtype object"),
    ],
    ids=["list", "lazy", "text", "objects"],
)
def test_a_pool_that_is_no_array_of_numbers_is_refused(pool, message):
    with pytest.raises(TypeError, match=message):
        query(KEY, make_strategy("bald"), COMMITTEE, pool, query_size=Q)


@pytest.mark.parametrize("dtype", ["f8", ">f4", ">f8"])
def test_pools_of_other_types_are_read_as_they_are_without_a_warning(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = query(KEY, make_strategy("bald"), COMMITTEE, np.asarray(POOL).astype(dtype), query_size=Q)
    same_query(found, query(KEY, make_strategy("bald"), COMMITTEE, np.asarray(POOL), query_size=Q))


@pytest.mark.parametrize(("key", "found"), [(0, "got 0"), (None, "got None"), (make_strategy("bald"), "forgotten")])
def test_a_key_that_is_none_is_named(key, found):
    with pytest.raises(TypeError, match=r"key: expected a key such as jax.random.key\(0\).*" + found):
        query(key, make_strategy("bald"), COMMITTEE, POOL, query_size=Q)
    with pytest.raises(TypeError, match="key: expected a key"):
        next(active_learning(
            key, fit=None, strategy=make_strategy("bald"), inputs=POOL, oracle=None, labelled=LabelledSet.empty(5),
            query_size=Q, rounds=1,
        ))  # fmt: skip
    with pytest.raises(TypeError, match=r"keys: expected .* got 50; pass jax.random.split"):
        mc_dropout(dropout_apply, {}, 50)
