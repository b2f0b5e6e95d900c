"""Problems of a query: detected inside the compiled program, reported on the host.

Axis letters: R rows of a round.
"""

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import NonFiniteError, SelectorError
from bdal.selection.fold import TIE_TOLERANCE


class Health(NamedTuple):
    """What a traced query cannot raise: looked at on the host, once a round."""

    num_nonfinite: jax.Array  # available rows with a NaN or an infinity among their values
    first_nonfinite: jax.Array  # [5] rows, -1 where there are fewer
    all_tied: jax.Array  # whether every available row has the same score
    pick_error: jax.Array  # what is wrong with the first wrong pick, a place in `PICK_ERRORS`; 0 where nothing is
    wrong_pick: jax.Array  # that row
    num_finite: jax.Array  # available rows that are left without those of `num_nonfinite`
    overflown: jax.Array  # whether a pick's gain is NaN or infinite though the row's values are finite
    score_quantiles: jax.Array  # [5], minimum, quartiles and maximum of the scores of these rows; NaN where a point has
    # no one score, or no row is left
    references: "References"  # of what the candidates are compared with
    symptoms: tuple[jax.Array | np.bool_, jax.Array | np.bool_]  # of the committee, see `Committee.symptoms`


class References(NamedTuple):
    """The first rows whose values or predictions are not finite, each `[5]`; -1 where there are fewer."""

    labelled: jax.Array | np.ndarray
    targets: jax.Array | np.ndarray
    held_out: jax.Array | np.ndarray


NO_REFERENCES = References(*np.full((3, 5), -1, np.int32))
NO_SYMPTOMS = np.bool_(0), np.bool_(0)
REFERENCES = ("labelled points", "targets", "held_out")  # as messages call them
PICK_ERRORS = ("", "is no row", "is not available: it is labelled already, or was not offered", "was picked before")


def nonfinite_rows(values, available):
    """Which of the available rows `[R]` have a NaN or an infinity among their values."""
    bad = jnp.zeros_like(available)
    for leaf in jax.tree.leaves(values):
        # −inf is a legitimate log-probability [R, K, C]; everything else must be finite
        broken = jnp.isnan(leaf) | jnp.isposinf(leaf) if leaf.ndim > 2 else ~jnp.isfinite(leaf)
        bad |= broken.any(tuple(range(1, leaf.ndim)))
    return bad & available


def first_five(rows) -> jax.Array:
    """The first five places where `rows [R]` holds; -1 where there are fewer."""
    if rows.shape[0] == 0:
        return jnp.full(5, -1)
    return jnp.nonzero(rows, size=5, fill_value=-1)[0]


def first_wrong_pick(indices, available):
    """`(pick_error, wrong_pick)` of `Health`; −1 stands for no pick."""
    num_rows, places = available.shape[0], jnp.arange(indices.shape[0])
    outside = (indices < -1) | (indices >= num_rows)
    row = jnp.where(outside | (indices < 0), num_rows, indices)  # one row more than there are
    first_place = jnp.full(num_rows + 1, len(places)).at[row].min(places)
    taken = ~jnp.append(available, True)[row]
    again = (row < num_rows) & (first_place[row] < places)
    errors = jnp.where(outside, 1, jnp.where(taken, 2, jnp.where(again, 3, 0)))
    first = jnp.argmax(errors > 0)
    return errors[first], indices[first]


def measured_health(values, available, bad, overflown, pick_error, wrong_pick) -> Health:
    """Health of a query by its rows' values alone; `bad [R]` are the available rows that are not finite."""
    scores = [leaf for leaf in jax.tree.leaves(values) if leaf.ndim == 1]
    tied, quantiles = jnp.bool_(False), jnp.full(5, jnp.nan)
    if len(scores) == 1:
        finite = available & ~bad
        quantiles = _quartiles(scores[0], finite)
        highest = jnp.where(finite, scores[0], -jnp.inf).max()
        lowest = jnp.where(finite, scores[0], jnp.inf).min()
        # relative rounding; and what is left of BALD, which is of second order, when members differ by rounding
        tied = (highest - lowest <= jnp.maximum(TIE_TOLERANCE * jnp.abs(highest), 1e-10)) & (finite.sum() > 1)
    num_finite = available.sum() - bad.sum()
    return Health(
        bad.sum(),
        first_five(bad),
        tied,
        pick_error,
        wrong_pick,
        num_finite,
        overflown,
        quantiles,
        NO_REFERENCES,
        NO_SYMPTOMS,
    )


def _quartiles(scores, rows):
    """Minimum, quartiles and maximum `[5]` of the scores of some rows, as NumPy's "linear" method has them."""
    count = rows.sum()
    ordered = jnp.sort(jnp.where(rows, scores.astype(jnp.float32), jnp.inf))
    places = jnp.maximum(count - 1, 0) * jnp.arange(5)  # in quarters: whole numbers, and exact
    low, high = ordered[places // 4], ordered[-(-places // 4)]
    share = places % 4 / 4
    return jnp.where(count > 0, low * (1 - share) + high * share, jnp.nan)


def check_health(health: Health, pool_indices: np.ndarray, on_nonfinite: str = "raise", query_size: int = 1) -> None:
    """Raise or warn for what a traced query could only count. `pool_indices [R]` names the rows.

    With `on_nonfinite="exclude"`, rows whose values are not finite are warned of, unless so many of them are that
    less than `query_size` are left.
    """
    where = "look at the members' log-probabilities there: training may have diverged"
    if number := int(health.num_nonfinite):
        rows = [int(pool_indices[row]) for row in np.asarray(health.first_nonfinite) if row >= 0]
        found = (
            f"got NaN or infinity in {number} available points (pool indices {rows}"
            f"{' ...' if number > len(rows) else ''})"
        )
        if on_nonfinite == "raise":
            raise NonFiniteError(f"scores: expected finite values, {found}; {where}")
        if bool(health.overflown):
            raise NonFiniteError(f"gains: expected finite values, {found}, whose own values are finite; {where}")
        if (left := int(health.num_finite)) < query_size:
            raise NonFiniteError(
                f"scores: expected at least {query_size} available points with finite values, {found} and {left} "
                f"without; {where}"
            )
        warnings.warn(f"scores: {found}, which are excluded from this query; {where}", stacklevel=4)
    for name, rows in zip(REFERENCES, health.references, strict=True):
        if (rows := np.asarray(rows)[np.asarray(rows) >= 0]).size:
            found = f"{name}: expected finite predictions, got NaN or infinity in row{'s' * (rows.size > 1)} "
            found += f"{', '.join(map(str, rows))}{' and perhaps more' if rows.size == 5 else ''}"
            if on_nonfinite == "raise":
                raise NonFiniteError(f'{found}; {where}, or leave them out with on_nonfinite="exclude"')
            warnings.warn(f"{found}, which this query leaves out; {where}", stacklevel=4)
    if error := int(health.pick_error):
        row = int(health.wrong_pick)
        known = error > 1 and row < len(pool_indices)  # the rows after those are the labelled set's
        raise SelectorError(
            f"select: expected rows that are available and differ, got {'pool point' if known else 'row'} "
            f"{pool_indices[row] if known else row}, which {PICK_ERRORS[error]}; nothing is labelled"
        )
    agree, probabilities = map(bool, health.symptoms)
    if probabilities:
        warnings.warn(
            "apply: expected logits, got rows that are not negative and sum to one, as probabilities do. A softmax of "
            "these is nearly uniform; leave the softmax out, or return jnp.log of it",
            stacklevel=4,
        )
    if agree:
        warnings.warn(
            "the members have keys of their own and agree exactly: the committee is one network. Dropout is off "
            "(rate 0, deterministic, evaluation mode), or apply does not use its key",
            stacklevel=4,
        )
    elif bool(health.all_tied):
        warnings.warn(
            "every available point has the same score up to rounding (one member, members that agree, or an untrained "
            "network): the score does not choose among them, and ties are random",
            stacklevel=4,
        )


def check_on_nonfinite(value: str) -> None:
    """ValueError unless it is one of the two that there are."""
    if value not in ("raise", "exclude"):
        raise ValueError(f'on_nonfinite: expected "raise" or "exclude", got {value!r}')
