"""The points that a seed starts with, the same for every method."""

from collections.abc import Sequence

import jax
import numpy as np

from bdal import config
from bdal.config.data import Data
from bdal.errors import ConfigError
from bdal.store.durable import CorruptRunError
from bdal.store.ledger import START, Ledger


def seed_key(experiment: config.Experiment, seed: int) -> jax.Array:
    """The key that all keys of a seed are derived from."""
    return jax.random.fold_in(jax.random.key(experiment.seed), seed)


def start_points(
    experiment: config.Experiment, data: Data, seed: int, given: Sequence[int] = ()
) -> dict[str, np.ndarray]:
    """The pool indices of a seed's "validation" and "initial" sets. If `given` is not empty, it is the initial set."""
    sizes = experiment.labels
    order_key = jax.random.fold_in(seed_key(experiment, seed), 2**31 - 1)  # rounds use 0, 1, ...
    order = np.asarray(jax.random.permutation(order_key, data.num_points))
    order = order[~np.isin(order, given)]
    held_out, rest = order[: sizes.validation_labels], order[sizes.validation_labels :]
    initial = _balanced(rest, data.pool_labels, data.num_classes) if sizes.balanced else rest
    return {"validation": held_out, "initial": np.array(given, int) if given else initial[: sizes.initial]}


def check_start(ledger: Ledger, parts: dict[str, np.ndarray], initial_file: str | None = None) -> None:
    """Raise an error if a ledger starts with other points than its seed derives.

    Raises:
      ConfigError: where the points come from a file. CorruptRunError: where they come from the seed.
    """
    events = [(ledger.find("queried", START), np.concatenate(list(parts.values())))]
    events += [(ledger.find(event), derived) for event, derived in parts.items()]
    for event, derived in events:
        if event is not None and event["indices"] != derived.tolist():
            if initial_file is not None:
                raise ConfigError(
                    f"labels.initial_file: expected the points that this run began with, found others in "
                    f"{initial_file}; bring it back as it was, or choose another directory"
                )
            raise CorruptRunError(
                f"{ledger.folder / 'ledger.jsonl'}: {event['event']!r}: expected the points with which seed "
                f"{ledger.seed} of this run starts, {_few(derived.tolist())}, found {_few(event['indices'])}: it is "
                "the ledger of another seed or run; put its own back, or take its folder away"
            )


def _few(indices: list[int]) -> str:
    return f"{indices[:3]}".replace("]", ", ...]" if len(indices) > 3 else "]")


def _balanced(order, labels, num_classes) -> np.ndarray:
    """`order` when classes take turns; a class that runs out is passed over, points of no class come last."""
    turn = np.full(len(order), len(order))
    for label in range(num_classes):
        of_class = labels[order] == label
        turn[of_class] = np.arange(of_class.sum())
    return order[np.argsort(turn, kind="stable")]
