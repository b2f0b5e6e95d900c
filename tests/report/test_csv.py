"""Learning curves from a CSV file: what is read, what is refused, and the report of them."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from bdal import cli
from bdal.errors import ConfigError
from bdal.report import analysis, read_curves, report
from bdal.report.figures import drawing
from bdal.store import finish, write_round
from bdal.store.directory import Row
from tests.synthetic import make_run

BLANK = '<svg width="72pt" height="36pt" viewBox="0 0 72 36" xmlns="http://www.w3.org/2000/svg"></svg>'
NAN = math.nan


@pytest.fixture(autouse=True)
def blank(monkeypatch):
    def save(figure, path_stem, kinds):
        paths = [Path(f"{path_stem}.{kind}") for kind in kinds]
        for path in paths:
            path.write_text(BLANK)
        return paths

    monkeypatch.setattr(drawing, "save_as", save)


def written(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def curves(path: Path, seeds: int = 6, methods: tuple[str, ...] = ("random", "margin"), head: str = "method") -> Path:
    """A file in which each method is better than the one before, on every seed."""
    lines = [f"{head},seed,labels,accuracy"]
    for seed in range(seeds):
        start = 0.5 + 0.02 * np.random.default_rng(seed).uniform()
        for place, method in enumerate(methods):
            for number in range(3):
                lines.append(f"{method},{seed},{20 + 10 * number},{start + (0.1 + 0.02 * place) * number:.6f}")
    return written(path, *lines)


# -- what is read -----------------------------------------------------------------------------------------------------


def test_columns_in_any_order_and_case(tmp_path):
    path = written(
        tmp_path / "curves.csv",
        "\ufeffLabels, SEED ,note,Accuracy,Method,NLL,ece", "", "30,1,b,0.7,mc/bald,0.5,0.1",
        "20,1.0,a,0.5,mc/bald,,0.2", "20,1,again,0.50,mc/bald,,0.2", ",,,,,,",
        '20,1,,1,"mc/random",12.5,', "30,1,,0,mc/random,,",
    )  # fmt: skip
    found = read_curves(path)
    expected = [
        Row("mc", "bald", 1, 20, 0, 0.5, NAN, NAN, 0.2), Row("mc", "bald", 1, 30, 0, 0.7, 0.5, NAN, 0.1),
        Row("mc", "random", 1, 20, 0, 1.0, 12.5, NAN, NAN), Row("mc", "random", 1, 30, 0, 0.0, NAN, NAN, NAN),
    ]  # fmt: skip
    assert list(map(repr, found)) == list(map(repr, expected))


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_posterior_and_strategy_and_what_parts_columns(tmp_path, mark):
    lines = ["posterior,strategy,seed,labels,value", "mc,bald,0,10,0.1", "mc,bald,0,20,0.2"]
    rows = read_curves(written(tmp_path / "curves.csv", *(line.replace(",", mark) for line in lines)))
    assert [row[:6] for row in rows] == [("mc", "bald", 0, 10, 0, 0.1), ("mc", "bald", 0, 20, 0, 0.2)]


def test_methods_without_a_posterior(tmp_path):
    rows = read_curves(curves(tmp_path / "curves.csv"))
    assert {row[:2] for row in rows} == {("", "random"), ("", "margin")}
    found = analysis.analyse_all(rows)[""]
    assert [(one.strategy, one.reference, one.pairs, one.verdict) for one in found.against] == [
        ("margin", "random", 6, "higher")
    ]
    assert found.against[0].p == 0.03125
    with pytest.raises(ValueError, match="found none with nll"):
        analysis.analyse(rows, "", metric="nll")


@pytest.mark.parametrize(
    ("lines", "number", "said"),
    [
        (["method,labels,value"], 1, "expected the columns method (or posterior and strategy), seed, labels, and"),
        (["seed,labels,value,strategy"], 1, "found no method in seed, labels, value, strategy"),
        (["method,seed,labels,score"], 1, "found no accuracy in method, seed, labels, score"),
        (["method,seed,labels,value,Accuracy"], 1, "expected value, or accuracy, found both"),
        (["method,strategy,seed,labels,value"], 1, "expected method, or posterior and strategy, found both"),
        (["method,seed,labels,value,Seed"], 1, "expected each column once, found Seed twice"),
        ([""], 1, "and lines below them, found none"),
        (["method,seed,labels,value"], 1, "and lines below them, found none"),
        (["method,seed,labels,value", "a,0,10,0.5", "a,0,20"], 3, "expected 4 columns, found 3"),
        (["method,seed,labels,value", "a,0,10,0.5", "", "a,0,20,high"], 4, "value: expected a number, found high"),
        (["method,seed,labels,accuracy", "a,0,10,"], 2, "accuracy: expected a number, found nothing"),
        (["method,seed,labels,value", "a,0,10,nan"], 2, "value: expected a finite number, found nan"),
        (["method,seed,labels,value,nll", "a,0,10,0.5,inf"], 2, "nll: expected a finite number, found inf"),
        (["method,seed,labels,value", "a,0.5,10,0.5"], 2, "seed: expected a whole number of at least 0, found 0.5"),
        (["method,seed,labels,value", "a,0,-10,0.5"], 2, "labels: expected a whole number of at least 0, found -10"),
        (["method,seed,labels,value", ",0,10,0.5"], 2, "method: expected a name, found nothing"),
        (["method,seed,labels,value", "mc/,0,10,0.5"], 2, "method: expected a name, found nothing"),
        (["method,seed,labels,value", "a,0,10,92.5"], 2,
         "value: expected a share from 0 to 1, found 92.5; divide percent by 100, and name a column of losses nll"),
        (["method,seed,labels,accuracy", "a,0,10,-1"], 2, "accuracy: expected a share from 0 to 1, found -1"),
        (["method,seed,labels,value,ece", "a,0,10,0.5,3"], 2, "ece: expected a share from 0 to 1, found 3; divide"),
        (["method,seed,labels,value", "mc/a,1,10,0.5", "mc/a,1,20,0.5", "mc/a,1,10,0.6"], 4,
         "mc/a, seed 1: 10 labels: has other values than in line 2"),
        (["method,seed,labels,value", "a,0,10,0.5", "a,0,20,0.6", "a,1,10,0.5"], 4,
         "a, seed 1: expected a curve of two label counts or more, found 10 alone"),
        (["method,seed,labels,value", "mc/a,0,10,0.5", "mc/a,0,20,0.6", "b,0,10,0.5", "b,0,20,0.5"], 4,
         "method: expected posterior/strategy, as in other lines, found b"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_curves(tmp_path, capsys, lines, number, said):
    path = written(tmp_path / "curves.csv", *lines)
    with pytest.raises(ConfigError, match=re.escape(f"curves.csv: line {number}: ") + ".*" + re.escape(said)) as error:
        read_curves(path)
    assert "\n" not in str(error.value)
    assert cli.main(["report", str(path)]) == 2
    assert capsys.readouterr().err == f"bdal: {error.value}\n"
    assert not (tmp_path / "curves-report").exists()


def test_what_is_no_text(tmp_path):
    (tmp_path / "curves.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("curves.csv", "none.csv"):
        with pytest.raises(ConfigError, match=rf"{name}: cannot be read as CSV"):
            read_curves(tmp_path / name)
    with pytest.raises(ConfigError, match=r"none\.csv: expected a run directory, .*, found no such file"):
        report([tmp_path / "none.csv"])


# -- the report -------------------------------------------------------------------------------------------------------


def test_a_report_of_a_file(tmp_path, capsys):
    path = curves(tmp_path / "curves.csv")
    before = path.read_bytes()
    assert cli.main(["report", str(path)]) == 0
    assert "curves-report/report.html" in capsys.readouterr().out
    assert (path.read_bytes(), sorted(each.name for each in tmp_path.iterdir())) == (
        before,
        ["curves-report", "curves.csv"],
    )
    text = (tmp_path / "curves-report" / "report.md").read_text()
    assert text.startswith(
        "# curves\n\n12 learning curves from curves.csv.\n\nOf all methods margin has the largest area"
    )
    assert "Over 6 paired seeds, margin is higher than random (exact two-sided Wilcoxon test, 5 %)." in text
    assert "Two methods (margin, random), read from curves.csv, over 6 paired seeds." in text
    assert "Curves begin at 20 training labels and end at 40." in text
    assert re.findall(r"^##+ (.*)$", text, re.MULTILINE) == [
        "Comparison of strategies", "All methods", "How to read these tables"
    ]  # fmt: skip
    for word in (r"\bnan\b", "posterior", "NLL", "ECE", "finished", "budget", "Under ", "test set"):
        assert not re.search(word, text[: text.index("### How to read")]), word
    assert "| strategy | acc. at 20 | acc. at 40 |" in text
    assert "Accuracy in %." in text


def test_curves_of_other_lengths_and_no_random(tmp_path):
    lines = ["strategy,posterior,seed,labels,accuracy,nll"]
    lines += [f"{name},{under},{seed},{labels},0.{seed + 5},{0.5 if under == 'mc' else ''}"
              for name in ("bald", "margin") for under in ("mc", "forest") for seed in (0, 1)
              for labels in ((10, 20, 30) if name == "bald" else (10, 20))]  # fmt: skip
    text = report([written(tmp_path / "c.csv", *lines)]).with_suffix(".md").read_text()
    assert "Under both posteriors: there is no random, so no strategy is compared with it." in text
    assert "The comparison ends at 20 of 30 labels, as far as margin (seed 0) and margin (seed 1) have come." in text
    assert "Two methods (bald, margin) under forest and mc, read from c.csv, over 2 paired seeds." in text
    assert re.findall(r"figures/(\w+)\.png", text) == ["curves_forest", "curves_mc", "nll_mc"]
    assert re.search(r"\| mc        \| bald     \|    2 \|     30 \|[^|]*\| 0\.50 ± 0\.00 \|", text)
    assert "Curves begin at 10 training labels and end at 20 to 30." in text
    assert not re.search(r"\bnan\b", text)
    assert "members" not in text


def test_files_and_directories_in_one_report(tmp_path):
    theirs = make_run(tmp_path / "theirs")
    for number in range(2):
        write_round(tmp_path / "mine", method="forest/margin", seed=0, round=number, labels=20 + number, accuracy=0.5)
    finish(tmp_path / "mine", method="forest/margin", seed=0)
    path, other = curves(tmp_path / "curves.csv"), curves(tmp_path / "mine.csv", methods=("mc/random", "mc/margin"))
    page = report([path, tmp_path / "mine", theirs, other], tmp_path / "out", load_data=False)
    text = page.with_suffix(".md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["curves", "mine (mine)", "small", "mine (mine.csv)"]
    assert "4 experiments that are not known to be on the same data with the same labels to pay for" in text
    assert report([other, theirs], load_data=False).parent == tmp_path / "mine-report"
    assert report([theirs, other], load_data=False).parent == theirs / "report"
