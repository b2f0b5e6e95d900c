import csv
import io
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from rich.console import Console

from bdal import config
from bdal.report.analysis import About, about_directory, analyse, analyse_all
from bdal.report.tables import (
    caption,
    cells,
    comma_separated,
    curve_measure,
    final_cells,
    markdown,
    measured_on,
    rich_table,
    summarise,
    write,
)
from bdal.statistics import student_t
from bdal.store import directory, durable
from bdal.store.directory import Row
from tests.synthetic import SMALL, make_run

COUNTS = (20, 40, 60, 100)


def made(seeds, gains, posterior="mc_dropout") -> list[Row]:
    """Lines from 0.5 + noise to 0.9, and on each strategy its gain (a share of a point more with each seed)."""
    noise = np.random.default_rng(0).normal(0, 0.01, seeds)
    return [
        Row(
            posterior, name, seed, n, 25, 0.5 + 0.004 * (n - 20) + noise[seed] + gain * (1 + 0.01 * seed), 0.5, 0.2, 0.1
        )
        for name, gain in gains.items()
        for seed in range(seeds)
        for n in (20, 60, 120)
    ]


def paid(row: Row, abstained: int) -> Row:
    return row._replace(labels=row.labels + abstained, abstained=abstained)


def make_rows(
    seeds=4, posteriors=("mc_dropout", "deep_ensemble"), strategies=("random", "margin", "bald")
) -> list[Row]:
    rng = np.random.default_rng(0)
    return [
        Row(posterior, strategy, seed, labels, 25, *rng.uniform(0.1, 1, 4).tolist())
        for posterior, strategy, seed, labels in itertools.product(posteriors, strategies, range(seeds), COUNTS)
    ]


def values(rows, posterior, strategy, labels, field):
    return [getattr(r, field) for r in rows if (r.posterior, r.strategy, r.labels) == (posterior, strategy, labels)]


def scipy_interval(sample):
    mean = np.mean(sample)
    low, high = scipy.stats.t.interval(0.95, len(sample) - 1, loc=mean, scale=scipy.stats.sem(sample))
    return mean, (high - low) / 2


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_student_t_is_scipys(n):
    sample = np.random.default_rng(n).normal(size=n)
    assert student_t(sample) == pytest.approx(scipy_interval(sample), rel=1e-9)


def test_student_t_of_one_seed():
    mean, half = student_t([0.5])
    assert mean == 0.5
    assert math.isnan(half)


def test_summary_against_scipy():
    rows = make_rows()
    summary = summarise(rows)
    assert (summary.half, summary.last, summary.validation_labels) == (
        40,
        100,
        25,
    )  # 40 and 60 are as near: the smaller
    assert [entry.posterior for entry in summary.entries] == ["mc_dropout"] * 3 + ["deep_ensemble"] * 3
    for _, group in itertools.groupby(summary.entries, lambda entry: entry.posterior):
        areas = [entry.area.mean for entry in group]
        assert areas == sorted(areas, reverse=True)
    for entry in summary.entries:

        def at(labels, field, entry=entry):
            return values(rows, entry.posterior, entry.strategy, labels, field)

        assert entry.seeds == 4
        assert entry.half_accuracy == pytest.approx(scipy_interval(at(40, "accuracy")))
        assert entry.accuracy == pytest.approx(scipy_interval(at(100, "accuracy")))
        assert entry.nll == pytest.approx(scipy_interval(at(100, "nll")))
        assert entry.ece == pytest.approx(scipy_interval(at(100, "ece")))

        def areas_of(strategy, entry=entry):
            curves = np.array([values(rows, entry.posterior, strategy, labels, "accuracy") for labels in COUNTS])
            return scipy.integrate.trapezoid(curves, COUNTS, axis=0) / 80

        assert entry.area == pytest.approx(scipy_interval(areas_of(entry.strategy)))
        if entry.strategy == "random":
            assert entry.difference is None
        else:
            difference = areas_of(entry.strategy) - areas_of("random")
            assert entry.difference == pytest.approx(scipy_interval(difference))
            paired = scipy.stats.ttest_rel(areas_of(entry.strategy), areas_of("random"))
            low, high = paired.confidence_interval(0.95)
            assert entry.difference == pytest.approx(((low + high) / 2, (high - low) / 2))


def test_by_hand():
    rows = [
        Row("mc_dropout", strategy, seed, labels, 5, accuracy, 1.0, 0.5, 0.25)
        for strategy, seed, labels, accuracy in [
            ("random", 0, 10, 0.2), ("random", 0, 20, 0.4), ("random", 0, 40, 0.6),  # area (3 + 10) / 30
            ("random", 1, 10, 0.4), ("random", 1, 20, 0.4), ("random", 1, 40, 0.4),  # 0.4
            ("margin", 0, 10, 0.5), ("margin", 0, 20, 0.5), ("margin", 0, 40, 0.5),  # 0.5
            ("margin", 1, 10, 0.6), ("margin", 1, 20, 0.6), ("margin", 1, 40, 0.6),  # 0.6
        ]
    ]  # fmt: skip
    margin, random = summarise(rows).entries
    assert random.area.mean == pytest.approx((13 / 30 + 0.4) / 2)
    assert margin.area.mean == pytest.approx(0.55)
    assert margin.difference.mean == pytest.approx((0.5 - 13 / 30 + 0.2) / 2)
    # two seeds: t(0.975, 1) = 12.7062, s / √2 = |a − b| / 2
    assert margin.difference.half == pytest.approx(12.7062047 * (0.2 - (0.5 - 13 / 30)) / 2)
    assert margin.accuracy == pytest.approx((0.55, 12.7062047 * 0.05))


def test_what_is_not_finished_is_left_out():
    rows = [row for row in make_rows() if (row.strategy, row.seed, row.labels) != ("margin", 3, 100)]
    margin = next(entry for entry in summarise(rows).entries if entry.strategy == "margin")
    assert (margin.accuracy, margin.nll) == (None, None)
    assert None not in (margin.half_accuracy, margin.area, margin.difference)
    _, lines = cells(summarise(rows))
    assert sum(line.count("–") for line in lines) == 2 * (1 + 3)
    assert "–: not every seed of the strategy has come to these labels." in caption(summarise(rows))
    assert "–" not in caption(summarise(make_rows()))

    unpaired = [row for row in make_rows() if (row.strategy, row.seed) != ("random", 3)]
    margin = next(entry for entry in summarise(unpaired).entries if entry.strategy == "margin")
    (found,) = analyse(unpaired, "mc_dropout").against[:1]
    assert found.pairs == 3
    assert caption(summarise(unpaired)).startswith("3 to 4 seeds; ")
    margin = next(entry for entry in summarise(unpaired).entries if entry.strategy == found.strategy)
    assert margin.difference == pytest.approx(found.difference, rel=1e-5)  # of the three pairs

    apart = [row for row in make_rows() if (row.strategy == "random") == (row.seed < 2)]
    assert caption(summarise(apart)).endswith(" – vs random: nothing to compare on the same seeds.")
    alone = summarise([row for row in make_rows() if row.strategy != "random"])
    assert all(entry.difference is None for entry in alone.entries)
    assert cells(alone)[0] == ["strategy", "acc. at 40", "acc. at 100", "area", "NLL", "ECE"]
    assert {len(line) for line in cells(alone)[1]} == {6}
    assert "random" not in caption(alone)


def test_label_counts_that_differ_are_joined_by_lines():
    # where abstentions cost nothing a round brings 17 to 20 labels: no two runs have one label count but the first
    def line(strategy, seed, counts, slope):
        return [Row("mc_dropout", strategy, seed, n, 25, slope * n, 1 - slope * n, 0.5, 0.1) for n in counts]

    rows = line("random", 0, (20, 37, 57, 77, 97), 0.008) + line("random", 1, (20, 40, 58, 78, 98), 0.008)
    rows += line("margin", 0, (20, 39, 59, 79, 99), 0.01) + line("margin", 1, (20, 38, 56, 76, 95), 0.01)
    rows += line("slow", 0, (20, 39, 55), 0.009) + line("slow", 1, (20, 39), 0.009)  # a rule stopped it early
    summary = summarise(rows)
    assert (summary.half, summary.last, summary.between) == (40, 95, True)  # 95: random and margin have come to it
    entries = {entry.strategy: entry for entry in summary.entries}
    for name, slope in (("random", 0.008), ("margin", 0.01)):
        assert entries[name].half_accuracy == pytest.approx((slope * summary.half, 0))
        assert entries[name].accuracy == pytest.approx((slope * 95, 0))
        assert entries[name].area == pytest.approx((slope * (20 + 39) / 2, 0), abs=1e-9)  # as far as slow has come
        assert entries[name].nll == pytest.approx((1 - slope * 95, 0))
    assert entries["margin"].difference == pytest.approx((0.002 * 29.5, 0), abs=1e-9)
    assert entries["slow"].area == pytest.approx((0.009 * 29.5, 0), abs=1e-9)
    assert (entries["slow"].accuracy, entries["slow"].nll, entries["slow"].ece) == (None,) * 3
    assert "area: mean accuracy over 20 to 39 labels, which all runs have; " in caption(summary)
    assert "Between their label counts curves are straight lines. –: not every seed" in caption(summary)


def test_nothing_to_summarise():
    with pytest.raises(ValueError, match="expected at least one evaluated round, found none"):
        summarise([])


def test_markdown():
    lines = markdown(summarise(make_rows())).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == [
        "posterior", "strategy", "acc. at 40", "acc. at 100", "area", "vs random", "NLL", "ECE",
    ]  # fmt: skip
    assert len({len(line) for line in lines[:8]}) == 1
    assert all(line.count("|") == 9 for line in lines[:8])
    assert lines[9].startswith(
        "4 seeds; 100 training labels + 25 for validation. ± and [ ] are 95 % Student t intervals"
    )


def test_markdown_of_one_seed_has_no_intervals():
    text = markdown(summarise(make_rows(seeds=1)))
    assert "±" not in text
    assert "[" not in text
    assert "nan" not in text
    assert "1 seed; 100 training labels" in text


def test_csv_in_full_precision():
    summary = summarise(make_rows())
    table = list(csv.DictReader(io.StringIO(comma_separated(summary))))
    assert len(table) == 6
    for line, entry in zip(table, summary.entries, strict=True):
        assert (line["posterior"], line["strategy"], line["seeds"]) == (entry.posterior, entry.strategy, "4")
        assert (line["labels"], line["validation_labels"]) == ("100", "25")
        assert float(line["accuracy_at_40_mean"]) == entry.half_accuracy.mean
        assert float(line["accuracy_at_100_half_width"]) == entry.accuracy.half
        assert (line["difference_mean"] == "") == (entry.strategy == "random")


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_table_fits(width):
    strategies = ("random", "margin", "expected_model_change")
    rows = [row._replace(accuracy=0.8 + row.accuracy / 30) for row in make_rows(strategies=strategies)]
    text = io.StringIO()
    Console(file=text, width=width).print(rich_table(summarise(rows), width))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in text.getvalue()
    assert "\x1b" not in text.getvalue()
    body = lines[: next(i for i, line in enumerate(lines) if line.startswith("4 seeds; "))]
    assert [line.split()[0] for line in body if line.startswith(("mc_", "deep_"))] == ["mc_dropout", "deep_ensemble"]
    assert sum("±" in line for line in lines) >= 6


def test_write(tmp_path):
    summary = write(make_rows(), tmp_path)
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == markdown(summary)
    assert (tmp_path / "table.csv").read_text() == comma_separated(summary)


def test_what_a_directory_says_beyond_its_rows(tmp_path):
    workdir = make_run(tmp_path / "run")
    ledger = workdir / "mc_dropout" / "random" / "seed_1" / "ledger.jsonl"
    told = durable.read(ledger)
    ledger.unlink()
    for event in told[:-4]:  # without the last query, evaluation and end
        durable.append(ledger, event | ({"on": "validation", "points": 4} if event["event"] == "evaluated" else {}))
    known = about_directory(workdir)
    assert known.end == SMALL.labels.training_labels == 20
    assert known.planned - (known.finished or set()) == {("mc_dropout", "random", 1)}
    assert (known.on, known.points, known.asked) == ("validation", (4, 4), 5)
    (said,) = write(directory.results(workdir), workdir).conclusions
    assert "1 paired seed is too few" in said
    assert said.endswith(" Left out, not finished: 1 run of random.")
    assert "Measured on 4 validation labels (1 of 5 could not be told)" in (workdir / "table.md").read_text("utf-8")
    # what was planned is what the run began with, whatever the file says by now
    more = replace(SMALL, labels=replace(SMALL.labels, budget=500))
    (workdir / "config.yaml").write_text(config.dump(more))
    assert about_directory(workdir) == known
    (workdir / "run.json").unlink()
    assert about_directory(workdir).end == 400
    (workdir / "config.yaml").unlink()
    assert about_directory(workdir) == known._replace(end=None, planned=frozenset())


def test_conclusions_stand_below_the_table_of_a_run():
    rows = made(7, {"random": 0.0, "margin": 0.1}) + made(7, {"random": 0.0, "margin": -0.1}, "deep_ensemble")
    summary = summarise(rows)
    assert [text.split(": ")[0].split(", ")[1] for text in summary.conclusions] == ["MC dropout", "deep ensemble"]
    assert "margin is higher than random" in summary.conclusions[0]
    assert "margin is lower than random" in summary.conclusions[1]
    for text in summary.conclusions:  # one family: 7 pairs it takes, where one posterior takes 6
        assert "5 % after Holm's correction for 2 comparisons under 2 posteriors" in text
    assert markdown(summary).endswith("\n\n".join([caption(summary), *summary.conclusions]) + "\n")
    text = io.StringIO()
    Console(file=text, width=120).print(rich_table(summary, 120))
    assert "margin is higher than random" in " ".join(text.getvalue().split())
    six = summarise([row for row in rows if row.seed < 6]).conclusions
    assert all("6 paired seeds are too few to tell any strategy" in text for text in six)
    # one that has not come to the end shortens the comparison, and is named
    going = [
        row for row in rows if (row.posterior, row.strategy, row.seed, row.labels) != ("mc_dropout", "margin", 2, 120)
    ]
    first, second = summarise(going).conclusions
    assert first.startswith("Area under accuracy from 20 to 60 labels")
    assert first.endswith("The comparison ends at 60 of 120 labels, as far as margin (seed 2) has come.")
    assert second.startswith("Area under accuracy from 20 to 120 labels")


def test_abstentions_are_paid_for_and_not_trained_on():
    rows = [paid(row, 3 * (row.labels > 20)) for row in make_rows()]
    said = caption(summarise(rows))
    assert (
        "4 seeds; 103 labels paid for + 25 for validation. Labels paid for are those to train on and the abst" in said
    )
    assert "training labels" not in said
    assert "training labels" in caption(summarise(make_rows()))


def test_validation_labels_in_the_place_of_a_test_set():
    known = About(on="validation", points=(3, 4), asked=8)
    assert "Measured on 3 to 4 validation labels (4 to 5 of 8 could not be told), as there is no test set." in caption(
        summarise(make_rows(), known)
    )
    assert measured_on(known._replace(points=(8, 8))) == "8 validation labels"
    assert "Measured" not in caption(summarise(make_rows()))


def test_areas_are_of_the_runs_that_are_compared():
    rows = [row for row in make_rows() if row.strategy != "margin" or row.labels <= 40 or row.seed == 3]
    runs = frozenset(row[:3] for row in rows)
    known = About(end=160, finished=runs - {("mc_dropout", "bald", 1)}, planned=runs)
    summary = summarise(rows, known)
    found = analyse_all(rows, known, resamples=0)["mc_dropout"]
    assert (found.low, found.high) == (20, 40)
    areas = {entry.strategy: entry.area for entry in summary.entries if entry.posterior == "mc_dropout"}
    assert areas == {one.strategy: one.area for one in found.standings}
    assert "area: mean accuracy over 20 to 40 labels, which all finished runs have" in caption(summary)
    assert "The comparison ends at 40 of 160 labels" in summary.conclusions[0]
    assert "Left out, not finished: 1 run of bald." in summary.conclusions[0]


def measured(rows, members=20, points=2000):
    return [row._replace(members=members, points=points) for row in rows]


def with_finals(rows, members=50, points=10_000, labels=100):
    """Rows, and for each run final figures by another measure: a tenth better."""
    ends = [row for row in rows if row.labels == labels]
    finals = [
        row._replace(members=members, points=points, **{name: 1.1 * getattr(row, name) for name in row._fields[5:9]})
        for row in ends
    ]
    return About(finals=tuple(finals))


def test_final_figures_have_columns_of_their_own_where_the_measure_is_another():
    rows = measured(make_rows())
    known = with_finals(rows)
    summary, alone = summarise(rows, known), summarise(rows)
    assert summary.curves == "by 20 of 50 members on 2,000 of 10,000 test points"
    for entry, other in zip(summary.entries, alone.entries, strict=True):
        assert entry[:9] == other[:9]  # nothing along the curve knows of them
        assert (other.final_accuracy, other.final_brier) == (None, None)
        for name in ("accuracy", "nll", "brier", "ece"):
            ends = 1.1 * np.array(values(rows, entry.posterior, entry.strategy, 100, name))
            assert getattr(entry, f"final_{name}") == pytest.approx(scipy_interval(ends))
    assert summary.conclusions == alone.conclusions
    heads, lines = cells(summary)
    assert heads[3:] == ["area", "vs random", "final acc.", "final NLL", "final ECE"]
    first = summary.entries[0]
    assert lines[0][5].startswith(f"{100 * first.final_accuracy.mean:.1f} ±")
    assert caption(summary).endswith(
        "final: at the end of each run, by all members on all test points, NLL in nats; all else by 20 of 50 members "
        "on 2,000 of 10,000 test points."
    )
    table = next(csv.DictReader(io.StringIO(comma_separated(summary))))
    assert float(table["final_brier_mean"]) == first.final_brier.mean
    assert float(table["accuracy_at_100_mean"]) == first.accuracy.mean
    text = io.StringIO()
    Console(file=text, width=80).print(rich_table(summary, 80))
    assert "final acc." in text.getvalue()
    assert "…" not in text.getvalue()


def test_where_the_measures_are_one_the_table_is_as_if_there_were_no_final_figures():
    rows = measured(make_rows())
    known = About(finals=tuple(row for row in rows if row.labels == 100))
    summary = summarise(rows, known)
    assert summary.curves == curve_measure(rows, known) == ""
    assert markdown(summary) == markdown(summarise(rows))
    assert all(entry.final_accuracy == entry.accuracy for entry in summary.entries)


def test_what_is_said_of_measures():
    rows = measured(make_rows())
    ensemble = [row._replace(members=5) if row.posterior == "deep_ensemble" else row for row in rows]
    finals = with_finals(ensemble).finals
    known = About(finals=tuple(f._replace(members=5) if f.posterior == "deep_ensemble" else f for f in finals))
    assert curve_measure(ensemble, known) == "by 20 of 50 members under MC dropout on 2,000 of 10,000 test points"
    assert curve_measure(rows, with_finals(rows, members=20)) == "on 2,000 of 10,000 test points"
    assert curve_measure(rows, with_finals(rows, points=2000)) == "by 20 of 50 members"
    validation = with_finals(rows, points=2000)._replace(on="validation", points=(30, 30), asked=30)
    assert "by all members on all validation labels, NLL in nats; all else by 20 of 50 members." in caption(
        summarise(rows, validation)
    )
    # runs that have not finished have no final figures, those that a rule ended have them at other labels
    some = with_finals(rows)
    some = some._replace(finals=tuple(row for row in some.finals if row.seed or row.strategy != "bald"))
    entries = summarise(rows, some).entries
    assert {entry.strategy for entry in entries if entry.final_nll is None} == {"bald"}
    assert caption(summarise(rows, some)).endswith(" test points. – final: not every seed has finished.")
    early = some._replace(finals=tuple(row._replace(labels=60 + 20 * row.seed) for row in some.finals))
    assert "final: at the end of each run, at 60 to 120 labels, by all" in caption(summarise(rows, early))


def test_curves_of_two_measures_are_said_to_be_so():
    rows = measured(make_rows())
    old = [row._replace(points=10_000) if row.labels == 100 else row for row in rows]
    known = About(finals=tuple(row for row in old if row.labels == 100))
    said = (
        "Curves mix measures, by 20 members on 2,000 test points and by 20 members on 10,000 test points: an earlier "
        "version measured the last round so, or evaluation was changed on the way."
    )
    assert said in caption(summarise(old, known))
    assert summarise(old, known).curves == ""
    assert cells(summarise(old, known)) == cells(summarise(rows))
    assert "mix" not in caption(summarise(rows, with_finals(rows)))
    told = [row._replace(points=row.points + row.labels) for row in rows]  # labels for validation that are corrected
    assert "mix" not in caption(summarise(told, About(on="validation", points=(3, 4), asked=4)))


def test_final_figures_are_a_table_of_their_own():
    rows = measured(make_rows())
    heads, lines = final_cells(with_finals(rows))
    assert heads == ["posterior", "strategy", "runs", "labels", "members on", "accuracy", "NLL", "Brier score", "ECE"]
    assert [line[1] for line in lines] == ["bald", "margin", "random"] * 2
    mean, half = scipy_interval(1.1 * np.array(values(rows, "mc_dropout", "bald", 100, "brier")))
    assert lines[0][:5] == ["MC dropout", "bald", "4", "100", "50 on 10000"]
    assert lines[0][7] == f"{mean:.3f} ± {half:.3f}"
    assert final_cells(About()) == (heads, [])
