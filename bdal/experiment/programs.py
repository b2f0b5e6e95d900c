"""The compiled programs of an experiment: fit, evaluate, predict and query, for all seeds of a group.

Axis letters: S seeds in one program, K members, C classes, T test points.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bdal import calibration, models
from bdal.adapters import from_nnx, nnx_init
from bdal.committee import Apply
from bdal.errors import ConfigError
from bdal.information import log_mean_exp
from bdal.loop import check_trained, fit_round, on_host, query_round
from bdal.pool import map_pool
from bdal.posteriors import fit_deep_ensemble, fit_mc_dropout, fit_snapshots
from bdal.selection import Query
from bdal.strategy import QueryStrategy, check_health

VALIDATION_MASKS = 8  # masks over which early stopping averages an MC-dropout prediction


class Network(NamedTuple):
    """A network of the config, ready to be fitted."""

    init: Callable[[jax.Array], Any]
    apply: Apply
    score_apply: Apply  # the same function, faster where many masks meet one input


class Programs(NamedTuple):
    """Each takes and gives lists or arrays over the S seeds of a group."""

    fit: Callable[..., Any]
    evaluate: Callable[..., dict[str, np.ndarray]]  # by the first so many members
    compile_final: Callable[..., None]
    predict: Callable[..., np.ndarray]  # [S, B] classes
    query: Callable[..., tuple[list[Query], list[list[float]]]]  # and the quantiles of the scores, where there are any
    members: int  # that are evaluated along the curve
    all_members: int


def network_of(experiment, data) -> Network:
    """The network that an experiment trains on its data. Raises `ConfigError` if the two do not fit."""
    model, shape = experiment.model, data.pool.shape[1:]
    if model.name == "cnn":
        if shape != (28, 28, 1):
            raise ConfigError(
                f"model.name: cnn expects images of shape (28, 28, 1), {experiment.data.name} has {shape}"
            )
        make = partial(models.CNN, data.num_classes, dropout=model.dropout)
        score_apply, _ = from_nnx(make(shared_masks=True, rngs=nnx.Rngs(0)), batched=False)
    else:
        size = int(np.prod(shape))
        make = partial(models.MLP, size, data.num_classes, hidden=model.hidden, dropout=model.dropout)
        score_apply = None
    apply, _ = from_nnx(make(rngs=nnx.Rngs(0)), batched=False)
    return Network(nnx_init(lambda rngs: make(rngs=rngs)), apply, score_apply or apply)


def programs_of(experiment, comparison, network: Network, together: bool) -> Programs:
    """The programs of one comparison; with `together` each runs all seeds, in the fit side by side, else in turn."""
    side_by_side, in_turn = (_side_by_side, _in_turn) if together else (_one_seed, _one_seed)
    if comparison.posterior == "mc_dropout":
        training = experiment.training.schedule(VALIDATION_MASKS)
        fit = fit_mc_dropout(
            network.init,
            network.apply,
            num_members=comparison.members,
            training=training,
            score_apply=network.score_apply,
        )
    else:
        fit_of = {"deep_ensemble": fit_deep_ensemble, "snapshots": fit_snapshots}[comparison.posterior]
        schedule = experiment.training.schedule()
        fit = fit_of(network.init, network.apply, num_members=comparison.members, training=schedule)
    members = min(experiment.evaluation.members or comparison.members, comparison.members)
    chunk_size, size, targets = experiment.query.chunk_size, experiment.query.size, experiment.query.targets

    fit_seeds = side_by_side(
        lambda own, pool: fit_round(*own, fit=fit, inputs=pool)  # own: key, labelled, validation
    )
    evaluate_seeds = {
        count: in_turn(partial(_evaluate, members=count, chunk_size=chunk_size))
        for count in {members, comparison.members}
    }
    predict_seeds = in_turn(
        lambda committee, inputs: map_pool(_log_mean_prob, committee, inputs, chunk_size=chunk_size).argmax(-1)
    )
    query_seeds: dict[QueryStrategy, Callable[..., Any]] = {}

    def query_program(strategy):
        def one(own, pool):
            key, committee, labelled, validation, excluded = own
            return query_round(
                key, committee, labelled, excluded, pool, targets, validation, strategy=strategy, query_size=size,
                candidates=experiment.query.candidates, chunk_size=chunk_size,
            )  # fmt: skip

        return in_turn(one)

    def run_fit(keys, labelled, validation, pool):
        committee = fit_seeds((jnp.stack(keys), _stack(labelled), _stack(validation)), pool)
        check_trained(committee, f"{int(labelled[0].count)} labels")
        return committee

    def run_evaluate(committee, inputs, labels, count):
        values = evaluate_seeds[count](committee, (inputs, labels))
        return {name: np.asarray(value) for name, value in values.items()}

    compiled: set[tuple[int, int]] = set()  # seeds of a group, points

    def compile_final(committee, inputs, labels):
        """Compile the evaluation that a run ends with in its first round, so that nothing is compiled after it."""
        shape = jax.tree.leaves(committee)[0].shape[0], len(labels)
        if shape not in compiled:
            compiled.add(shape)
            run_evaluate(committee, inputs, labels, comparison.members)

    def run_predict(committee, inputs):
        return np.asarray(predict_seeds(committee, inputs))

    def run_query(strategy, keys, committee, labelled, validation, excluded, pool):
        if strategy not in query_seeds:
            query_seeds[strategy] = query_program(strategy)
        own = (jnp.stack(keys), committee, _stack(labelled), _stack(validation), _stack(excluded))
        queries, rows, health = jax.tree.map(np.asarray, query_seeds[strategy](own, pool))
        for s in range(len(keys)):
            seed_health = jax.tree.map(lambda leaf, s=s: leaf[s], health)
            check_health(seed_health, rows[s], experiment.query.on_nonfinite)
        quantiles = [of.tolist() if np.isfinite(of).all() else [] for of in health.score_quantiles]
        return [on_host(jax.tree.map(lambda leaf, s=s: leaf[s], queries)) for s in range(len(keys))], quantiles

    return Programs(run_fit, run_evaluate, compile_final, run_predict, run_query, members, comparison.members)


def _side_by_side(fn):
    """`fn(own, shared)` for all seeds in one program, at once: for the many small steps of a fit."""
    return jax.jit(jax.vmap(fn, in_axes=(0, None)))


def _in_turn(fn):
    """`fn(own, shared)` for all seeds in one program, one after the other: for a pass over the pool or the test set.

    Such a pass is work enough for a device. Under `vmap` each seed would take all branches of a `lax.cond`, a loop
    would run until the last seed is done, and the arrays of all seeds would be held at once: on a CPU a query took up
    to 2.7 times as long as for the same seeds apart, and that of a plain score 1.2 times (`benchmarks/together.py`).
    """

    @jax.jit
    def all_seeds(own, shared):
        return jax.lax.map(lambda own: fn(own, shared), own)

    return all_seeds


def _one_seed(fn):
    """`fn(own, shared)` for a group of one seed, compiled where the pool lies on the device."""
    compiled = jax.jit(fn)

    def call(own, shared):
        on_device = all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(shared))
        out = (compiled if on_device else fn)(jax.tree.map(lambda leaf: leaf[0], own), shared)
        return jax.tree.map(lambda leaf: leaf[None], out)

    return call


def _evaluate(committee, test, *, members: int, chunk_size: int) -> dict[str, jax.Array]:
    """Accuracy, NLL, Brier score and ECE of the mean of the first members."""
    inputs, labels = test
    log_probs = map_pool(_log_mean_prob, committee.take(members), inputs, chunk_size=chunk_size)  # [T, C]
    probs = jnp.exp(log_probs)
    return {
        "accuracy": calibration.accuracy(probs, labels),
        # from logarithms: a probability that underflows to 0 has a finite NLL
        "nll": -jnp.take_along_axis(log_probs, labels[:, None], axis=-1).mean(),
        "brier": calibration.brier(probs, labels),
        "ece": calibration.ece(probs, labels),
    }


def _log_mean_prob(committee, inputs):
    return log_mean_exp(committee.log_probs(inputs), axis=-2)  # [B, C]


def _stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)
