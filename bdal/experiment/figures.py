"""Figures of an experiment as PNG, PDF and SVG: the same rows give the same bytes. Only drawing imports matplotlib."""

import io
import math
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdal.experiment.directory import Row
from bdal.experiment.durable import write_atomic
from bdal.experiment.statistics import Interval, student_t
from bdal.experiment.tables import axis, order
from bdal.experiment.words import title

METRICS = {"accuracy": "accuracy", "nll": "NLL (nats)", "ece": "ECE"}
BANDS = 3  # in a panel: of more none can be read
SHADE = 0.16
LONGEST = 26  # letters on a line of the legend

# Okabe and Ito's palette, told apart with any colour vision, without its yellow; then again with other markers
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MARKS = 12  # on a line, at the most
GREY = "#777777"
INK, EDGE, GRID, PALE = "#222222", "#555555", "#e6e6e6", "#cccccc"
PHASES = {"fit": COLORS[0], "evaluate": COLORS[4], "query": COLORS[1]}

# what a dark page puts in the place of each colour
DARK = {
    INK: "#e6e6e6", EDGE: "#a6a6a6", GRID: "#3a3d42", PALE: "#55595f", GREY: "#a0a0a0", "#000000": "#ffffff",
    "#0072b2": "#4a90e2", "#d55e00": "#ff8c42", "#009e73": "#2fc79a", "#cc79a7": "#e39cc4", "#56b4e9": "#9bd8fa",
    "#e69f00": "#f0b73a",
}  # fmt: skip
KINDS = ("png", "pdf")

STYLE: Any = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": EDGE,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a name is a $
    "pdf.fonttype": 42,
    "svg.hashsalt": "bdal",
}


def learning_curves(
    rows: Sequence[Row], path_stem: str | Path, kinds: Sequence[str] = KINDS, *, on: str = "test",
    metrics: Sequence[str] = tuple(METRICS), posterior: str | None = None,
) -> list[Path]:  # fmt: skip
    """Metrics against labels, with the legend beside them, as `<path_stem>.png` and `.pdf`.

    One posterior has its panels side by side, several have a column each. Lines are means over seeds; random and the
    best others, `BANDS` in all, have bands, their 95 % Student t intervals. Label counts that differ between seeds are
    joined by straight lines, and a strategy's curve ends where one of its seeds does. `kinds` are endings: png, pdf and
    svg; `on` is what was measured on, test or validation. With a `posterior` only that one is drawn, in the colours and
    on the scales of all. Returns a path each. Raises `ValueError` if there are no rows.
    """
    if not rows:
        raise ValueError("expected at least one evaluated round, found none; the run has not come that far")
    every = sorted({row.posterior for row in rows}, key=order)
    posteriors = every if posterior is None else [posterior]
    strategies = sorted({row.strategy for row in rows}, key=lambda name: (name == "random", name))
    looks = {strategy: _look(place) for place, strategy in enumerate(strategies)}
    if "random" in looks:
        looks["random"] = {"color": GREY, "linestyle": (0, (4, 2)), "marker": None}
    validation = "/".join(map(str, sorted({row.validation_labels for row in rows})))
    seeds = {name: len({row.seed for row in rows if row.posterior == name}) for name in posteriors}
    titles = {name: f"{title(name)}, {count} seed{'s' if count > 1 else ''}" for name, count in seeds.items()}
    wide = {name: banded(rows, name) for name in every}

    alone = len(posteriors) == 1
    legend = 0.75 + 0.068 * min(LONGEST, max(19, *map(len, strategies)))
    width = legend + (2.75 * len(metrics) if alone else 0.7 + 2.9 * len(posteriors))
    with _figure((width, 3.1 if alone else 0.4 + 2.0 * len(metrics))) as figure:
        options: Any = {} if alone else {"sharex": "col"}
        shape = (1, len(metrics)) if alone else (len(metrics), len(posteriors))
        panels = figure.subplots(*shape, squeeze=False, **options)
        panels = panels.T if alone else panels  # [metric, posterior]
        for line, metric in enumerate(metrics):
            most = None if metric == "nll" else 1
            drawn = {name: _bands(rows, name, strategies, metric, wide[name], most) for name in every}
            limits = _limits([band for bands in drawn.values() for _, *bands in bands.values() for band in bands])
            for column, name in enumerate(posteriors):
                panel = panels[line, column]
                for strategy, (labels, means, low, high) in drawn[name].items():
                    look = looks[strategy] | {"markevery": _marks(strategies.index(strategy), len(labels))}
                    _draw_curve(panel, labels, means, (low, high), strategy, look)
                panel.set_ylim(limits)
                if alone:
                    panel.set_title(f"{on} {METRICS[metric]}")
                elif column == 0:
                    panel.set_ylabel(f"{on} {METRICS[metric]}")
                else:
                    panel.tick_params(labelleft=False)
        for column, name in enumerate([] if alone else posteriors):
            panels[0, column].set_title(titles[name])
        for panel in panels.flat if alone else panels[-1]:
            panel.set_xlabel(f"{axis(rows)} (+{validation} validation)")
        figure.align_ylabels(panels[:, 0])
        what = ["mean over seeds;", "shaded: 95 % t interval"] if max(seeds.values()) > 1 else []
        heading = [titles[posteriors[0]]] if alone else []
        _legend(
            figure, panels, rows, {name: wide[name] for name in posteriors}, "\n".join([*heading, *what]) or "one seed"
        )
        return _save_as(figure, path_stem, kinds)


def banded(rows: Sequence[Row], posterior: str) -> list[str]:
    """The strategies whose intervals are drawn: random, and those of the highest mean accuracy, `BANDS` in all."""
    ranked = _ranked(rows, posterior)
    return sorted(ranked, key=lambda name: (name != "random", ranked.index(name)))[:BANDS]


def _ranked(rows: Sequence[Row], posterior: str) -> list[str]:
    """The strategies of a posterior, the highest mean accuracy first."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in sorted(rows):
        if row.posterior == posterior:
            found[row.strategy].append(row.accuracy)
    return sorted(found, key=lambda name: (-float(np.mean(found[name])), name))


def _bands(
    rows: Sequence[Row], posterior: str, strategies: Sequence[str], metric: str, wide: Sequence[str], most: float | None
) -> dict[str, tuple[list[int], np.ndarray, np.ndarray, np.ndarray]]:
    """Each strategy's label counts, means, and the ends of its band, cut at 0 and at `most`: the means without one."""
    found = {}
    for strategy in strategies:
        if points := curve(rows, posterior, strategy, metric):
            means, halves = (np.array(values) for values in zip(*(point for _, point in points), strict=True))
            halves = halves if strategy in wide else 0 * halves
            found[strategy] = ([n for n, _ in points], means, *np.clip([means - halves, means + halves], 0, most))
    return found


def _limits(values: Sequence[np.ndarray]) -> tuple[float, float]:
    low, high = min(map(np.min, values)), max(map(np.max, values))
    edge = 0.05 * (high - low) or 0.05
    return float(low - edge), float(high + edge)


def _draw_curve(
    panel: Any, labels: Sequence[int], means: np.ndarray, band: tuple[np.ndarray, np.ndarray], strategy: str, look: Any
) -> None:
    """One strategy's line, and its band if it has one."""
    if np.any(band[0] < band[1]):
        panel.fill_between(labels, *band, color=look["color"], alpha=SHADE, lw=0)
    if len(labels) == 1 and look["marker"] is None:
        look = {**look, "marker": "o"}  # a line of one point is not seen
    level = 2 if strategy == "random" else 3
    panel.plot(labels, means, lw=1.5, ms=3.5, label=strategy, zorder=level, **look)


def _marks(place: int, points: int) -> tuple[int, int]:
    """The first point of a line that is marked, and every which: where they are many, lines take turns."""
    every = math.ceil(points / MARKS)
    return place % every, every


def reliability_diagram(reliability: Any, target: Any) -> None:
    """Confidence against accuracy per bin, with the gap shaded and the share of points below.

    `reliability` has `confidence`, `accuracy` and `count`, an array each over bins (as `bdal.calibration.reliability`
    returns them); empty bins are left out. `target` is matplotlib axes, or a path ending in `.png` or `.pdf`.
    """
    if not isinstance(target, str | Path):
        _draw_reliability(reliability, target)
        return
    with _figure((3.4, 3.4)) as figure:
        _draw_reliability(reliability, figure.subplots())
        _save(figure, Path(target))


def seconds_by_round(
    seconds: Mapping[str, Mapping[int, Mapping[str, float]]], path_stem: str | Path, kinds: Sequence[str] = KINDS
) -> list[Path]:
    """Seconds by round and phase, stacked bars, a panel for each name.

    A round that takes more than twice the 90 % quantile of all (it compiles, for one) is cut there, its total written
    above it.
    """
    totals = [sum(phases.values()) for rounds in seconds.values() for phases in rounds.values()]
    top = 2 * float(np.quantile(totals, 0.9))
    top = min(top, max(totals)) or 1.0
    with _small_multiples(list(seconds)) as (figure, panels):
        for panel, rounds in zip(panels, seconds.values(), strict=True):
            numbers = sorted(rounds)
            below = np.zeros(len(numbers))
            for phase, color in PHASES.items():
                height = np.array([rounds[number].get(phase, 0.0) for number in numbers])
                panel.bar(numbers, height, 0.8, below, color=color, label=phase)
                below += height
            for number, total in zip(numbers, below, strict=True):
                if total > top:
                    panel.annotate(f"↑ {total:.3g} s", (number + 0.55, 1.02 * top), fontsize=7)
            panel.set(ylim=(0, 1.12 * top))
            panel.grid(visible=False, axis="x")
            panel.xaxis.get_major_locator().set_params(integer=True)
        _outer_labels(panels, "round", "seconds")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(PHASES), handlelength=1.2)
        return _save_as(figure, path_stem, kinds)


def class_histograms(
    shares: Mapping[str, np.ndarray],
    classes: Sequence[str],
    pool: np.ndarray | None,
    path_stem: str | Path,
    kinds: Sequence[str] = KINDS,
) -> list[Path]:
    """What was queried by class, a panel for each name: `shares` maps it to `[S, C]`, a seed's shares a line.

    Bars are means over seeds, whiskers their 95 % Student t intervals, marks the shares in the pool `[C]`, if known.
    """
    places = np.arange(len(classes))
    with _small_multiples(list(shares)) as (figure, panels):
        handles = {}
        for panel, queried in zip(panels, shares.values(), strict=True):
            intervals = [student_t(column) for column in np.asarray(queried).T]
            means = np.array([mean for mean, _ in intervals])
            halves = np.nan_to_num([half for _, half in intervals])
            handles["queried"] = panel.bar(places, 100 * means, 0.72, color=COLORS[4])
            if len(queried) > 1 and len(classes) <= 40:
                low = np.minimum(halves, means)  # no share is below 0
                panel.errorbar(
                    places, 100 * means, 100 * np.array([low, halves]), fmt="none", ecolor=EDGE, elinewidth=1
                )
            if pool is not None:
                edges = np.stack([places - 0.45, places + 0.45])
                marks = panel.hlines(100 * np.asarray(pool), *edges, color=COLORS[1], lw=1.6, zorder=3)
                handles["share in the pool"] = marks
            panel.grid(visible=False, axis="x")
            _name_classes(panel, classes)
        top = max(panel.get_ylim()[1] for panel in panels)
        for panel in panels:
            panel.set_ylim(0, top)
        _outer_labels(panels, "class", "% of queried")
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2, handlelength=1.4)
        return _save_as(figure, path_stem, kinds)


class Scores(NamedTuple):
    """Scores of one strategy by round: at `labels`, five `quantiles` of the candidates or None, of those `queried`.

    Quantiles and what was queried share an axis, so they are on one scale.
    """

    labels: Sequence[int]
    quantiles: np.ndarray | None
    queried: Sequence[Sequence[float]]


def score_distributions(
    scores: Mapping[str, Scores], path_stem: str | Path, kinds: Sequence[str] = KINDS
) -> list[Path]:
    """Scores of the candidates and of what was queried against labels, a panel for each name, each with its own axis.

    The band runs from the 25 % to the 75 % quantile of the candidates' scores, thin lines from smallest to largest.
    """
    with _small_multiples(list(scores)) as (figure, panels):
        handles = {}
        for panel, (labels, quantiles, queried) in zip(panels, scores.values(), strict=True):
            if quantiles is not None:
                least, low, middle, high, most = np.asarray(quantiles).T
                handles["smallest, largest"] = panel.plot(labels, least, color=COLORS[0], lw=0.7, alpha=0.8)[0]
                panel.plot(labels, most, color=COLORS[0], lw=0.7, alpha=0.8)
                handles["25 % to 75 %"] = panel.fill_between(labels, low, high, color=COLORS[0], alpha=0.25, lw=0)
                handles["median of the candidates"] = panel.plot(labels, middle, color=COLORS[0], lw=1.4)[0]
            x = [count for count, gains in zip(labels, queried, strict=True) for _ in gains]
            y = [gain for gains in queried for gain in gains]
            handles["queried"] = panel.plot(x, y, "o", color=COLORS[1], ms=2.4, mew=0, alpha=0.55)[0]
            panel.locator_params(axis="y", nbins=5)
            panel.ticklabel_format(axis="y", scilimits=(-3, 4))
        _outer_labels(panels, "training labels", "score")
        for panel, found in zip(panels, scores.values(), strict=True):
            if found.quantiles is None:
                panel.set_ylabel("gain", fontsize=8)
        order = ["median of the candidates", "25 % to 75 %", "smallest, largest", "queried"]
        names = [name for name in order if name in handles]
        figure.legend([handles[name] for name in names], names, loc="outside upper center", ncols=4, handlelength=1.4)
        return _save_as(figure, path_stem, kinds)


def contact_sheet(
    lines: Sequence[tuple[str, Sequence[tuple[np.ndarray, str]]]], path_stem: str | Path, kinds: Sequence[str] = KINDS
) -> list[Path]:
    """Images in lines: `(name of the line, [(image, text below it), ...])`, images `[H, W, 1 or 3]` in 0 .. 1.

    Pixels are drawn as they are, never smoothed.
    """
    columns = max(1, *(len(images) for _, images in lines))
    tile, text = 0.36, 0.15  # inches
    size = (0.75 + tile * columns, 0.1 + (tile + text) * len(lines))
    with _figure(size) as figure:
        figure.set_layout_engine("none")
        panel = figure.add_axes((0, 0, 1, 1))
        panel.set(xlim=(0, size[0]), ylim=(size[1], 0))
        panel.axis("off")
        for line, (name, images) in enumerate(lines):
            top = 0.05 + line * (tile + text)
            panel.text(0.65, top + tile / 2, name, ha="right", va="center", fontsize=7.5)
            if not images:
                continue
            panel.imshow(
                _side_by_side([image for image, _ in images]),
                extent=(0.72, 0.72 + tile * len(images), top + tile, top),
                interpolation="none",
                aspect="auto",
            )
            for place, (_, below) in enumerate(images):
                panel.text(0.72 + tile * (place + 0.5), top + tile + 0.01, below, ha="center", va="top", fontsize=6.5)
        panel.set(xlim=(0, size[0]), ylim=(size[1], 0))
        return _save_as(figure, path_stem, kinds)


def _side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images as one of bytes `[h, n · w, 4]`, at least 48 pixels high, with a transparent gap around each."""
    tiles = []
    for image in images:
        grey = image.shape[-1] == 1
        pixels = (255 * np.clip(image, 0, 1) + 0.5).astype(np.uint8)
        pixels = np.repeat(pixels, 3, -1) if grey else pixels[..., :3]
        scale = max(1, -(-48 // max(pixels.shape[:2])))
        pixels = pixels.repeat(scale, 0).repeat(scale, 1)
        opaque = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], -1)
        gap = max(1, pixels.shape[1] // 16)
        tiles.append(np.pad(opaque, [(gap, gap), (gap, gap), (0, 0)]))
    return np.concatenate(tiles, 1)


@contextmanager
def _small_multiples(names: Sequence[str], columns: int = 4) -> Iterator[tuple[Any, list[Any]]]:
    """A figure of small panels in lines, one a name, with the name as its title."""
    columns = min(columns, len(names))
    lines = math.ceil(len(names) / columns)
    with _figure((max(3.2, 0.5 + 2.0 * columns), 0.6 + 1.55 * lines)) as figure:
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)
        panels = list(figure.subplots(lines, columns, squeeze=False).flat)
        for panel in panels[len(names) :]:
            panel.remove()
        for panel, name in zip(panels, names, strict=False):
            panel.set_title(name, fontsize=9)
            panel.tick_params(labelsize=7.5)
            panel.columns = columns
        yield figure, panels[: len(names)]


def _outer_labels(panels: Sequence[Any], x: str, y: str) -> None:
    """Axis labels at the left and below the last panel of each column only."""
    for place, panel in enumerate(panels):
        if place % panel.columns == 0:
            panel.set_ylabel(y, fontsize=8)
        if place + panel.columns >= len(panels):
            panel.set_xlabel(x, fontsize=8)


def _name_classes(panel: Any, classes: Sequence[str]) -> None:
    if len(classes) <= 12:
        long = max(map(len, classes)) > 2
        panel.set_xticks(range(len(classes)), [name[:14] for name in classes], fontsize=7, rotation=90 if long else 0)


def _draw_reliability(reliability: Any, panel: Any) -> None:
    count = np.asarray(reliability.count, float)
    filled = count > 0
    confidence = np.asarray(reliability.confidence, float)[filled]
    accuracy = np.asarray(reliability.accuracy, float)[filled]
    share = count[filled] / count.sum()
    edges = np.linspace(0, 1, len(count) + 1)
    middle, width = ((edges[1:] + edges[:-1]) / 2)[filled], 1 / len(count)
    panel.plot([0, 1], [0, 1], color=GREY, lw=1, ls=(0, (4, 2)), label="calibrated", zorder=2)
    panel.bar(middle, share, width * 0.9, color="#CCCCCC", label="share of points", zorder=1)
    panel.vlines(confidence, confidence, accuracy, color=COLORS[1], lw=1.5, alpha=0.6, label="gap", zorder=3)
    panel.plot(confidence, accuracy, "o-", color=COLORS[0], ms=4, lw=1.5, label="accuracy", zorder=4)
    gap = float(np.sum(share * np.abs(accuracy - confidence)))
    panel.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", title=f"ECE {gap:.3f}", aspect="equal")
    panel.legend(loc="upper left")


def _look(place: int) -> dict[str, Any]:
    turn, color = divmod(place, len(COLORS))
    marker = MARKERS[(color + turn) % len(MARKERS)]
    return {"color": COLORS[color], "marker": marker, "linestyle": "-" if turn % 2 == 0 else ":"}


def curve(rows: Sequence[Row], posterior: str, strategy: str, metric: str) -> list[tuple[int, Interval]]:
    """(labels, mean and half-width) at all label counts of the strategy's seeds that every one of them has come to."""
    curves: dict[int, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if (row.posterior, row.strategy) == (posterior, strategy):
            curves[row.seed][row.labels] = getattr(row, metric)
    if not curves:
        return []
    low, high = max(map(min, curves.values())), min(map(max, curves.values()))
    grid = sorted({labels for curve in curves.values() for labels in curve if low <= labels <= high})
    values = [np.interp(grid, sorted(curve), [curve[n] for n in sorted(curve)]) for curve in curves.values()]
    whole = [(labels, student_t(found)) for labels, found in zip(grid, np.transpose(values), strict=True)]
    return [(labels, Interval(mean, half if half == half else 0.0)) for labels, (mean, half) in whole]


def _legend(figure: Any, panels: Any, rows: Sequence[Row], wide: Mapping[str, Sequence[str]], heading: str) -> None:
    """One legend beside all panels, in the order of the curves of a strategy's first posterior: the best one first."""
    from matplotlib.patches import Patch

    handles: dict[str, Any] = {}
    for panel in panels.flat:
        found, names = panel.get_legend_handles_labels()
        handles |= dict(zip(names, found, strict=True))
    banded = any(panel.collections for panel in panels.flat)
    shades = {
        name: Patch(color=handles[name].get_color(), alpha=SHADE, lw=0)
        for names in (wide.values() if banded else ())
        for name in names
    }
    names = list(dict.fromkeys(name for posterior in wide for name in _ranked(rows, posterior)))
    figure.legend(
        [(shades[name], handles[name]) if name in shades else handles[name] for name in names],
        ["\n".join(textwrap.wrap(name, LONGEST)) for name in names],
        title=heading,
        loc="outside right upper",
        handlelength=2.6,
        alignment="left",
    )


@contextmanager
def _figure(size: tuple[float, float]) -> Iterator[Any]:
    """A figure of our style, whatever the user's settings and backend are."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield Figure(figsize=size, layout="constrained")


def _save_as(figure: Any, path_stem: str | Path, kinds: Sequence[str]) -> list[Path]:
    if figure.get_layout_engine() is not None:  # once for all kinds
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return [_save(figure, Path(f"{path_stem}.{kind}")) for kind in kinds]


def _save(figure: Any, path: Path) -> Path:
    content = io.BytesIO()
    no_dates = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "svg": {"Date": None, "Creator": None},
    }
    kind = path.suffix.removeprefix(".")
    figure.savefig(content, format=kind, dpi=150, transparent=kind == "svg", metadata=no_dates.get(kind))
    write_atomic(path, content.getvalue())
    return path
