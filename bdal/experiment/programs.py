"""The compiled programs of a comparison: fit, evaluate, predict and query, for all seeds of a group.

A fit of `bdal.posteriors` may be traced, and then all seeds of a group can be one program. Any other fit may be plain
Python: it is called seed by seed, on the host, and nothing is put around it.

Axis letters: S seeds of a group, K members, C classes, T test points, B points.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bdal import calibration
from bdal.backend import trains_side_by_side
from bdal.committee import Committee
from bdal.config.data import Data
from bdal.errors import ConfigError, described_type
from bdal.information import log_mean_exp
from bdal.loop import check_trained, on_host, query_round, training_data
from bdal.pool import map_pool
from bdal.selection import Query
from bdal.strategy import QueryStrategy, check_health, check_own_committee, fits_one_program
from bdal.training import CompiledFit, leaves_loop_to_python
from bdal.types import Fit

MOST_PREDICTED = "most_predicted"  # share of the points that are predicted as the commonest class; for metrics alone


class Programs(NamedTuple):
    """Each takes and gives lists or arrays over the S seeds of a group; a committee is that of the group."""

    fit: Callable[..., Any]
    evaluate: Callable[..., dict[str, np.ndarray]]  # by the first so many members
    compile_final: Callable[..., None]
    predict: Callable[..., np.ndarray]  # [S, B] classes
    query: Callable[..., tuple[list[Query], list[list[float]]]]  # and the quantiles of the scores, where there are any
    of_seed: Callable[[Any, int], Any]  # the committee of one seed
    members: int  # that are evaluated along the curve
    all_members: int


def run_together(wanted: bool | None, fit: Fit, data: Data) -> bool:
    """Whether all seeds of a group are one program; where nothing is said, if the backend profits from it."""
    if not isinstance(fit, CompiledFit) or data.test is None or not isinstance(data.pool, jax.Array):
        return False
    if leaves_loop_to_python(fit.model, data.pool):
        return False
    return trains_side_by_side(fit.model.init) if wanted is None else wanted


def programs_of(experiment, comparison, fit: Fit, together: bool, num_classes: int | None = None) -> Programs:
    """The programs of one comparison; with `together` each runs all seeds, in the fit side by side, else in turn.

    A committee of one's own must vote by its `comparison.members` on `num_classes` classes, if they are given.
    """
    run = _in_turn if together else _one_seed
    members = min(experiment.evaluation.members or comparison.members, comparison.members)
    chunk_size, size, targets = experiment.query.chunk_size, experiment.query.size, experiment.query.targets

    evaluate_seeds = {
        count: run(partial(_evaluate, members=count, all_members=comparison.members, chunk_size=chunk_size))
        for count in {members, comparison.members}
    }
    predict_seeds = run(
        lambda committee, _, inputs: map_pool(_log_mean_prob, committee, inputs, chunk_size=chunk_size).argmax(-1)
    )
    query_seeds: dict[QueryStrategy, Callable[..., Any]] = {}

    def query_program(strategy):
        def one(committee, own, pool):
            key, labelled, validation, excluded = own
            return query_round(
                key, committee, labelled, excluded, pool, targets, validation, strategy=strategy, query_size=size,
                candidates=experiment.query.candidates, chunk_size=chunk_size,
            )  # fmt: skip

        return run(one)

    fit_seeds = _side_by_side(fit) if together and isinstance(fit, CompiledFit) else _fit_one(fit)
    checked: set[str] = set()  # a committee of one's own is looked at once

    def run_fit(keys, labelled, validation, pool):
        committee = fit_seeds(keys, labelled, validation, pool)
        check_trained(committee, f"{int(labelled[0].count)} labels")
        if not checked and not together:
            check_own_committee(committee, pool)
            _check_votes(committee, pool, comparison, num_classes)
            checked.add("committee")
        return committee

    def run_evaluate(committee, inputs, labels, count):
        values = evaluate_seeds[count](committee, (), (inputs, labels))
        return {name: np.asarray(value) for name, value in values.items()}

    compiled: set[tuple[int, int]] = set()  # seeds of a group, points

    def compile_final(committee, inputs, labels, seeds):
        """Compile the evaluation that a run ends with in its first round, so that nothing is compiled after it."""
        if isinstance(committee, Committee) and (seeds, len(labels)) not in compiled:
            compiled.add((seeds, len(labels)))
            run_evaluate(committee, inputs, labels, comparison.members)

    def run_predict(committee, inputs):
        return np.asarray(predict_seeds(committee, (), inputs))

    def run_query(strategy, keys, committee, labelled, validation, excluded, pool):
        if strategy not in query_seeds:
            query_seeds[strategy] = query_program(strategy)
        own = jnp.stack(keys), _stack(labelled), _stack(validation), _stack(excluded)
        queries, rows, health = jax.tree.map(np.asarray, query_seeds[strategy](committee, own, pool))
        for s in range(len(keys)):
            seed_health = jax.tree.map(lambda leaf, s=s: leaf[s], health)
            check_health(seed_health, rows[s], experiment.query.on_nonfinite)
        quantiles = [of.tolist() if np.isfinite(of).all() else [] for of in health.score_quantiles]
        return [on_host(jax.tree.map(lambda leaf, s=s: leaf[s], queries)) for s in range(len(keys))], quantiles

    def of_seed(committee, s):
        return jax.tree.map(lambda leaf: leaf[s], committee) if together else committee

    return Programs(
        run_fit, run_evaluate, compile_final, run_predict, run_query, of_seed, members, comparison.members
    )  # fmt: skip


def _side_by_side(fit: CompiledFit):
    """The fits of all seeds in one program, at once: for the many small steps of a fit."""

    @jax.jit
    def all_seeds(keys, labelled, validation, pool):
        def one(key, labelled, validation):
            return fit.pure(key, training_data(labelled, validation, pool))

        return jax.vmap(one)(keys, labelled, validation)

    return lambda keys, labelled, validation, pool: all_seeds(
        jnp.stack(keys), _stack(labelled), _stack(validation), pool
    )


def _fit_one(fit: Fit):
    """The fit of the one seed of a group, which compiles itself if it is compiled at all."""

    def one(keys, labelled, validation, pool):
        return fit(keys[0], training_data(labelled[0], validation[0], pool))

    return one


def _in_turn(fn):
    """`fn(committee, own, shared)` for all seeds in one program, one after the other: for a pass over pool or test set.

    Such a pass is work enough for a device. Under `vmap` each seed would take all branches of a `lax.cond`, a loop
    would run until the last seed is done, and the arrays of all seeds would be held at once: on a CPU a query took up
    to 2.7 times as long as for the same seeds apart, and that of a plain score 1.2 times (`benchmarks/together.py`).
    """

    @jax.jit
    def all_seeds(committee, own, shared):
        return jax.lax.map(lambda of_seed: fn(*of_seed, shared), (committee, own))

    return all_seeds


def _one_seed(fn):
    """`fn(committee, own, shared)` for a group of one seed, compiled where committee and data can be traced."""
    compiled = jax.jit(fn)

    def call(committee, own, shared):
        run = compiled if fits_one_program(committee, shared, None) else fn
        out = run(committee, jax.tree.map(lambda leaf: leaf[0], own), shared)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[None], out)

    return call


def _check_votes(committee, pool, comparison, num_classes: int | None) -> None:
    """Raise a `ConfigError` unless a committee of one's own has the members and classes that it should have."""
    if isinstance(committee, Committee):
        return
    expected = f"posterior {comparison.posterior.label}: expected a committee with `log_probs`, [B, K, C]"
    if not hasattr(committee, "log_probs"):
        raise ConfigError(f"{expected}, got {described_type(committee)}")
    _, members, classes = np.shape(committee.log_probs(pool[:2]))
    if members != comparison.members or num_classes not in (None, classes):
        raise ConfigError(
            f"{expected}, of {comparison.members} members and {num_classes} classes, got {members} and {classes}"
        )


class _First(NamedTuple):
    """The first members of a committee of one's own."""

    committee: Any
    members: int

    def log_probs(self, inputs):
        return self.committee.log_probs(inputs)[:, : self.members]


def _take(committee, members: int, all_members: int):
    if members >= all_members:
        return committee
    return committee.take(members) if isinstance(committee, Committee) else _First(committee, members)


def _evaluate(committee, _, test, *, members: int, all_members: int, chunk_size: int) -> dict[str, jax.Array]:
    """Accuracy, NLL, Brier score and ECE of the mean of the first members, and the share of its commonest class."""
    inputs, labels = test
    few = _take(committee, members, all_members)
    log_probs = map_pool(_log_mean_prob, few, inputs, chunk_size=chunk_size)  # [T, C]
    probs = jnp.exp(log_probs)
    predicted = jax.nn.one_hot(log_probs.argmax(-1), log_probs.shape[-1]).mean(0)  # [C]
    return {
        "accuracy": calibration.accuracy(probs, labels),
        # from logarithms: a probability that underflows to 0 has a finite NLL
        "nll": -jnp.take_along_axis(log_probs, labels[:, None], axis=-1).mean(),
        "brier": calibration.brier(probs, labels),
        "ece": calibration.ece(probs, labels),
        MOST_PREDICTED: predicted.max(),
    }


def _log_mean_prob(committee, inputs):
    return log_mean_exp(committee.log_probs(inputs), axis=-2)  # [B, C]


def _stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)
