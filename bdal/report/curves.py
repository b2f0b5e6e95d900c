"""Learning curves of a group: accuracy in the head of the report, NLL and ECE in a section."""

from collections.abc import Sequence
from functools import partial

from bdal.report import conclusions, figures, tables
from bdal.report.document import Block, Paragraph, Pictures, Section
from bdal.report.gather import Group
from bdal.report.queried import Draw
from bdal.report.words import both, capital, span, title
from bdal.store.directory import Row


def accuracy(group: Group, draw: Draw) -> Block:
    """Accuracy along the curve, a figure a posterior."""
    if not group.rows:
        return Paragraph("No round has been evaluated yet.")
    bands = [name for posterior in _evaluated(group) for name in figures.banded(group.rows, posterior)]
    every = len({row.strategy for row in group.rows}) == len(set(bands))
    what = f"Accuracy{_measured_on(group)} against {tables.axis(group.rows)}"
    seeds = _seeds_drawn(group)
    caption = (
        f"{what}: means over {span(seeds)} seeds, as far as all seeds of a strategy have come. Shaded: 95 % Student t "
        f"intervals of {'these means' if every else 'the means of random and the best others'}, not corrected for the "
        "number of strategies or label counts."
        if max(seeds) > 1
        else f"{what}, of one seed: no intervals."
    )
    return _drawn(group, draw, "curves", ["accuracy"], caption)


def calibration(group: Group, draw: Draw) -> Section:
    """NLL and ECE along the curve."""
    bins = "" if group.own else ", 15 bins"
    known = {"nll": "negative log-likelihood (NLL, nats)", "ece": f"expected calibration error (ECE{bins})"}
    metrics = [metric for metric in known if group.rows and metric not in tables.lacking(group.rows)]
    what = capital(both(known[metric] for metric in metrics))
    caption = f"{what}, measured and drawn as the accuracy above; lower is better."
    blocks = [_drawn(group, draw, "_".join(metrics), metrics, caption)] if metrics else []
    return Section(both(conclusions.NAMES[metric] for metric in metrics or known), blocks)


def _drawn(group: Group, draw: Draw, name: str, metrics: list[str], caption: str) -> Pictures:
    """Learning curves, a figure a posterior."""
    posteriors, on = _evaluated(group), "" if group.own else group.about.on
    pictures = []
    for posterior in posteriors:
        without = tables.lacking([row for row in group.rows if row.posterior == posterior])
        if not (known := [metric for metric in metrics if metric not in without]):
            continue
        alt = f"Learning curves. {_ends(group.rows, posterior, known, on)}"
        function = partial(figures.learning_curves, on=on, metrics=known, posterior=posterior)
        own = f"{name}_{posterior}" if len(posteriors) > 1 else name
        pictures.append(draw(own, alt, "", function, group.rows))
    return Pictures(pictures, caption, wide=len(metrics) > 1)


def _evaluated(group: Group) -> list[str]:
    return [posterior for posterior in group.posteriors if any(row.posterior == posterior for row in group.rows)]


def _seeds_drawn(group: Group) -> list[int]:
    return [len({row.seed for row in group.rows if row[:2] == key}) for key in {row[:2] for row in group.rows}]


def _measured_on(group: Group) -> str:
    if group.own:
        points = span([row.points for row in group.rows])
        return "" if points == "0" else f" on {points} points"
    on = tables.measured_on(group.about)
    part = tables.curve_measure(group.rows, group.about)
    return (f" on {on}, as there is no test set," if on else " on the test set") + (f" ({part})" if part else "")


def _ends(rows: Sequence[Row], posterior: str, metrics: Sequence[str], on: str) -> str:
    """Where each strategy's line ends, in words."""
    said = []
    for metric in metrics:
        scale, digits, unit = (100, 1, " %") if metric == "accuracy" else (1, 3, "")
        ends = []
        for strategy in dict.fromkeys(row.strategy for row in rows if row.posterior == posterior):
            if line := figures.curve(rows, posterior, strategy, metric):
                labels, value = line[-1]
                ends.append(
                    f"{f'{title(posterior)} {strategy}'.strip()} {scale * value.mean:.{digits}f}{unit} at {labels}"
                )
        name = conclusions.NAMES[metric]
        said.append(
            f"{capital(f'{on} {name}'.strip())} at the end of each line, in {tables.axis(rows)}: {'; '.join(ends)}."
        )
    return " ".join(said)
