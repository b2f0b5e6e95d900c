"""How the networks of a group were trained: whether they converged, diverged or collapsed.

It is what `"fit"` of each line of `metrics.jsonl` tells. Fits of one's own may tell other things, or nothing.
"""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdal.report.document import Block, Bullets, Paragraph, Section, Table
from bdal.report.gather import Group, Key
from bdal.report.words import capital, several, span, title
from bdal.store.directory import SeedRun

ONE_CLASS, WRONG = 0.98, 0.25  # shares of the points at which a round has collapsed: in one class, and answered wrongly
NAMED = 5  # runs that a list names


class _Network(NamedTuple):
    """One network of one round; None where that is not told."""

    steps: float | None
    best: float | None  # the step of its weights
    nll: float | None  # for validation
    diverged: bool
    most: int | None  # steps that the config allows

    @property
    def stopped(self) -> bool | None:
        """Whether early stopping ended it before its last step; None where nothing could."""
        if self.steps is None or self.most is None or (self.nll is None and not self.diverged):
            return None
        return self.steps < self.most


class _Round(NamedTuple):
    key: Key
    seed: int
    number: int
    networks: list[_Network]
    collapsed: str  # how; "" if it did not


def section(group: Group) -> Section:
    """A table of each strategy's networks, and above it whether they converged; nothing where no round tells of it."""
    most = {run.folder: _most(source.tree) for source in group.sources for run in source.runs}
    rounds = {key: [each for run in group.runs_of(key) for each in _rounds(key, run, most)] for key in group.planned}
    every = [one for found in rounds.values() for one in found]
    networks = [network for one in every for network in one.networks]
    blocks: list[Block] = [Paragraph(_converged(networks))] if networks else []
    diverged = [one for one in every if any(network.diverged for network in one.networks)]
    collapsed = [one for one in every if one.collapsed]
    if diverged:
        text = "Diverged, so that no validation NLL was a number (a smaller training.learning_rate may help):"
        blocks += [Paragraph(text, note=True), Bullets(_named(diverged, [_how_many(one.networks) for one in diverged]))]
    if collapsed:
        text = "Collapsed: nearly all points are predicted as one class, and many of them wrongly:"
        blocks += [Paragraph(text, note=True), Bullets(_named(collapsed, [one.collapsed for one in collapsed]))]
    if networks:
        caption = (
            "How the networks of all seeds and rounds were trained. Medians of the steps taken, and of the validation "
            f"NLL (nats) of the first and the last round. Collapsed: rounds that predict {100 * ONE_CLASS:.0f} % of "
            f"the points or more as one class, and {100 * WRONG:.0f} % or more wrongly."
        )
        heads = ["posterior", "strategy", "networks", "steps", "took all", "NLL, first", "NLL, last", "diverged"]
        lines = [[title(key[0]), key[1], *_cells(found)] for key, found in rounds.items() if found]
        blocks.append(Table(caption, [*heads, "collapsed"], lines, left=2))
    return Section("Training", blocks)


def _most(tree: dict[str, Any]) -> int | None:
    """How many steps a config allows; None where it does not say."""
    training = tree.get("training")
    steps = training.get("steps") if isinstance(training, dict) else None
    return steps if isinstance(steps, int) else None


def _rounds(key: Key, run: SeedRun, most: dict[Path, int | None]) -> list[_Round]:
    """The rounds of a run whose lines tell of the fit."""
    return [
        _Round(key, run.seed, line["round"], _networks(line["fit"], most.get(run.folder)), _collapsed(line))
        for line in run.metrics
        if line.get("fit")
    ]


def _networks(fit: dict[str, Any], most: int | None) -> list[_Network]:
    told = [fit.get(name) for name in ("steps", "best_step", "validation_nll", "diverged")]
    lists = [each if isinstance(each, list) else [] if each is None else [each] for each in told]
    return [_Network(steps, best, nll, bool(gone), most) for steps, best, nll, gone in zip_longest(*lists)]


def _collapsed(line: dict[str, Any]) -> str:
    share, accuracy = line["fit"].get("most_predicted"), line.get("accuracy")
    if not isinstance(share, float | int) or accuracy is None or share < ONE_CLASS or accuracy > 1 - WRONG:
        return ""
    return f"{100 * share:.1f} % of the points in one class, accuracy {100 * accuracy:.1f} %"


def _converged(networks: Sequence[_Network]) -> str:
    """Whether networks came to an end of their own, in a sentence or two.

    >>> stopped, late = _Network(150, 100, 0.5, False, 400), _Network(400, 400, 0.5, False, 400)
    >>> _converged([stopped] * 3)
    'All 3 networks ended by early stopping, before their 400 steps were over. None diverged.'
    >>> _converged([stopped, stopped, late]).split(". ")[0]
    '2 of 3 networks ended by early stopping; 1 took all 400 steps and was best at the last: more may help'
    """
    watched = [network for network in networks if network.stopped is not None]
    full = [network for network in watched if not network.stopped]
    late = sum(network.best == network.steps and not network.diverged for network in full)
    count, said, most = len(watched), [], span([network.most or 0 for network in full or watched])
    all_of = {1: "The network", 2: "Both networks"}.get(count, f"All {count:,} networks")
    if full:
        text = f"{all_of if len(full) == count else f'{len(full):,}'} took all {most} steps"
        better = "best at the last: more may help"
        were = "was" if late == 1 else "were"
        text += f" and {were} {better}" if late == len(full) else f", {late:,} of them {better}" if late else ""
        before = f"{count - len(full):,} of {count:,} networks ended by early stopping; "
        said.append(text if len(full) == count else before + text)
    elif watched:
        whose = "its" if count == 1 else "their"
        said.append(f"{all_of} ended by early stopping, before {whose} {most} steps were over")
    if other := [network for network in networks if network.stopped is None]:
        steps = [int(network.steps) for network in other if network.steps is not None]
        took = f" ({span(steps)} steps)" if steps else ""
        said.append(f"{several(len(other), 'network')}{took} had no early stopping")
    gone = sum(network.diverged for network in networks)
    return f"{'. '.join(said)}. {f'{gone:,} diverged' if gone else 'None diverged'}."


def _cells(found: Sequence[_Round]) -> list[str]:
    networks = [network for one in found for network in one.networks]
    stopped = [network.stopped for network in networks if network.stopped is not None]
    steps = [network.steps for network in networks if network.steps is not None]
    collapsed = str(sum(bool(one.collapsed) for one in found))
    if not networks:
        return [*["–"] * 6, collapsed]
    return [
        f"{len(networks):,}",
        f"{np.median(steps):.0f}" if steps else "–",
        f"{stopped.count(False):,} of {len(stopped):,}" if stopped else "no early stopping",
        *(_median_nll(found, end) for end in (min, max)),
        str(sum(network.diverged for network in networks)),
        collapsed,
    ]


def _median_nll(found: Sequence[_Round], end: Any) -> str:
    """Over the networks of each seed's first or last round; those that diverged have none."""
    ends = {seed: end(one.number for one in found if one.seed == seed) for seed in {one.seed for one in found}}
    last = [one for one in found if one.number == ends[one.seed]]
    values = [network.nll for one in last for network in one.networks if network.nll is not None]
    return f"{np.median(values):.2f}" if values else "–"


def _how_many(networks: Sequence[_Network]) -> str:
    gone = sum(network.diverged for network in networks)
    return "" if len(networks) == 1 else f"{gone} of {len(networks)} networks"


def _named(rounds: Sequence[_Round], how: Sequence[str]) -> list[str]:
    """The first of the rounds, by strategy, seed and number."""
    texts = [
        f"{capital(title(one.key[0]))}, {one.key[1]}, seed {one.seed}, round {one.number}{f': {text}' if text else ''}"
        for one, text in zip(rounds, how, strict=True)
    ]
    more = len(texts) - NAMED
    return texts if more <= 0 else [*texts[:NAMED], f"and {several(more, 'round')} more"]
