"""How good the strategies were, and what may be concluded: the report's tables of comparisons."""

from collections.abc import Mapping

from bdal.report import conclusions, outliers, tables
from bdal.report.analysis import Analysis
from bdal.report.document import SHORT, Block, Bullets, Paragraph, Section, Table
from bdal.report.gather import Group
from bdal.report.words import capital, several, title


def sections(group: Group, analyses: Mapping[str, Analysis]) -> list[Section]:
    """What each strategy reached, what may be concluded of them under each posterior, and how to read that."""
    if not group.rows:
        return []
    summary = tables.summarise(group.rows, group.about)
    along = summary._replace(curves="")  # final figures have a table of their own here
    heads, lines = tables.cells(along, areas=False)
    whole = [entry.final_brier for entry in along.entries]
    same = (
        all(entry.final_accuracy for entry in along.entries)
        and not summary.curves
        and not summary.mixed
        and summary.ends == f"{summary.last}"
    )
    if same and all(whole):  # of the same measure, at the same labels: the final figures are there but for one
        heads = [*heads, "Brier score"]
        lines = [[*line, tables.plus_minus(brier, 1, 3)] for line, brier in zip(lines, whole, strict=True)]
    heads = ["posterior", *heads]
    lines = [[title(entry.posterior), *line] for entry, line in zip(along.entries, lines, strict=True)]
    heads, lines, names = _named(heads, lines)
    measure = f", {summary.curves}" if summary.curves else ""
    caption = f"What each strategy reached{measure}. {tables.caption(along, areas=False)}"
    first: list[Block] = [Table(caption, heads, lines, names, " ".join(outliers.sentences(summary.outlying)))]
    if (finals := group.about.finals) and not same:
        heads, lines, names = _named(*tables.final_cells(group.about, summary.outlying))
        points = "test points" if group.about.on == "test" else "labels for validation"
        by = f", by so many members on so many {points}" if "members on" in heads else ""
        nats = ", NLL in nats" if "NLL" in heads else ""
        caption = (
            f"Final figures: what finished runs ended with, after so many {tables.axis(finals)}{by}. Means and 95 % "
            f"Student t intervals; accuracy in %{nats}."
        )
        first.append(Table(caption, heads, lines, names))
    below = []
    for posterior in group.posteriors:
        analysis = analyses.get(posterior)
        if analysis is None:
            text = f"{_head(posterior)}: there is nothing to compare, as not every strategy has been evaluated."
            below.append(Section(_head(posterior), [Paragraph(text)], level=3))
            continue
        blocks: list[Block] = []
        if so_far(group, posterior):
            blocks.append(
                Paragraph(
                    f"No run has finished. This compares what all have so far, up to {analysis.high} labels; to look "
                    "again and again and stop when it looks well makes false alarms likely.",
                    note=True,
                )
            )
        blocks += _tables(analysis)
        below.append(Section(_head(posterior), blocks, level=3))
    notes = conclusions.notes(list(analyses.values()))
    return [
        Section("Comparison of strategies", first),
        *below,
        Section("How to read these tables", [Bullets(notes)] if notes else [], level=3),
    ]


def _head(posterior: str) -> str:
    return capital(title(posterior)) or "All methods"


def _named(heads: list[str], lines: list[list[str]]) -> tuple[list[str], list[list[str]], int]:
    """Cells without the column of posteriors where there are none, and how many columns are names."""
    if any(line[0] for line in lines):
        return heads, lines, 2
    return heads[1:], [line[1:] for line in lines], 1


def _tables(analysis: Analysis) -> list[Block]:
    """Those that have something to say; long ones are folded."""

    def exploratory(tests: int) -> str:
        return (
            f" Exploratory, and corrected for the {several(tests, 'comparison')} of this table only." if tests else ""
        )

    name, counts, holm = conclusions.NAMES[analysis.metric], analysis.penalties.labels, conclusions.holm_text(analysis)
    there, unit = conclusions.filled(analysis), " points" if analysis.metric in conclusions.SCALES else ""
    area = f"Area under {name} {conclusions.labels_compared(analysis)}."
    needed = (
        f"Paired seeds that it takes to see a gap in {name} of so many{unit}, and the standard deviation (sd) of the "
        f"differences and the gap that is visible to the seeds at hand, in{unit or ' its unit'}."
    )
    primary = f"Differences from {analysis.reference}, seed by seed{f', with {holm}' if holm else ''}."
    tests = sum(found.pairs > 0 for found in analysis.thresholds)
    labels = f"Labels to a threshold (seeds that came there).{exploratory(tests)}"
    matrix = f"Pairwise penalty matrix over {counts} label counts: how often the line's strategy beats the column's."
    other = f" other than {analysis.reference}" if analysis.reference else ""
    pairs = f"Pairs of strategies{other}.{exploratory(len(analysis.pairs))}"
    kinds = [
        (True, conclusions.standings_table, 1, area),
        (there["against"], conclusions.comparison_table, 1, primary),
        (there["thresholds"], conclusions.labels_table, 2, labels),
        (there["needed"], conclusions.seeds_table, 1, needed),
        (there["penalties"], conclusions.penalty_table, 1, matrix),
        (there["pairs"], conclusions.pairs_table, 2, pairs),
    ]
    blocks: list[Block] = []
    for said, make, left, caption in kinds:
        if said:
            heads, lines = make(analysis)
            shade = make is conclusions.penalty_table
            blocks.append(Table(caption, heads, lines, left=left, shade=shade, folded=len(lines) > SHORT))
    return blocks


def so_far(group: Group, posterior: str) -> bool:
    """Whether no run of a posterior has finished, so that what is compared are runs that go on."""
    return not any(run.reason for run in group.runs if run.posterior == posterior)
