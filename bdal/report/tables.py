"""The one table of a run: what each strategy reached, and below it what may be concluded on the same seeds."""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.table import Table

from bdal.report import outliers
from bdal.report.analysis import ROWS_ONLY, About, Analysis, about_directory, analyse_all
from bdal.report.conclusions import conclusion
from bdal.report.words import both, span, title, under
from bdal.statistics import Interval, area, student_t
from bdal.store.directory import SCORES, Row
from bdal.store.durable import write_atomic

NEAR = 0.9  # of the largest label count: strategies that come so far are read at one count


class Entry(NamedTuple):
    """One (posterior, strategy); None where not every seed has come that far.

    The first numbers are read off curves, those that are final are of each run's end, by another measure perhaps.
    """

    posterior: str
    strategy: str
    seeds: int
    half_accuracy: Interval | None  # at `Summary.half` labels
    accuracy: Interval | None  # at `Summary.last` labels
    area: Interval | None  # as in the posterior's analysis: the mean accuracy over the labels that its runs share
    difference: Interval | None  # of that area from random's, seed by seed; None for random itself
    nll: Interval | None
    ece: Interval | None
    final_accuracy: Interval | None  # by all members on all test points; None where not every seed has finished
    final_nll: Interval | None
    final_brier: Interval | None
    final_ece: Interval | None
    outlier: bool  # whether one of its seeds is one


class Summary(NamedTuple):
    """Entries by posterior, the largest area first, and the label counts that they are read at."""

    entries: list[Entry]
    half: int
    last: int
    validation_labels: int
    between: bool  # whether a curve was read between two of its label counts
    axis: str = "training labels"  # what is counted
    measured: str = ""  # on what, where it is not the test set
    areas: str = "the learning curve"  # over which labels
    conclusions: tuple[str, ...] = ()  # a posterior each, together one family of tests
    outlying: tuple[outliers.Outlier, ...] = ()
    curves: str = ""  # on what curves are measured, where final figures are on more
    ends: str = ""  # the label counts at which runs ended
    mixed: str = ""  # that curves are not of one measure
    lacking: tuple[str, ...] = ()  # scores that no row has


def order(posterior: str) -> tuple[bool, str]:
    """The key that sorts posteriors in tables and figures: MC dropout first."""
    return posterior != "mc_dropout", posterior


def summarise(rows: Sequence[Row], known: About = ROWS_ONLY) -> Summary:
    """Rows of a run directory as one entry a (posterior, strategy). Raises `ValueError` if there are none.

    They are read at the most labels that all seeds of all strategies have come to, apart from strategies that are more
    than a tenth behind; label counts that differ are joined by straight lines. Areas and their differences are those
    that are analysed, over the labels and seeds that can be compared.
    """
    if not rows:
        raise ValueError("expected at least one evaluated round, found none; the run has not come that far")
    curves: dict[tuple[str, str], dict[int, dict[int, Row]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        curves[row.posterior, row.strategy][row.seed][row.labels] = row
    first = max(min(curve) for seeds in curves.values() for curve in seeds.values())
    ends = [min(map(max, seeds.values())) for seeds in curves.values()]
    last = min(end for end in ends if end >= NEAR * max(ends))
    half = min({row.labels for row in rows}, key=lambda labels: (abs(labels - last / 2), labels))
    analyses = analyse_all(rows, known, resamples=0)
    areas = {(name, one.strategy): one.area for name, found in analyses.items() for one in found.standings}
    differences = {
        (name, one.strategy): _difference(found.areas[one.strategy], found.areas[one.reference])
        for name, found in analyses.items()
        for one in found.against
    }

    finals: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in known.finals:
        finals[row[:2]].append(row)
    outlying = outliers.outliers([analyses[name] for name in sorted(analyses, key=order)], known.finals)

    entries, between = [], False
    for (posterior, strategy), seeds in curves.items():

        def inside(labels: int, seeds=seeds) -> bool:
            return all(min(curve) <= labels <= max(curve) for curve in seeds.values())

        def at(labels: int, field: str, seeds=seeds, inside=inside) -> Interval | None:
            if not inside(labels):
                return None
            values = [{count: getattr(row, field) for count, row in curve.items()} for curve in seeds.values()]
            return _interval([area(curve, labels, labels) for curve in values])

        def final(field: str, ended=finals[posterior, strategy], seeds=seeds) -> Interval | None:
            return _interval([getattr(row, field) for row in ended]) if len(ended) == len(seeds) else None

        between |= any(inside(n) and n not in curve for n in (half, last) for curve in seeds.values())
        entries.append(
            Entry(
                posterior,
                strategy,
                len(seeds),
                at(half, "accuracy"),
                at(last, "accuracy"),
                areas.get((posterior, strategy)),
                differences.get((posterior, strategy)),
                at(last, "nll"),
                at(last, "ece"),
                final("accuracy"),
                final("nll"),
                final("brier"),
                final("ece"),
                any(one[:2] == (posterior, strategy) for one in outlying),
            )
        )
    entries.sort(
        key=lambda entry: (order(entry.posterior), -entry.area.mean if entry.area else math.inf, entry.strategy)
    )
    said = [conclusion(analyses[posterior]) for posterior in sorted(analyses, key=order)]
    return Summary(
        entries, half, last, max(row.validation_labels for row in rows), between, axis(rows), measured_on(known),
        _over(analyses, (first, last)), tuple(filter(None, said)), tuple(outlying), curve_measure(rows, known),
        span([row.labels for row in known.finals]), _mixed(rows, known), lacking(rows),
    )  # fmt: skip


def _interval(values: Sequence[float]) -> Interval | None:
    """None where one of the values is not known."""
    return None if any(map(math.isnan, values)) else student_t(values)


def _difference(one: Mapping[int, float], other: Mapping[int, float]) -> Interval:
    return student_t([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())])


def axis(rows: Sequence[Row]) -> str:
    """What the labels of the rows are: abstentions that were paid for are no labels to train on."""
    return "labels paid for" if any(row.abstained for row in rows) else "training labels"


def lacking(rows: Sequence[Row]) -> tuple[str, ...]:
    """The scores that no row has, of which there are some: a loop of one's own may leave them out."""
    return tuple(score for score in SCORES if rows and all(math.isnan(getattr(row, score)) for row in rows))


def measured_on(known: About) -> str:
    """How many labels for validation stand in the place of the test set; "" where there is one.

    >>> measured_on(About(on="validation", points=(3, 3), asked=8))
    '3 validation labels (5 of 8 could not be told)'
    """
    if known.on == "test":
        return ""
    low, high = known.points
    few = span([known.asked - high, known.asked - low])
    lacking = f" ({few} of {known.asked} could not be told)" if low < known.asked else ""
    return f"{span([low, high])} validation label{'' if high == 1 else 's'}{lacking}"


def curve_measure(rows: Sequence[Row], known: About) -> str:
    """On what curves are measured, if final figures are on more; "" where the two are one.

    >>> rows = [Row("mc_dropout", "bald", 0, 20, 5, 0.7, 1.0, 0.4, 0.1, members=20, points=2000)]
    >>> curve_measure(rows, About(finals=(rows[0]._replace(members=50, points=10000),)))
    'by 20 of 50 members on 2,000 of 10,000 test points'
    """
    last = {row[:3]: (row.members, row.points) for row in sorted(rows)}
    members, points = {}, {}
    for row in known.finals:
        few, some = last.get(row[:3], (0, 0))
        said = f"{few} of {row.members} members" if 0 < few < row.members else ""
        members[row.posterior] = said or members.get(row.posterior, "")
        if 0 < some < row.points and known.on == "test":
            points[f"{some:,} of {row.points:,}"] = None
    if len({*members.values()}) > 1:
        members = {name: f"{said}{under(name)}" for name, said in members.items() if said}
    by, on = both(filter(None, dict.fromkeys(members.values()))), both(points)
    return " ".join(filter(None, [by and f"by {by}", on and f"on {on} test points"]))


def _mixed(rows: Sequence[Row], known: About) -> str:
    """That the measure changes within a curve, if it does."""
    measures: dict[tuple[str, str, int], dict[tuple[int, int], None]] = defaultdict(dict)
    for row in rows:
        measures[row[:3]][row.members, row.points] = None
    found = next((each for each in measures.values() if len(each) > 1), None)
    if found is None or known.on != "test":
        return ""
    said = both(f"by {members} members on {points:,} test points" for members, points in found)
    return (
        f"Curves mix measures, {said}: an earlier version measured the last round so, or evaluation was changed on the "
        "way. Accuracies, areas and tests contain both."
    )


def _over(analyses: Mapping[str, Analysis], whole: tuple[int, int]) -> str:
    """The labels that areas are over, in words."""
    found = [analyses[posterior] for posterior in sorted(analyses, key=order)]
    out = any(analysis.left_out for analysis in found)
    if all((analysis.low, analysis.high) == whole for analysis in found) and not out:
        return "the learning curve"
    ranges = list(dict.fromkeys(f"{span([analysis.low, analysis.high])} labels" for analysis in found))
    if len(ranges) > 1:
        ranges = [f"{span([analysis.low, analysis.high])} labels{under(analysis.posterior)}" for analysis in found]
    return f"{both(ranges)}, which all {'finished ' if out else ''}runs have"


def caption(summary: Summary, *, areas: bool = True) -> str:
    """What the numbers are: seeds, labels, intervals."""
    seeds = sorted({entry.seeds for entry in summary.entries})
    intervals = " ± and [ ] are 95 % Student t intervals over seeds." if seeds[-1] > 1 else ""
    lines = " Between their label counts curves are straight lines." if summary.between else ""
    paid = " Labels paid for are those to train on and the abstentions that are charged; table.csv calls them labels."
    paid = "" if summary.axis == "training labels" else paid
    measured = f" Measured on {summary.measured}, as there is no test set." if summary.measured else ""
    entries = summary.entries
    validation = f" + {summary.validation_labels} for validation" if summary.validation_labels else ""
    behind = any(entry.half_accuracy is None or entry.accuracy is None for entry in entries)
    alone = any(entry.difference is None and entry.area and entry.strategy != "random" for entry in entries)
    why = " –: not every seed of the strategy has come to these labels." if behind else ""
    scores = [getattr(entry, name) for entry in entries for name in ("nll", "ece") if name not in summary.lacking]
    if any(entry.accuracy for entry in entries) and None in scores and not behind:
        why += " –: a score that not every evaluation has."
    over = against = ""
    if areas:
        why += " No area: no run of the strategy is compared." if any(entry.area is None for entry in entries) else ""
        why += " – vs random: nothing to compare on the same seeds." if alone and _with_random(summary) else ""
        against = "; vs random: difference of areas on the same seeds" if _with_random(summary) else ""
        over = f"; area: mean accuracy over {summary.areas}"
    names = [name for name, score in (("NLL (nats)", "nll"), ("ECE", "ece")) if score not in summary.lacking]
    ends = f"; {both(names)} at the end." if names else "."
    if summary.curves:
        unfinished = any(entry.final_accuracy is None for entry in entries)
        on = "validation labels" if summary.measured else "test points"
        where = "" if summary.ends == f"{summary.last}" else f", at {summary.ends} labels"
        ends = (
            f"; final: at the end of each run{where}, by all members on all {on}, NLL in nats; all else "
            f"{summary.curves}.{' – final: not every seed has finished.' if unfinished else ''}"
        )
    ends += f" {summary.mixed}" if summary.mixed else ""
    return (
        f"{span([seeds[0], seeds[-1]])} seed{'s' if seeds[-1] > 1 else ''}; {summary.last} {summary.axis}"
        f"{validation}.{paid}{measured}{intervals} Accuracy in %{over}"
        f"{against}{ends}{lines}{why}"
    )


def below(summary: Summary) -> list[str]:
    """What stands below the table: the caption, which seeds are outliers, and what may be concluded."""
    return [caption(summary), *outliers.sentences(summary.outlying), *summary.conclusions]


def _with_random(summary: Summary) -> bool:
    return any(entry.strategy == "random" for entry in summary.entries)


def cells(summary: Summary, *, short: bool = False, areas: bool = True) -> tuple[list[str], list[list[str]]]:
    """Column heads and a line of text an entry; `short` keeps the intervals of accuracies and differences only.

    Without `areas` these and their differences are left out.

    Where final figures are by another measure than the curves, they have columns of their own, and what is short then
    leaves out the first accuracy.
    """

    lesser, difference = (_plain, plus_minus) if short else (plus_minus, _between)
    at, final, apart = "acc." if short else "acc. at", "" if short else "final ", bool(summary.curves)
    lacking = summary.lacking
    last = _plain if short and apart else plus_minus
    columns = [
        ("strategy", lambda entry: _marked(entry.strategy, entry.outlier), True),
        (f"{at} {summary.half}", lambda entry: plus_minus(entry.half_accuracy, 100, 1), not (short and apart)),
        (f"{at} {summary.last}", lambda entry: last(entry.accuracy, 100, 1), True),
        ("area", lambda entry: lesser(entry.area, 100, 1), areas),
        ("vs random", lambda entry: difference(entry.difference, 100, 1, "+"), areas and _with_random(summary)),
        ("final acc.", lambda entry: plus_minus(entry.final_accuracy, 100, 1), apart),
        (f"{final}NLL", lambda entry: lesser(entry.final_nll, 1, 2), apart and "nll" not in lacking),
        (f"{final}ECE", lambda entry: lesser(entry.final_ece, 1, 3), apart and "ece" not in lacking),
        ("NLL", lambda entry: lesser(entry.nll, 1, 2), not apart and "nll" not in lacking),
        ("ECE", lambda entry: lesser(entry.ece, 1, 3), not apart and "ece" not in lacking),
    ]
    shown = [(head, text) for head, text, there in columns if there]
    return [head for head, _ in shown], [[text(entry) for _, text in shown] for entry in summary.entries]


def _marked(strategy: str, outlier: bool) -> str:
    return f"{strategy} {outliers.MARK}" if outlier else strategy


def _plain(interval: Interval | None, scale: float, digits: int, sign: str = "") -> str:
    return "–" if interval is None else f"{scale * interval.mean:{sign}.{digits}f}"


def plus_minus(interval: Interval | None, scale: float, digits: int, sign: str = "") -> str:
    """A mean and its half-width as text."""
    text = _plain(interval, scale, digits, sign)
    return text if interval is None or math.isnan(interval.half) else f"{text} ± {scale * interval.half:.{digits}f}"


def _between(interval: Interval | None, scale: float, digits: int, sign: str = "") -> str:
    if interval is None or math.isnan(interval.half):
        return _plain(interval, scale, digits, sign)
    low, high = (scale * (interval.mean + side * interval.half) for side in (-1, 1))
    return f"{_plain(interval, scale, digits, sign)} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def final_cells(known: About, outlying: Sequence[outliers.Outlier] = ()) -> tuple[list[str], list[list[str]]]:
    """What finished runs ended with, a line a strategy: how many runs, their labels, by how many members on what."""
    finals: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in known.finals:
        finals[row[:2]].append(row)
    every = (
        ("accuracy", 100, 1, "accuracy"),
        ("nll", 1, 2, "NLL"),
        ("brier", 1, 3, "Brier score"),
        ("ece", 1, 3, "ECE"),
    )
    there = [each for each in every if each[0] not in lacking(known.finals)]
    on = not known.finals or any(row.members or row.points for row in known.finals)
    lines = []
    for key in sorted(finals, key=lambda key: (order(key[0]), key[1] == "random", key[1])):
        rows = finals[key]
        labels, members, points = (
            span([getattr(row, field) for row in rows]) for field in ("labels", "members", "points")
        )
        shown = [
            plus_minus(_interval([getattr(row, field) for row in rows]), scale, digits)
            for field, scale, digits, _ in there
        ]
        name = _marked(key[1], any(one[:2] == key for one in outlying))
        lines.append([title(key[0]), name, f"{len(rows)}", labels, *[f"{members} on {points}"] * on, *shown])
    heads = ["posterior", "strategy", "runs", "labels", *["members on"] * on, *(each[3] for each in there)]
    return heads, lines


def rich_table(summary: Summary, width: int = 120) -> Table:
    """The table for a terminal of so many columns, one section a posterior; a narrow one drops the lesser intervals."""
    heads, lines = cells(summary)
    if sum(max(map(len, column)) + 2 for column in zip(heads, *lines, strict=True)) > width:
        heads, lines = cells(summary, short=True)
    table = Table(box=box.SIMPLE, show_edge=False, collapse_padding=True, pad_edge=False)
    table.caption, table.caption_justify = "\n".join(below(summary)), "left"
    for head in heads:
        table.add_column(head, justify="left" if head == "strategy" else "right", no_wrap=True)
    posterior = None
    for entry, line in zip(summary.entries, lines, strict=True):
        if entry.posterior != posterior:
            if posterior is not None:
                table.add_section()
            posterior = entry.posterior
            table.add_row(posterior, style="bold")
        table.add_row(*line, style="dim" if entry.strategy == "random" else None)
    return table


def markdown(summary: Summary) -> str:
    """The table as Markdown, and what stands below it."""
    heads, lines = cells(summary)
    heads = ["posterior", *heads]
    lines = [[entry.posterior, *line] for entry, line in zip(summary.entries, lines, strict=True)]
    return "\n\n".join([as_markdown(heads, lines, names=2), *below(summary)]) + "\n"


def as_markdown(heads: Sequence[str], lines: Sequence[Sequence[str]], names: int = 1) -> str:
    """Heads and lines as a Markdown table; the first `names` columns are set to the left.

    >>> print(as_markdown(["strategy", "area"], [["margin", "90.1"]]))
    | strategy | area |
    | -------- | ---: |
    | margin   | 90.1 |
    """
    widths = [max(len(line[column]) for line in [heads, *lines]) for column in range(len(heads))]

    def row(cells: Sequence[str]) -> str:
        padded = [
            f"{cell:<{w}}" if i < names else f"{cell:>{w}}"
            for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if i < names else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([row(heads), row(rule), *map(row, lines)])


def comma_separated(summary: Summary) -> str:
    """The table as CSV in full precision: each quantity's mean and half-width (empty where there is none)."""
    quantities = Entry._fields[3:-1]
    names = {"half_accuracy": f"accuracy_at_{summary.half}", "accuracy": f"accuracy_at_{summary.last}"}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [f"{names.get(name, name)}_{part}" for name in quantities for part in ("mean", "half_width")]
    writer.writerow(["posterior", "strategy", "seeds", "labels", "validation_labels", *heads])
    for entry in summary.entries:
        numbers = [number for name in quantities for number in (getattr(entry, name) or (math.nan, math.nan))]
        head = [entry.posterior, entry.strategy, entry.seeds, summary.last, summary.validation_labels]
        writer.writerow([*head, *("" if math.isnan(number) else repr(number) for number in numbers)])
    return text.getvalue()


def write(rows: Sequence[Row], workdir: str | Path) -> Summary:
    """Write `table.md` and `table.csv` into a run directory."""
    summary = summarise(rows, about_directory(workdir))
    write_atomic(Path(workdir) / "table.md", markdown(summary))
    write_atomic(Path(workdir) / "table.csv", comma_separated(summary))
    return summary
