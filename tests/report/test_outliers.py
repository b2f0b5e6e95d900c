"""A seed that collapses is named in a run, its table and its report, and no number changes for it."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from bdal.report import report
from bdal.report.analysis import About, analyse_all
from bdal.report.outliers import Outlier, outliers, sentences
from bdal.report.tables import markdown, rich_table, summarise
from bdal.statistics import student_t
from bdal.store import directory, durable
from bdal.store.directory import Row
from tests.report.test_page import blank, read, strategies_on  # noqa: F401 (a fixture)
from tests.synthetic import make_run

LABELS = (20, 40, 60, 80, 100)


def rows_of(seeds=6, lost=None, strategies=("random", "margin", "bald"), loss=0.3):
    """Curves of equal strategies; `lost[strategy, seed]` is the first label count at which 30 points are gone."""
    rng, lost = np.random.default_rng(3), lost or {}
    return [
        Row("mc_dropout", name, seed, n, 25, 0.6 + n / 400 + 0.01 * rng.standard_normal() - gone, 0.5, 0.2, 0.1)
        for name in strategies
        for seed in range(seeds)
        for n in LABELS
        for gone in [loss * (n >= lost.get((name, seed), 1000))]
    ]


def known_of(rows):
    runs = frozenset(row[:3] for row in rows)
    return About(end=100, finished=runs, planned=runs, finals=tuple(row for row in rows if row.labels == 100))


def found_in(rows, known=None):
    known = known or known_of(rows)
    return outliers(analyse_all(rows, known, resamples=0).values(), known.finals)


def test_by_its_curve_and_by_its_end():
    assert found_in(rows_of()) == []
    both, middle = (found_in(rows_of(lost={("bald", 2): labels})) for labels in (20, 60))
    end = found_in(rows_of(lost={("bald", 2): 100}, loss=0.15))  # 2 points of the area
    assert [one[:4] for one in both] == [("mc_dropout", "bald", 2, what) for what in ("area", "final accuracy")]
    assert [one.what for one in middle] == ["area", "final accuracy"]
    assert [one.what for one in end] == ["final accuracy"]
    rows = rows_of(lost={("bald", 2): 20})
    finals = {row.seed: row.accuracy for row in rows if (row.strategy, row.labels) == ("bald", 100)}
    assert (both[1].value, both[1].median, both[1].seeds) == (finals[2], np.median(list(finals.values())), 6)


def test_a_run_that_a_rule_stopped_is_not_below_the_ends_of_longer_ones():
    rows = [row for row in rows_of() if (row.strategy, row.seed) != ("bald", 2) or row.labels <= 20]
    ends = {row[:3]: row for row in rows}  # the last of each run
    known = known_of(rows)._replace(finals=tuple(ends.values()))
    assert min(row.accuracy for row in known.finals) < 0.7 < 0.8
    assert found_in(rows, known) == []


def test_sentences_name_each_seed_once():
    found = [
        Outlier("mc_dropout", "bald", 2, "area", 0.5, 0.8, 6),
        Outlier("mc_dropout", "bald", 2, "final accuracy", 0.4, 0.9, 6),
        Outlier("mc_dropout", "bald", 4, "area", 0.3, 0.8, 6),
        Outlier("deep_ensemble", "random", 0, "area", 0.1, 0.8, 6),
    ]
    bald, random, meaning = sentences(found)
    assert bald == (
        "† bald under MC dropout: seed 2 lies far below the others in area (50.0 %; median of 6 seeds 80.0 %) and "
        "final accuracy (40.0 %; median of 6 seeds 90.0 %) and seed 4 lies far below the others in area (30.0 %; "
        "median of 6 seeds 80.0 %)."
    )
    assert random.startswith("† random under deep ensemble: seed 0 lies")
    assert "truth less often than 95 times in 100 (docs/statistics.md)" in meaning
    assert sentences([]) == []


def test_the_table_names_it_and_leaves_nothing_out():
    rows = rows_of(lost={("bald", 2): 60})
    summary = summarise(rows, known_of(rows))
    assert [entry.strategy for entry in summary.entries if entry.outlier] == ["bald"]
    bald = next(entry for entry in summary.entries if entry.outlier)
    ends = [row.accuracy for row in rows if (row.strategy, row.labels) == ("bald", 100)]
    assert bald.accuracy == bald.final_accuracy == pytest.approx(student_t(ends))
    text = markdown(summary)
    assert "| bald †" in text
    below = text.split("\n\n")
    assert below[2].startswith("† bald under MC dropout: seed 2 lies far below the others in area (")
    out = io.StringIO()
    Console(file=out, width=120).print(rich_table(summary, 120))
    assert "bald †" in out.getvalue()
    assert "seed 2 lies far below the others in area" in " ".join(out.getvalue().split())
    same = rows_of()
    assert "†" not in markdown(summarise(same, known_of(same)))


@pytest.mark.usefixtures("blank")
def test_the_report_names_it_beside_the_intervals_that_it_spoils(tmp_path):
    experiment = replace(strategies_on(6, "random", "margin"), name="collapse")
    workdir = make_run(tmp_path / "run", experiment)
    html, text = read(report([workdir], load_data=False))
    assert "†" not in html + text
    ledger = workdir / "mc_dropout" / "margin" / "seed_4" / "ledger.jsonl"
    told = durable.read(ledger)
    ledger.unlink()
    for event in told:
        if event["event"] == "evaluated" and event["round"]:
            event["accuracy"] -= 0.4
        if "final" in event:
            event["final"]["accuracy"] -= 0.4
        durable.append(ledger, event)
    html, text = read(report([workdir], load_data=False))
    named = "† margin under MC dropout: seed 4 lies far below the others in area ("
    for page in (html, text):
        assert page.count(named) == 1  # below the first table
    assert text.index("What each strategy reached") < text.index(named) < text.index("Area under accuracy from")
    assert text.count("| margin †") == 1
    summary = summarise(directory.results(workdir))
    assert next(entry for entry in summary.entries if entry.strategy == "margin").seeds == 6
