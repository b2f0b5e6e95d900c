"""What may be concluded from an analysis, in tables and in sentences.

A table is a list of heads and a list of lines of text, to be printed as HTML or Markdown.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from bdal.report.analysis import Analysis, Seeds, Threshold
from bdal.report.words import both, capital, span, title, under
from bdal.statistics import HIGHER, LOWER, SAME, TOO_FEW, Comparison, Interval, Range

Cells = tuple[list[str], list[list[str]]]  # heads, and lines of as many texts
SCALES = {"accuracy": (100, 1)}  # accuracies in %, with so many digits; the others are
PLAIN = (1, 3)
MOST_SEEDS = 100  # that are counted
VERDICTS = (HIGHER, LOWER, SAME, TOO_FEW)
NAMES = {"accuracy": "accuracy", "nll": "NLL", "brier": "Brier score", "ece": "ECE"}


def standings_table(analysis: Analysis) -> Cells:
    """Each strategy's area under the curve: mean ± half-width of the 95 % Student t interval, interquartile mean."""
    form = _form(analysis.metric)
    heads = ["strategy", "seeds", f"area{_unit(analysis.metric)}", "interquartile mean"]
    return heads, [
        [
            entry.strategy,
            str(entry.seeds),
            _plus_minus(entry.area, form),
            _between(entry.interquartile_mean, entry.interquartile_mean_range, form),
        ]
        for entry in analysis.standings
    ]


def comparison_table(analysis: Analysis) -> Cells:
    """Each strategy against the reference: difference of areas with both intervals, exact p, Holm's p, the verdict."""
    form = _form(analysis.metric, "+", 1)
    heads = ["strategy", "pairs", f"− {analysis.reference}{_unit(analysis.metric)}", "BCa", "better on", "p", "Holm p"]
    return [*heads, "verdict"], [
        [
            found.strategy,
            str(found.pairs),
            _between(found.difference.mean, _ends(found.difference), form),
            _range(found.bca, form),
            f"{found.better} of {found.pairs}",
            _p(found.p),
            _p(found.adjusted),
            verdict(found),
        ]
        for found in analysis.against
    ]


def pairs_table(analysis: Analysis) -> Cells:
    """Pairs without the reference, one family: difference of areas with its Student t interval, p, Holm p, verdict."""
    form = _form(analysis.metric, "+", 1)
    heads = ["strategy", "minus", "pairs", f"difference{_unit(analysis.metric)}", "p", "Holm p", "verdict"]
    return heads, [
        [
            found.strategy,
            found.reference,
            str(found.pairs),
            _between(found.difference.mean, _ends(found.difference), form),
            _p(found.p),
            _p(found.adjusted),
            verdict(found),
        ]
        for found in analysis.pairs
    ]


def penalty_table(analysis: Analysis) -> Cells:
    """The pairwise penalty matrix: how often the line's strategy beats the column's; last, how often each is beaten."""
    names, matrix, _ = analysis.penalties
    lines = [
        [name, *("–" if i == j or math.isnan(share) else f"{share:.2f}" for j, share in enumerate(matrix[i]))]
        for i, name in enumerate(names)
    ]
    beaten = ["–" if math.isnan(share) else f"{share:.2f}" for share in analysis.penalties.beaten]
    return ["beats", *names], [*lines, ["is beaten", *beaten]]


def labels_table(analysis: Analysis) -> Cells:
    """Labels to each threshold: the Kaplan–Meier median, how many seeds came there, and the test with the reference.

    The tests at all thresholds are one family.
    """
    scale, _ = SCALES.get(analysis.metric, PLAIN)
    heads = [f"{NAMES[analysis.metric]}{_unit(analysis.metric)}", "strategy", "labels", "p", "Holm p", "verdict"]
    words = {HIGHER: "more labels", LOWER: "fewer labels"}
    return heads, [
        [
            f"{scale * found.threshold:g}",
            found.strategy,
            labels_text(found),
            _p(found.p),
            _p(found.adjusted),
            words.get(found.verdict, found.verdict) or "–",
        ]
        for found in analysis.thresholds
    ]


def seeds_table(analysis: Analysis) -> Cells:
    """Seeds that it takes to see a gap with 80 % power, at the observed sd and in brackets at the ends of its interval.

    The visible gap is the one that the seeds at hand see with that power.
    """
    scale, digits = SCALES.get(analysis.metric, PLAIN)
    form = _form(analysis.metric, "", 1)
    gaps = [seeds.gap for seeds in analysis.needed[0].gaps] if analysis.needed else []
    heads = ["strategy", "pairs", "sd", "visible", *(f"gap {scale * gap:g}" for gap in gaps)]
    return heads, [
        [
            found.strategy,
            str(found.pairs),
            _between(found.sd, found.sd_range, form),
            f"{scale * found.visible:.{digits + 1}f}" if math.isfinite(found.visible) else "none",
            *map(_seeds_text, found.gaps),
        ]
        for found in analysis.needed
    ]


def verdict(found: Comparison) -> str:
    """The verdict in words; where seeds are too few, how many it takes."""
    return f"too few seeds ({found.needed} needed)" if found.verdict == TOO_FEW else found.verdict


def labels_text(found: Threshold) -> str:
    """The labels that half of the seeds needed, how many came there at all, and how many ended before that without.

    >>> labels_text(Threshold(0.9, "bald", None, 2, 0, 5, 200, 0, math.nan, math.nan, ""))
    '> 200 (2 of 5 seeds)'
    >>> labels_text(Threshold(0.9, "bald", 60, 1, 4, 5, 60, 0, math.nan, math.nan, ""))
    '60 (1 of 5 seeds, 4 ended before)'
    """
    labels = f"> {found.last}" if found.median is None else f"{found.median}"
    ended = f", {found.ended} ended before" if found.ended else ""
    return f"{labels} ({found.reached} of {found.seeds} seed{'s' if found.seeds > 1 else ''}{ended})"


def conclusion(analysis: Analysis) -> str:
    """What may be said of the strategies against the reference, in sentences; "" where there is nothing to compare."""
    said = _said(analysis)
    where = f"Area under {NAMES[analysis.metric]} {labels_compared(analysis)}"
    name = f", {title(analysis.posterior)}" if analysis.posterior else ""
    return f"{where}{name}: {said}" if said else ""


def leads(analyses: Iterable[Analysis], so_far: Callable[[str], bool] = lambda posterior: False) -> list[str]:
    """Of each posterior which areas are the largest, whether these two can be told apart, and the conclusion.

    What is concluded under all posteriors in the same words is said once, at the end.
    """
    pairs = [(_largest(analysis, so_far(analysis.posterior)), analysis) for analysis in analyses]
    said = {_said(analysis) for _, analysis in pairs}
    if len(pairs) > 1 and len(said) == 1 and all([*said, *(largest for largest, _ in pairs)]):
        every = "Under both posteriors" if len(pairs) == 2 else f"Under all {len(pairs)} posteriors"
        return [*(largest for largest, _ in pairs), f"{every}: {said.pop()}"]
    texts = [f"{largest} {capital(_said(found))}" if largest else conclusion(found) for largest, found in pairs]
    return [text.rstrip() for text in texts if text]


def _largest(analysis: Analysis, so_far: bool) -> str:
    if len(analysis.standings) < 2 or analysis.low == analysis.high:
        return ""
    scale, digits = SCALES.get(analysis.metric, PLAIN)
    unit = " %" if analysis.metric in SCALES else ""
    (first, most), (second, next_most) = (
        (one.strategy, f"{scale * one.area.mean:.{digits}f}{unit}") for one in analysis.standings[:2]
    )
    apart = best_two(analysis)
    where = capital(under(analysis.posterior).strip()) or "Of all methods"
    return (
        f"{where} {first} has{' so far' if so_far else ''} the largest area under the "
        f"{NAMES[analysis.metric]} curve {labels_compared(analysis)}, {most} on average, and "
        f"{second} the second largest, {next_most}{f'; {apart}' if apart else ''}."
    )


def _said(analysis: Analysis) -> str:
    there = {entry.strategy for entry in analysis.standings}
    absent = {strategy for strategy, _ in analysis.left_out} - there
    if len(there | absent) < 2:
        return ""
    if analysis.low == analysis.high and len(there) > 1:
        text = "this is the one label count that the runs have in common, so there is no verdict."
    elif analysis.reference is None:
        why = (
            f"no seed of {analysis.asked} has finished" if analysis.asked in absent else f"there is no {analysis.asked}"
        )
        text = f"{why}, so no strategy is compared with it."
    elif analysis.against:
        text = _verdicts(analysis)
    elif analysis.unpaired:
        text = "no verdict."
    else:
        text = f"there is nothing yet to compare with {analysis.reference}."
    if analysis.unpaired:
        text += f" Without a seed in common with {analysis.reference}, so not compared: {both(analysis.unpaired)}."
    if analysis.shortest:
        runs = [f"{strategy} (seed {seed})" for strategy, seed in analysis.shortest]
        runs = [*runs[:3], f"{len(runs) - 3} more"] if len(runs) > 4 else runs
        came = "has come" if len(analysis.shortest) == 1 else "have come"
        text += f" The comparison ends at {analysis.high} of {analysis.end} labels, as far as {both(runs)} {came}."
    if analysis.left_out:
        left = sorted({strategy for strategy, _ in analysis.left_out})
        number = "1 run" if len(analysis.left_out) == 1 else f"{len(analysis.left_out)} runs"
        text += f" Left out, not finished: {number} of {both(left)}."
    return text


def _verdicts(analysis: Analysis) -> str:
    level, count = f"{100 * analysis.level:g} %", len(analysis.against)
    pairs = sorted({found.pairs for found in analysis.against})
    seeds = f"{span([pairs[0], pairs[-1]])} paired seed{'s' if pairs[-1] > 1 else ''}"
    holm = f" after {holm_text(analysis)}" if holm_text(analysis) else ""
    needs = f"a two-sided Wilcoxon test needs {analysis.against[0].needed} pairs to reach {level}{holm}"
    names = {word: [found.strategy for found in analysis.against if found.verdict == word] for word in VERDICTS}
    if len(names[TOO_FEW]) == count:
        are = "are" if pairs[-1] > 1 else "is"
        text = f"{seeds} {are} too few to tell any strategy from {analysis.reference} ({needs})."
    else:
        said, other = [], analysis.reference
        for word in VERDICTS:
            if found := names[word]:
                many = len(found) > 1
                ending = {
                    HIGHER: f"{'are' if many else 'is'} higher than {other}",
                    LOWER: f"{'are' if many else 'is'} lower than {other}",
                    SAME: f"cannot be told apart from {other}",
                    TOO_FEW: f"{'have' if many else 'has'} too few seeds to be told from {other} ({needs})",
                }[word]
                said.append(f"{both(found)} {ending}")
                other = "it"
        text = f"over {seeds}, {'; '.join(said)} (exact two-sided Wilcoxon test, {level}{holm})."
    visible = [found.visible for found in analysis.needed if found.strategy in names[SAME]]
    if visible and max(visible) == 0:
        text += f" The results of {both([*names[SAME], str(analysis.reference)])} are identical on every seed."
    elif visible and math.isfinite(max(visible)):
        scale, digits = SCALES.get(analysis.metric, PLAIN)
        gap = f"{scale * max(visible):.{digits}f}{' points' if scale == 100 else ''}"
        text += f" That is no proof that they are equal: a gap of {gap} would be missed about one time in five."
    return text


def holm_text(analysis: Analysis) -> str:
    """For how many comparisons, of how many posteriors, the verdicts are corrected; "" for one."""
    count, posteriors = analysis.family
    under = f" under {posteriors} posteriors" if posteriors > 1 else ""
    return f"Holm's correction for {count} comparisons{under}" if count > 1 else ""


def best_two(analysis: Analysis) -> str:
    """Whether the largest area and the second largest can be told apart, in words; "" where there are not two."""
    found = analysis.best_two
    if len(analysis.standings) < 2 or analysis.low == analysis.high:
        return ""
    if found is None:
        return "the two have no seed in common"
    if found.verdict == TOO_FEW:
        return f"too few seeds to tell the two apart ({found.needed} needed)"
    looked = "" if found.reference == analysis.reference else " (exploratory, by the table of pairs)"
    return f"the two {SAME}" if found.verdict == SAME else f"the two can be told apart{looked}"


def notes(analyses: Sequence[Analysis]) -> list[str]:
    """What a reader of the tables that the analyses fill has to know, a sentence or two each."""
    thresholds = any(found.pairs for analysis in analyses for found in analysis.thresholds)
    pairs = any(filled(analysis)["pairs"] for analysis in analyses)
    exploratory = both(["labels to a threshold"] * thresholds + ["pairs of strategies"] * pairs)
    return list(dict.fromkeys(note for analysis in analyses for note in _notes(analysis, exploratory)))


def _notes(analysis: Analysis, exploratory: str) -> list[str]:
    there = filled(analysis)
    few = any(found.pairs < 10 for found in analysis.against)
    thresholds = any(found.pairs for found in analysis.thresholds)
    tested = there["against"] or there["pairs"] or thresholds
    level = f"{100 * analysis.level:g} %"
    chance = analysis.level / 2 * (1 - 1 / analysis.penalties.labels)
    corrected = f", with {holm_text(analysis)}" if holm_text(analysis) else ""
    known = {
        f"Area: the mean of {NAMES[analysis.metric]} {labels_compared(analysis)}."
        f"{' Differences are taken on the same seeds.' if tested else ''}": True,
        "± and [ ] are 95 % Student t intervals, not corrected for the number of comparisons. In brackets behind an "
        "interquartile mean: a percentile bootstrap interval.": any(entry.seeds > 1 for entry in analysis.standings),
        "BCa: bias-corrected and accelerated bootstrap intervals"
        f"{', too narrow for so few seeds' if few else ''}; nothing is decided by them.": there["against"],
        "p: exact two-sided Wilcoxon signed-rank test. A verdict of a difference needs a Holm p of at most "
        f"{level}.": tested,
        f"The differences from {analysis.asked} are what is asked of the runs: their Holm p is corrected for all of "
        f"them under all posteriors, so that of reports on strategies that are all equal at most {level} find a "
        "difference there. It speaks for these data, this network and one metric chosen beforehand.": there["against"],
        f"Exploratory: {exploratory}, corrected for the comparisons of one table and not for there being "
        "several, so a difference found there is a reason to look again with new seeds. In simulations of strategies "
        "that are all equal, 6 to 16 of 100 reports with enough seeds held a difference in some table, and at most 5 "
        "among the differences from random.": bool(exploratory),
        "Penalty matrix (Ash et al. 2020): the share of label counts at which a strategy beats another by a paired "
        f"t test at {level}, not corrected. Chance gives about {chance:.2g}: half of the level, but at the first label "
        "count, which is one model for all.": there["penalties"],
        "Labels: the first label count at the threshold, the Kaplan–Meier median over seeds. Seeds that never came "
        "there count as later than all that did within their labels (Gehan's scores, exact test). Both take it that "
        "a run's end says nothing of its curve: true of a spent budget, not of rules that stop a run by its "
        "predictions (stabilised, no expected gain).": there["thresholds"],
        "Visible gap: the difference that the pairs at hand would see four times out of five. Seeds needed for a gap: "
        "to see it that often, at the observed standard deviation and, in brackets, at the ends of its own 95 % "
        f"interval{corrected}, as the verdicts have it. Of more than {MOST_SEEDS} seeds the range is not given.": there[
            "needed"
        ],
    }
    return [text for text, said in known.items() if said]


def filled(analysis: Analysis) -> dict[str, bool]:
    """Which of the tables of an analysis have something to say."""
    matrix = enumerate(analysis.penalties.matrix)
    met = any(math.isfinite(share) for i, line in matrix for j, share in enumerate(line) if i != j)
    return {
        "against": bool(analysis.against),
        "thresholds": bool(analysis.thresholds),
        "needed": any(found.gaps for found in analysis.needed),
        "penalties": analysis.low < analysis.high and met,
        "pairs": bool(analysis.pairs),
    }


def labels_compared(analysis: Analysis) -> str:
    """From where to where curves are compared."""
    at = "at" if analysis.low == analysis.high else "from"
    return f"{at} {span([analysis.low, analysis.high])} labels"


def _unit(metric: str) -> str:
    return " (%)" if metric in SCALES else ""


def _form(metric: str, sign: str = "", more: int = 0) -> tuple[float, str]:
    """A scale, and a format with so many more digits."""
    scale, digits = SCALES.get(metric, PLAIN)
    return scale, f"{sign}.{digits + more}f"


def _ends(interval: Interval) -> Range:
    return Range(interval.mean - interval.half, interval.mean + interval.half)


def _plus_minus(interval: Interval, form: tuple[float, str]) -> str:
    scale, digits = form
    text = f"{scale * interval.mean:{digits}}"
    return text if math.isnan(interval.half) else f"{text} ± {scale * interval.half:{digits}}"


def _range(ends: Range, form: tuple[float, str]) -> str:
    scale, digits = form
    return "–" if math.isnan(ends.low) else f"[{scale * ends.low:{digits}}, {scale * ends.high:{digits}}]"


def _between(value: float, ends: Range, form: tuple[float, str]) -> str:
    scale, digits = form
    if math.isnan(value):
        return "–"
    return f"{scale * value:{digits}}" + ("" if math.isnan(ends.low) else f" {_range(ends, form)}")


def _p(value: float) -> str:
    return "–" if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _seeds_text(found: Seeds) -> str:
    """How many seeds, and in brackets the ends of the range; nobody runs more than `MOST_SEEDS`.

    >>> _seeds_text(Seeds(0.02, 41, 18, 1306)), _seeds_text(Seeds(0.005, 1589, 54, None))
    ('41 (18 to > 100)', 'more than 100')
    """
    if found.expected is None or found.expected > MOST_SEEDS:
        return f"more than {MOST_SEEDS}"
    high = f"> {MOST_SEEDS}" if found.high is None or found.high > MOST_SEEDS else found.high
    return f"{found.expected} ({found.low} to {high})"
