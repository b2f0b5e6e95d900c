"""Tables and sentences say what the analysis found, and no more."""

import numpy as np
import pytest

from bdal.report.analysis import Seeds, analyse, as_one_family
from bdal.report.conclusions import (
    best_two,
    comparison_table,
    conclusion,
    labels_table,
    labels_text,
    leads,
    notes,
    pairs_table,
    penalty_table,
    seeds_table,
    standings_table,
    verdict,
)
from bdal.report.tables import as_markdown
from bdal.statistics import HIGHER, LOWER, SAME, seeds_needed
from bdal.store.directory import Row
from tests.report.test_tables import made


@pytest.fixture(scope="module")
def analysis():
    return analyse(made(10, {"random": 0.0, "margin": 0.05, "bald": -0.03, "copy": 0.0}), "mc_dropout")


def test_tables_fit_their_heads(analysis):
    for table in (standings_table, comparison_table, pairs_table, penalty_table, labels_table, seeds_table):
        heads, lines = table(analysis)
        assert lines
        assert {len(line) for line in lines} == {len(heads)}
        text = as_markdown(heads, lines)
        assert len({len(line) for line in text.splitlines()}) == 1
        assert not any(bad in text for bad in ("nan", "inf", "None"))


def test_comparison_table_says_what_was_found(analysis):
    heads, lines = comparison_table(analysis)
    assert heads == ["strategy", "pairs", "− random (%)", "BCa", "better on", "p", "Holm p", "verdict"]
    assert [line[0] for line in lines] == ["margin", "copy", "bald"]
    margin, copy, bald = lines
    found = analysis.against[0]
    low, high = (100 * (found.difference.mean + side * found.difference.half) for side in (-1, 1))
    assert margin[2] == f"{100 * found.difference.mean:+.2f} [{low:+.2f}, {high:+.2f}]"
    assert margin[2].startswith("+5.2")
    assert margin[3] == f"[{100 * found.bca.low:+.2f}, {100 * found.bca.high:+.2f}]"
    assert margin[4:] == ["10 of 10", "0.002", "0.006", HIGHER]
    assert copy[2:] == ["+0.00 [+0.00, +0.00]", "–", "0 of 10", "1.000", "1.000", SAME]
    assert bald[4:] == ["0 of 10", "0.002", "0.006", LOWER]
    names = [(line[0], line[1], line[-1]) for line in pairs_table(analysis)[1]]
    assert names == [("margin", "copy", HIGHER), ("margin", "bald", HIGHER), ("copy", "bald", HIGHER)]


def test_penalty_and_labels_and_seeds_tables(analysis):
    heads, lines = penalty_table(analysis)
    assert heads == ["beats", "margin", "copy", "random", "bald"]
    assert lines[0] == ["margin", "–", "1.00", "1.00", "1.00"]
    assert lines[-1] == ["is beaten", "0.00", "0.33", "0.33", "1.00"]

    heads, lines = labels_table(analysis)
    assert heads == ["accuracy (%)", "strategy", "labels", "p", "Holm p", "verdict"]
    at_90 = {line[1]: line[2:] for line in lines if line[0] == "90"}
    assert at_90["margin"] == ["120 (10 of 10 seeds)", *at_90["margin"][1:]]
    assert at_90["bald"][0] == "> 120 (0 of 10 seeds)"
    assert at_90["random"][1:] == ["–", "–", "–"]
    assert at_90["margin"][-1] in ("fewer labels", SAME)

    heads, lines = seeds_table(analysis)
    assert heads == ["strategy", "pairs", "sd", "visible", "gap 0.5", "gap 1", "gap 2", "gap 5"]
    need = analysis.needed[0]
    ends = [seeds_needed(0.005, sd, comparisons=3) for sd in (need.sd, *need.sd_range)]
    assert ends[0] <= 100
    assert lines[0][4] == f"{ends[0]} ({ends[1]} to {ends[2]})"
    counted = need._replace(gaps=(Seeds(0.005, 1589, 54, None), Seeds(0.02, 41, 18, 1306)))
    assert seeds_table(analysis._replace(needed=(counted,)))[1][0][4:] == ["more than 100", "41 (18 to > 100)"]


def test_standings_table(analysis):
    heads, lines = standings_table(analysis)
    assert heads == ["strategy", "seeds", "area (%)", "interquartile mean"]
    best = analysis.standings[0]
    assert lines[0][2] == f"{100 * best.area.mean:.1f} ± {100 * best.area.half:.1f}"
    assert lines[0][3].startswith(f"{100 * best.interquartile_mean:.1f} [")


def test_conclusion(analysis):
    text = conclusion(analysis)
    assert text.startswith(
        "Area under accuracy from 20 to 120 labels, MC dropout: over 10 paired seeds, margin is higher than random; "
    )
    assert "; bald is lower than it; copy cannot be told apart from it (exact" in text
    assert "5 % after Holm's correction for 3 comparisons" in text
    assert text.endswith(" The results of copy and random are identical on every seed.")
    assert "no proof" not in text

    few = conclusion(analyse(made(5, {"random": 0.0, "margin": 0.3}), "mc_dropout"))
    assert "5 paired seeds are too few to tell any strategy from random" in few
    assert few.endswith("(a two-sided Wilcoxon test needs 6 pairs to reach 5 %).")
    more = analyse(made(6, {"random": 0.0, "a": 0.3, "b": 0.2}), "mc_dropout")
    assert "6 paired seeds are too few" in conclusion(more)
    assert "needs 7 pairs to reach 5 % after Holm's correction for 2 comparisons" in conclusion(more)
    assert {verdict(found) for found in more.against} == {"too few seeds (7 needed)"}
    assert "1 paired seed is too few" in conclusion(analyse(made(1, {"random": 0.0, "a": 0.3}), "mc_dropout"))
    assert conclusion(analyse(made(6, {"random": 0.3}), "mc_dropout")) == ""

    rows = made(7, {"random": 0.0, "a": 0.1})
    left = conclusion(analyse(rows, "mc_dropout", finished={(r.strategy, r.seed) for r in rows} - {("a", 3)}))
    assert "6 paired seeds, a is higher than random (exact" in left
    assert left.endswith("Left out, not finished: 1 run of a.")


def noisy(seeds, gains, counts=(20, 60, 120), noise=0.01) -> list[Row]:
    rng = np.random.default_rng(1)
    return [
        row._replace(accuracy=row.accuracy + rng.normal(0, noise)) for row in made(seeds, gains) if row.labels in counts
    ]


def test_conclusion_says_what_gap_would_be_missed():
    found = analyse(noisy(10, {"random": 0.0, "same": 0.0}), "mc_dropout")
    text = conclusion(found)
    assert f"a gap of {100 * found.needed[0].visible:.1f} points would be missed about one time in five." in text
    assert "identical" not in text


def test_conclusion_says_what_is_missing():
    rows = made(7, {"random": 0.0, "a": 0.1, "b": 0.2})
    planned = {(row.strategy, row.seed) for row in rows}
    going = conclusion(
        analyse(rows, "mc_dropout", finished={at for at in planned if at[0] != "random"}, planned=planned)
    )
    assert going.endswith(
        "from 20 to 120 labels, MC dropout: no seed of random has finished, so no strategy is compared with it. "
        "Left out, not finished: 7 runs of random."
    )
    none = conclusion(analyse([row for row in rows if row.strategy != "random"], "mc_dropout"))
    assert none.endswith("MC dropout: there is no random, so no strategy is compared with it.")
    only = conclusion(analyse(rows, "mc_dropout", finished={("random", 0)}, planned=planned))
    assert "there is nothing yet to compare with random. Left out, not finished: 20 runs of a, b and random." in only

    apart = [row for row in rows if (row.seed < 3) == (row.strategy == "random") or row.strategy == "a"]
    text = conclusion(analyse(apart, "mc_dropout"))
    assert "3 paired seeds are too few to tell any strategy from random" in text
    assert text.endswith(" Without a seed in common with random, so not compared: b.")
    alone = conclusion(analyse([row for row in apart if row.strategy != "a"], "mc_dropout"))
    assert alone.endswith("MC dropout: no verdict. Without a seed in common with random, so not compared: b.")


def test_conclusion_names_who_ended_early():
    rows = made(8, {"random": 0.0, "a": 0.1})
    cut = [row for row in rows if (row.strategy, row.seed) != ("a", 3) or row.labels <= 60]
    text = conclusion(analyse(cut, "mc_dropout"))
    assert text.startswith(
        "Area under accuracy from 20 to 60 labels, MC dropout: over 8 paired seeds, a is higher than random (exact"
    )
    assert text.endswith(" The comparison ends at 60 of 120 labels, as far as a (seed 3) has come.")
    cut = [row for row in rows if row.strategy != "a" or row.seed == 0 or row.labels <= 20]
    assert conclusion(analyse(cut, "mc_dropout")) == (
        "Area under accuracy at 20 labels, MC dropout: this is the one label count that the runs have in common, so "
        "there is no verdict. The comparison ends at 20 of 120 labels, as far as a (seed 1), a (seed 2), a (seed 3) "
        "and 4 more have come."
    )


def test_whether_the_best_two_can_be_told_apart():
    def best(rows, **options):
        return best_two(analyse(rows, "mc_dropout", **options))

    assert best(made(8, {"random": 0.0, "a": 0.1, "b": 0.2})) == (
        "the two can be told apart (exploratory, by the table of pairs)"
    )
    assert best(made(8, {"random": 0.0, "a": 0.1})) == "the two can be told apart"
    assert best(made(8, {"random": 0.2, "a": 0.1, "b": 0.0})) == "the two can be told apart"
    assert best(noisy(8, {"random": -0.2, "a": 0.1, "b": 0.1})) == "the two cannot be told apart"
    assert best(made(5, {"random": 0.0, "a": 0.1, "b": 0.2})) == "too few seeds to tell the two apart (6 needed)"
    apart = [row for row in made(8, {"a": 0.1, "b": 0.2}) if (row.seed < 4) == (row.strategy == "a")]
    assert best(apart) == "the two have no seed in common"
    assert best([row for row in made(8, {"random": 0.0, "a": 0.1}) if row.labels == 20]) == ""
    assert best(made(8, {"random": 0.1})) == ""


def test_a_median_says_how_many_seeds_are_behind_it():
    rows = [row for row in made(5, {"random": 0.0}) if row.seed == 0 or row.labels < 120]
    (line,) = analyse(rows, "mc_dropout", thresholds=(0.8,)).thresholds
    assert labels_text(line) == "120 (1 of 5 seeds, 4 ended before)"


def test_notes_are_of_what_is_there():
    only = " ".join(notes([analyse(made(1, {"margin": 0.1}), "mc_dropout", thresholds=())]))
    assert only == "Area: the mean of accuracy from 20 to 120 labels."
    alone = " ".join(notes([analyse(made(5, {"margin": 0.1}), "mc_dropout", thresholds=())]))
    assert "± and [ ]" in alone
    assert not any(word in alone for word in ("BCa", "Holm", "Penalty", "Visible", "Wilcoxon", "exploratory", "random"))


def test_the_lead_is_prose():
    found = analyse(made(10, {"random": 0.0, "margin": 0.05, "copy": 0.05}), "mc_dropout")
    text = " ".join(leads([found]))
    assert text.startswith(
        "Under MC dropout copy has the largest area under the accuracy curve from 20 to 120 labels, 75.3 % on average, "
        "and margin the second largest, 75.3 %; the two cannot be told apart. Over 10 paired seeds, copy and margin "
        "are higher than random (exact two-sided Wilcoxon test, 5 %"
    )
    assert text.count("labels") == text.count("MC dropout") == 1
    assert leads([found], lambda _: True)[0].startswith("Under MC dropout copy has so far the largest area")
    alone = analyse(made(3, {"random": 0.0}), "mc_dropout")
    assert leads([alone]) == []
    other = found._replace(posterior="deep_ensemble")
    *each, together = leads([found, other])
    assert [text.split("; ")[-1] for text in each] == ["the two cannot be told apart."] * 2
    assert together.startswith("Under both posteriors: over 10 paired seeds, copy and margin are higher than random")
    few = analyse(made(3, {"random": 0.0, "margin": 0.05, "copy": 0.05}), "mc_dropout")
    assert len(leads([found, few])) == 2  # other words: each with its own
    assert conclusion(alone) == ""


def test_notes_warn_of_few_seeds(analysis):
    assert not any("too narrow" in note for note in notes([analysis]))
    few = analyse(made(5, {"random": 0.0, "a": 0.1}), "mc_dropout", metric="nll")
    assert any("too narrow for so few seeds" in note for note in notes([few]))
    assert not any(note.startswith("Labels: ") for note in notes([few]))  # no threshold of the NLL was chosen
    assert "mean of NLL from 20 to 120 labels" in notes([few])[0]
    assert comparison_table(few)[0][2] == "− random"
    assert labels_table(few)[1] == []
    joined = " ".join(notes([analysis]))
    assert "with Holm's correction for 3 comparisons, as the verdicts have it" in joined
    assert "Chance gives about 0.017: half of the level" in joined  # at two of three label counts
    (two, _) = as_one_family([analysis, analysis])
    assert "with Holm's correction for 6 comparisons under 2 posteriors" in " ".join(notes([two]))
