"""A loop of one's own in a run directory: what is written, what is refused, and that a killed one goes on."""

import csv
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bdal
from bdal import cli
from bdal.errors import ConfigError
from bdal.report import read_curves, report, tables
from bdal.report.analysis import about_directory, analyse_all
from bdal.report.figures import drawing
from bdal.store import directory, durable, finish, write_round
from bdal.store.durable import CorruptRunError
from bdal.store.ledger import Ledger

ROOT = Path(__file__).parents[2]
BLANK = '<svg width="72pt" height="36pt" viewBox="0 0 72 36" xmlns="http://www.w3.org/2000/svg"></svg>'
WHOSE = {"method": "forest/margin", "seed": 3}
ROUND = WHOSE | {"round": 0, "labels": 20, "accuracy": 0.5}


@pytest.fixture
def blank(monkeypatch):
    def save(figure, path_stem, kinds):
        paths = [Path(f"{path_stem}.{kind}") for kind in kinds]
        for path in paths:
            path.write_text(BLANK)
        return paths

    monkeypatch.setattr(drawing, "save_as", save)


def files(folder: Path) -> dict[str, bytes]:
    names = ("ledger.jsonl", "metrics.jsonl", "run.json")
    return {str(path.relative_to(folder)): path.read_bytes() for name in names for path in sorted(folder.rglob(name))}


def loop(workdir: Path, strategy: str = "margin", seed: int = 3, rounds: int = 3, **more) -> None:
    """A whole loop with a query a round, and a last round without one."""
    rng = np.random.default_rng([seed, len(strategy)])
    for number in range(rounds):
        last = number == rounds - 1
        write_round(
            workdir, method=f"forest/{strategy}", seed=seed, round=number, labels=20 + 2 * number,
            accuracy=0.5 + 0.1 * number + 0.05 * rng.uniform(), indices=[] if last else rng.permutation(50)[:2],
            gains=[] if last else rng.uniform(size=2), fit={"most_predicted": 0.2}, **more,
        )  # fmt: skip
    finish(workdir, method=f"forest/{strategy}", seed=seed)


# -- what is written --------------------------------------------------------------------------------------------------


def test_a_round_is_an_event_and_a_line_of_metrics(tmp_path):
    write_round(
        tmp_path / "mine", **WHOSE, round=0, labels=jnp.int32(20), accuracy=np.float32(0.5), nll=jnp.float32(1.25),
        brier=1, ece=0.25, validation_labels=np.int64(5), points=1797, members=10, indices=np.array([7, 3], np.int32),
        gains=jnp.array([0.5, 0.25]), seconds={"fit": 2, "query": np.float32(0.5)},
        fit={"steps": jnp.array([100, 200]), "validation_nll": np.array([0.5, np.nan]), "most_predicted": 0.25,
             "diverged": np.array([False, True])},
    )  # fmt: skip
    write_round(tmp_path / "mine", **WHOSE, round=1, labels=22, accuracy=0.75)
    finish(tmp_path / "mine", **WHOSE, reason="tired")
    folder = tmp_path / "mine" / "forest" / "margin" / "seed_3"
    owner = {"run": "mine", "method": "forest/margin", "seed": 3}
    measured = {
        "round": 0, "labels": 20, "validation_labels": 5, "points": 1797, "members": 10, "accuracy": 0.5, "nll": 1.25,
        "brier": 1.0, "ece": 0.25,
    }  # fmt: skip
    other = {"round": 1, "labels": 22, "validation_labels": 0, "accuracy": 0.75}
    assert durable.read(folder / "ledger.jsonl") == [
        {"event": "evaluated", **owner, **measured},
        {"event": "queried", "round": 0, "indices": [7, 3]},
        {"event": "evaluated", **other},
        {"event": "finished", "round": 1, "reason": "tired"},
    ]
    fit = {"steps": [100, 200], "validation_nll": [0.5, None], "most_predicted": 0.25, "diverged": [False, True]}
    more = {"fit": fit, "gains": [0.5, 0.25], "seconds": {"fit": 2.0, "query": 0.5}}
    assert durable.read(folder / "metrics.jsonl") == [owner | measured | more, other]
    identity = json.loads((tmp_path / "mine" / "run.json").read_text())
    assert (identity["run"], identity["loop"], identity["about"]) == ("mine", "own", {"name": "mine"})
    (run,) = directory.seed_runs(tmp_path / "mine")
    assert (run[:3], run.reason) == (("forest", "margin", 3), "tired")
    rows = directory.results(tmp_path / "mine")
    assert rows[0] == ("forest", "margin", 3, 20, 5, 0.5, 1.25, 1.0, 0.25, 0, 10, 1797)
    assert np.isnan(rows[1][6:9]).all()


def test_the_same_rounds_again_change_nothing(tmp_path):
    loop(tmp_path, seconds={"fit": 1.0})
    before = files(tmp_path)
    loop(tmp_path, seconds={"fit": 7.0})
    assert files(tmp_path) == before
    write_round(tmp_path, **ROUND | {"seed": 4})  # a round whose query came later than its numbers
    write_round(tmp_path, **ROUND | {"seed": 4}, indices=[1, 2])
    assert Ledger(4, tmp_path / "forest" / "margin" / "seed_4").queried(0) == [1, 2]


def test_a_loop_that_was_killed_between_any_two_lines_goes_on_to_the_same_bytes(tmp_path):
    loop(tmp_path / "mine")
    whole = files(tmp_path / "mine")
    folder = tmp_path / "mine" / "forest" / "margin" / "seed_3"
    lines = {name: (folder / name).read_bytes().splitlines(keepends=True) for name in ("ledger.jsonl", "metrics.jsonl")}
    order = ["ledger", "metrics", "ledger"] * 2 + [
        "ledger",
        "metrics",
        "ledger",
    ]  # evaluated, metrics, queried; finished
    assert len(order) == sum(map(len, lines.values()))
    for count in range(len(order)):
        for name, every in lines.items():
            kept = order[:count].count(name.split(".")[0])
            (folder / name).unlink(missing_ok=True)
            if kept:
                (folder / name).write_bytes(b"".join(every[:kept]))
        loop(tmp_path / "mine")
        assert files(tmp_path / "mine") == whole, count


def test_seeds_may_be_written_at_the_same_time(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: loop(tmp_path / "mine", seed=seed), range(8)))
    assert [run.seed for run in directory.seed_runs(tmp_path / "mine")] == list(range(8))
    assert len(directory.results(tmp_path / "mine")) == 24


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accuracy": 0.6}, "accuracy: 0.5 != 0.6"),
        ({"labels": 21, "members": 3}, "labels: 20 != 21; members: nothing != 3"),
        ({"nll": 1.0}, "nll: nothing != 1.0"),
        ({"fit": {"steps": 4}}, "fit: a mapping {'steps': 3} != a mapping {'steps': 4}"),
        ({"indices": [1, 2], "gains": [0.5, 0.5]}, "gains: [0.5, 0.25] != [0.5, 0.5]"),
        ({"indices": [2, 1]}, "indices: [1, 2] != [2, 1]"),
        ({"indices": None, "gains": None}, "gains: [0.5, 0.25] != nothing; indices: [1, 2] != nothing"),
    ],
)
def test_a_round_with_other_numbers_is_refused(tmp_path, change, said):
    first = ROUND | {"indices": [1, 2], "gains": [0.5, 0.25], "fit": {"steps": 3}}
    write_round(tmp_path, **first)
    before = files(tmp_path)
    with pytest.raises(
        ConfigError, match=r"seed_3: round 0: is there already with other numbers \(there != now\)"
    ) as e:
        write_round(tmp_path, **first | change)
    assert f": {said};" in str(e.value)
    assert "\n" not in str(e.value)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "margin"}, "method: expected posterior/strategy"),
        ({"method": "a/b/c"}, "method: expected posterior/strategy"),
        ({"method": "../margin"}, "method: expected posterior/strategy"),
        ({"method": "forest/"}, "method: expected posterior/strategy"),
        ({"method": ("forest", "margin")}, "method: expected posterior/strategy"),
        ({"seed": -1}, "seed: expected a whole number of at least 0, found -1"),
        ({"seed": 1.0}, "seed: expected a whole number"),
        ({"seed": True}, "seed: expected a whole number"),
        ({"round": "0"}, "round: expected a whole number"),
        ({"labels": np.array([20])}, r"labels: expected a whole number of at least 0, found shape \(1,\)"),
        ({"labels": None}, "labels: expected a whole number of at least 0, found nothing"),
        ({"validation_labels": 2.5}, "validation_labels: expected a whole number"),
        ({"accuracy": None}, "accuracy: expected a number, found nothing"),
        ({"accuracy": "0.5"}, "accuracy: expected a number, found '0.5'"),
        ({"accuracy": 92.1}, "accuracy: expected a share from 0 to 1, found 92.1; 92.1 % is 0.921"),
        ({"accuracy": -0.1}, "accuracy: expected a share from 0 to 1, found -0.1"),
        ({"accuracy": np.float32("nan")}, "accuracy: expected a finite number, found nan; leave it out"),
        ({"accuracy": jnp.ones(3)}, r"accuracy: expected a number, found shape \(3,\)"),
        ({"nll": float("inf")}, "nll: expected a finite number"),
        ({"brier": 2.5}, "brier: expected 0 to 2"),
        ({"ece": 5}, "ece: expected a share from 0 to 1, found 5; 5 % is 0.05"),
        ({"indices": [1.0, 2.0]}, "indices: expected pool points, whole numbers"),
        ({"indices": [3, -1]}, r"indices: expected pool points, .*found \[3, -1\]"),
        ({"indices": [[1, 2]]}, "indices: expected a list of numbers"),
        ({"indices": [1, 2, 1]}, "indices: expected each point once, found 1 more than once"),
        ({"indices": 3}, "indices: expected a list of numbers"),
        ({"gains": [0.5]}, "gains: expected 0, one for each of indices, found 1"),
        ({"indices": [1], "gains": [np.nan]}, "gains: expected finite numbers"),
        ({"gains": [[1], [1, 2]]}, "gains: expected a list of numbers"),
        ({"seconds": {"train": 1.0}}, "seconds: expected any of fit, query, evaluate"),
        ({"seconds": 3.0}, "seconds: expected any of fit, query, evaluate"),
        ({"seconds": {"fit": "1"}}, "seconds.fit: expected a number"),
        ({"fit": [1]}, "fit: expected scalars or lists by their names"),
        ({"fit": {"steps": "many"}}, "fit.steps: expected a scalar, or one for each member"),
        ({"fit": {"steps": [[1]]}}, "fit.steps: expected a scalar, or one for each member"),
        ({"about": "mine"}, "about: expected texts by their names"),
        ({"about": {"title": "mine"}}, "about: expected name or data, found title"),
    ],
)
def test_what_is_no_round_is_refused_before_anything_is_written(tmp_path, change, said):
    with pytest.raises(ConfigError, match=said) as error:
        write_round(tmp_path / "mine", **ROUND | change)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "mine").exists()


def test_rounds_out_of_their_turn(tmp_path):
    for number in (1, 7):
        with pytest.raises(ConfigError, match=f"round {number}: expected round 0, the next one"):
            write_round(tmp_path, **ROUND | {"round": number})
    assert files(tmp_path) == {}
    with pytest.raises(ConfigError, match="has no round yet"):
        finish(tmp_path, **WHOSE)
    write_round(tmp_path, **ROUND)
    with pytest.raises(ConfigError, match="round 1: labels: expected at least the 20 before, found 19"):
        write_round(tmp_path, **ROUND | {"round": 1, "labels": 19})
    for reason in (3, "", None):
        with pytest.raises(ConfigError, match="reason: expected a word or more"):
            finish(tmp_path, **WHOSE, reason=reason)
    finish(tmp_path, **WHOSE)
    finish(tmp_path, **WHOSE)
    with pytest.raises(ConfigError, match="has finished already: reason: budget != exhausted"):
        finish(tmp_path, **WHOSE, reason="exhausted")
    with pytest.raises(ConfigError, match="round 1: is after the end: it has finished with round 0"):
        write_round(tmp_path, **ROUND | {"round": 1, "labels": 30})


def test_a_directory_is_of_one_loop(tmp_path):
    write_round(tmp_path / "mine", **ROUND, about={"name": "rings", "data": "two rings"})
    write_round(tmp_path / "mine", **ROUND | {"seed": 4})
    write_round(tmp_path / "mine", **ROUND | {"seed": 5}, about={"name": "rings"})
    with pytest.raises(ConfigError, match=r"is of another loop \(there != now\): about.name: rings != moons"):
        write_round(tmp_path / "mine", **ROUND, about={"name": "moons"})
    (tmp_path / "mine").rename(tmp_path / "moved")  # its name goes with it
    assert len(directory.results(tmp_path / "moved")) == 3
    (tmp_path / "moved" / "run.json").unlink()
    with pytest.raises(CorruptRunError, match=r"has ledgers and no run\.json"):
        write_round(tmp_path / "moved", **ROUND)


def test_bdal_run_and_people_do_not_go_on_in_it_nor_a_loop_in_theirs(tmp_path, capsys):
    write_round(tmp_path / "mine", **ROUND)
    before = files(tmp_path)
    config = str(ROOT / "configs" / "quickstart.yaml")
    for command in (["run", config, "--workdir"], ["ask"], ["label", "--no-browser"]):
        assert cli.main([*command, str(tmp_path / "mine")]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "holds the rounds of a loop of its own" in said or "expected a run directory" in said
    with pytest.raises(ConfigError, match="holds the rounds of a loop of its own, which has no config"):
        directory.experiment_of(tmp_path / "mine")
    assert files(tmp_path) == before
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name, text in (("run.json", '{"run": "run-123"}'), ("config.yaml", "name: theirs")):
        (theirs / name).write_text(text)
        with pytest.raises(ConfigError, match="holds a run of `bdal run`; choose another directory"):
            write_round(theirs, **ROUND)
        (theirs / name).unlink()


# -- what reads it ----------------------------------------------------------------------------------------------------


def test_scores_that_are_missing_are_left_out(tmp_path, blank):
    for seed in range(2):
        loop(tmp_path / "mine", seed=seed)
        loop(tmp_path / "mine", "random", seed=seed, ece=0.1 * seed)
    page = report([tmp_path / "mine"])
    text = page.with_suffix(".md").read_text()
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    assert "NLL" not in text
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "ECE", "Comparison of strategies", "What was queried", "Versions and devices"
    ]  # fmt: skip
    assert "Two query strategies (margin, random) under forest, by a loop of its own, over 2 paired seeds." in text
    assert "Curves begin at 20 training labels and end at 24." in text
    assert "All 4 runs are finished: budget spent." in text
    summary = tables.write(directory.results(tmp_path / "mine"), tmp_path / "mine")
    assert summary.lacking == ("nll", "brier")
    assert [entry.ece is None for entry in summary.entries] == [entry.strategy == "margin" for entry in summary.entries]
    assert "nan" not in (tmp_path / "mine" / "table.csv").read_text() + (tmp_path / "mine" / "table.md").read_text()


def test_a_loop_that_goes_on(tmp_path, blank):
    write_round(tmp_path / "mine", **ROUND, points=500, members=8, validation_labels=5, about={"data": "two rings"})
    text = report([tmp_path / "mine"]).with_suffix(".md").read_text()
    assert "The run has come to 1 round, not finished." in text
    assert "Accuracy on 500 points against training labels, of one seed: no intervals." in text
    assert (
        "One query strategy (margin) under forest (8 members), on two rings, by a loop of its own, over 1 seed." in text
    )
    assert "Curves begin at 20 training labels and end at 20, with 5 more for validation." in text
    assert "Time" not in text
    assert "Configuration" not in text


def test_directories_of_one_name_and_data_are_one_experiment(tmp_path, blank):
    about = {"name": "rings", "data": "two rings"}
    for strategy in ("margin", "random"):
        for seed in range(2):
            loop(tmp_path / strategy, strategy, seed=seed, about=about)
    text = report([tmp_path / "margin", tmp_path / "random"]).with_suffix(".md").read_text()
    assert text.startswith("# rings\n")
    assert "2 run directories, read as one. Two query strategies (margin, random) under forest, on two rings" in text
    assert "2 paired seeds are too few to tell any strategy from random" in text
    loop(tmp_path / "other", seed=0, about={"name": "rings", "data": "moons"})
    text = report([tmp_path / "margin", tmp_path / "other"]).with_suffix(".md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["rings (data.name two rings)", "rings (data.name moons)"]
    assert "2 experiments that are not known to be on the same data with the same labels to pay for" in text


# -- from end to end --------------------------------------------------------------------------------------------------

LOOP = '''
import sys

import jax
import numpy as np

import bdal
from bdal.store import finish, write_round

rng = np.random.default_rng(0)
labels = rng.integers(0, 3, 90)
points = (np.eye(3)[labels] + rng.normal(scale=0.6, size=(90, 3))).astype(np.float32)
pool, truth, test, answers = points[:60], labels[:60], points[60:], labels[60:]


class Centroids:
    """K nearest-centroid classifiers, each of a bootstrap of the labelled points; NumPy alone."""

    def __init__(self, seed, inputs, labels, members=4):
        rng = np.random.default_rng(seed)
        draws = [rng.integers(0, len(labels), len(labels)) for _ in range(members)]
        self.centroids = np.stack(
            [[(inputs[rows][labels[rows] == c].sum(0) + 0.1) / (1 + (labels[rows] == c).sum()) for c in range(3)]
             for rows in draws]
        )  # [K, C, D]

    def log_probs(self, inputs):
        logits = -((np.asarray(inputs)[:, None, None] - self.centroids) ** 2).sum(-1)  # [B, K, C]
        return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


def fit(key, data):
    count = int(data.count)
    seed = np.asarray(jax.random.key_data(key))
    return Centroids(seed, np.asarray(data.inputs)[:count], np.asarray(data.labels)[:count])


def oracle(indices):
    return truth[indices]


def run(workdir):
    for strategy in ("random", "margin"):
        for seed in range(3):
            start = np.random.default_rng(seed).permutation(60)[:6]
            labelled = bdal.extend(bdal.LabelledSet.empty(12), start, truth[start], num_points=60)
            for round in bdal.active_learning(
                jax.random.key(seed), fit=fit, strategy=bdal.make_strategy(strategy), inputs=pool, oracle=oracle,
                labelled=labelled, query_size=3, rounds=2, num_classes=3,
            ):
                accuracy = (round.committee.log_probs(test).mean(1).argmax(-1) == answers).mean()
                write_round(workdir, method=f"centroids/{strategy}", seed=seed, round=round.number,
                            labels=round.labelled.count, accuracy=accuracy, indices=round.query.indices)
            finish(workdir, method=f"centroids/{strategy}", seed=seed)


if __name__ == "__main__":
    run(sys.argv[1])
'''


def section(text: str, caption: str) -> str:
    return text[text.index(f"**{caption}") :].split("\n\n")[1]


def test_a_killed_loop_goes_on_to_the_same_bytes_and_is_reported_as_its_csv_is(tmp_path, blank):
    script, whole, killed = tmp_path / "loop.py", tmp_path / "whole" / "mine", tmp_path / "killed" / "mine"
    script.write_text(LOOP)
    run = runpy.run_path(str(script))["run"]
    run(whole)
    environment = os.environ | {"BDAL_FAILPOINT": "torn_queried:5", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, str(script), str(killed)], env=environment, capture_output=True, timeout=500
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert 0 < len(files(killed)) < len(files(whole))
    with pytest.warns(UserWarning, match="was cut off by a crash and is left out"):
        run(killed)
    assert files(killed) == files(whole)
    run(killed)
    assert files(killed) == files(whole)

    rows = directory.results(whole)
    assert [row[:4] for row in rows] == [
        ("centroids", strategy, seed, labels)
        for strategy in ("margin", "random") for seed in range(3) for labels in (6, 9, 12)
    ]  # fmt: skip
    table = tmp_path / "curves.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Method", "Seed", "Labels", "Value"])
        writer.writerows([f"{row.posterior}/{row.strategy}", row.seed, row.labels, row.accuracy] for row in rows)
    one, other = (report([path]).with_suffix(".md").read_text() for path in (whole, table))
    for caption in ("What each strategy reached", "Area under accuracy", "Differences from random"):
        assert section(one, caption) == section(other, caption)
    (of_run, of_file) = (analyse_all(rows, about_directory(whole)), analyse_all(read_curves(table)))
    assert repr(of_run["centroids"].against) == repr(of_file["centroids"].against)
    assert of_run["centroids"].against[0].pairs == 3


def test_the_page_on_it_runs(tmp_path, monkeypatch, blank):
    script = tmp_path / "loop.py"
    script.write_text(LOOP)
    own = runpy.run_path(str(script))
    start = np.arange(6)
    own |= {"key": jax.random.key(0), "strategy": bdal.make_strategy("margin"), "seed": 0, "accuracy": lambda _: 0.5}
    own["labelled"] = bdal.extend(bdal.LabelledSet.empty(16), start, own["truth"][start], num_points=60)
    page = (ROOT / "docs" / "own-loop.md").read_text()
    monkeypatch.chdir(tmp_path)
    table = re.search(r"```text\n(.*?)```", page, re.DOTALL)[1]
    Path("curves.csv").write_text(table)
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(block, "own-loop.md", "exec"), own)  # noqa: S102 (our own file)
    assert [row.labels for row in directory.results("runs/mine")] == [6, 16]
    assert list(own["analyses"]) == [""]
    commands = [line.split("#")[0].split() for line in page.splitlines() if line.startswith("bdal report ")]
    assert [cli.main([word for word in command[1:] if word != "runs/mnist"]) for command in commands] == [0, 0, 0]
    assert (tmp_path / "all" / "report.md").read_text().count("\n## ") == 2
