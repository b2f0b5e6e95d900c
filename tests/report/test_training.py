import json
from dataclasses import replace
from pathlib import Path

import pytest

from bdal import config
from bdal.report import report, training
from bdal.report.document import Bullets, Paragraph, Table
from bdal.report.figures import drawing
from bdal.report.gather import gather
from bdal.store import durable
from bdal.store.durable import CorruptRunError
from tests.synthetic import SMALL, make_run

BLANK = '<svg width="72pt" height="36pt" viewBox="0 0 72 36" xmlns="http://www.w3.org/2000/svg"></svg>'
GOOD = {
    "steps": [300, 275], "best_step": [100, 75], "validation_nll": [0.5, 0.7], "diverged": [False, False],
    "most_predicted": 0.2,
}  # fmt: skip


def told(workdir: Path, **fits: dict) -> Path:
    """The run with GOOD told of its fits, and what differs from it in `random_0_2` (strategy, seed, round)."""
    for path in sorted(workdir.glob("*/*/seed_*/metrics.jsonl")):
        strategy, seed = path.parts[-3].split("-")[0], path.parts[-2].removeprefix("seed_")
        lines = durable.read(path)
        path.unlink()
        for line in lines:
            change = fits.get(f"{strategy}_{seed}_{line['round']}", {})
            accuracy = {"accuracy": change["accuracy"]} if "accuracy" in change else {}
            fit = GOOD | {name: value for name, value in change.items() if name != "accuracy"}
            durable.append(
                path, line | accuracy | {"fit": {name: each for name, each in fit.items() if each != "absent"}}
            )
    return workdir


def blocks(workdir: Path, *others: Path) -> tuple[list[str], list[str], list[list[str]]]:
    """What the section says: paragraphs, bullets, and the lines of the table."""
    (group,) = gather([workdir, *others])
    found = training.section(group).blocks
    text = [block.text for block in found if isinstance(block, Paragraph)]
    bullets = [item for block in found if isinstance(block, Bullets) for item in block.items]
    return text, bullets, [list(line) for block in found if isinstance(block, Table) for line in block.lines]


def test_a_run_that_tells_nothing_has_no_section(tmp_path):
    assert blocks(make_run(tmp_path / "run")) == ([], [], [])


def test_networks_that_converged(tmp_path):
    text, bullets, lines = blocks(told(make_run(tmp_path / "run"), random_1_2={"validation_nll": [0.3, 0.1]}))
    assert text == ["All 24 networks ended by early stopping, before their 600 steps were over. None diverged."]
    assert bullets == []
    assert lines == [  # 2 seeds, 3 rounds, 2 networks
        ["MC dropout", "power_bald-beta-4", "12", "288", "0 of 12", "0.60", "0.60", "0", "0"],
        ["MC dropout", "random", "12", "288", "0 of 12", "0.60", "0.40", "0", "0"],
    ]


def test_networks_that_did_not(tmp_path):
    late = {"steps": [600, 600], "best_step": [600, 400]}
    gone = {"steps": [225, 300], "validation_nll": [None, 0.7], "diverged": [True, False]}
    one_class = {"most_predicted": 0.99, "accuracy": 0.1}
    workdir = told(make_run(tmp_path / "run"), random_0_2=late, random_1_0=gone, random_1_1=one_class)
    text, bullets, lines = blocks(workdir)
    assert text[0] == (
        "22 of 24 networks ended by early stopping; 2 took all 600 steps, 1 of them best at the last: more may help. "
        "1 diverged."
    )
    assert [paragraph[:9].strip(",:") for paragraph in text[1:]] == ["Diverged", "Collapsed"]
    assert bullets == [
        "MC dropout, random, seed 1, round 0: 1 of 2 networks",
        "MC dropout, random, seed 1, round 1: 99.0 % of the points in one class, accuracy 10.0 %",
    ]
    assert lines[1] == ["MC dropout", "random", "12", "300", "2 of 12", "0.70", "0.60", "1", "1"]
    assert lines[0][4:] == ["0 of 12", "0.60", "0.60", "0", "0"]


def test_the_first_five_are_named(tmp_path):
    gone = {"steps": [225], "best_step": [225], "validation_nll": [None], "diverged": [True]}
    rounds = [(seed, number) for seed in range(3) for number in range(3)]
    workdir = make_run(tmp_path / "run", replace(SMALL, seeds=3))
    _, bullets, _ = blocks(told(workdir, **{f"random_{seed}_{number}": gone for seed, number in rounds}))
    assert bullets == [
        *(f"MC dropout, random, seed {seed}, round {number}" for seed, number in rounds[:5]),
        "and 4 rounds more",
    ]


@pytest.mark.parametrize(
    ("share", "accuracy", "collapsed"), [(0.98, 0.11, 1), (1.0, 0.75, 1), (0.97, 0.1, 0), (0.99, 0.97, 0)]
)
def test_most_points_in_one_class_are_a_collapse_where_they_are_wrong(tmp_path, share, accuracy, collapsed):
    one = {"most_predicted": share, "accuracy": accuracy}
    _, bullets, lines = blocks(told(make_run(tmp_path / "run"), random_0_1=one))
    assert lines[1][-1] == str(collapsed) == str(len(bullets))


def test_without_early_stopping_no_network_is_late(tmp_path):
    free = {"steps": [600, 600], "best_step": [600, 600], "validation_nll": [None, None]}
    every = {
        f"{name}_{seed}_{turn}": free for name in ("random", "power_bald") for seed in (0, 1) for turn in (0, 1, 2)
    }
    text, _, lines = blocks(told(make_run(tmp_path / "run"), **every))
    assert text == ["24 networks (600 steps) had no early stopping. None diverged."]
    assert lines[0][2:] == ["12", "600", "no early stopping", "–", "–", "0", "0"]


def test_fits_that_tell_less_or_other_things(tmp_path):
    """Snapshots tell nothing of their steps; a posterior of one's own may tell a scalar of its own."""
    own = dict.fromkeys(("steps", "best_step", "validation_nll", "diverged"), "absent") | {"evidence": [3.5]}
    every = {f"power_bald_{seed}_{number}": own for seed in (0, 1) for number in range(3)}
    text, _, lines = blocks(told(make_run(tmp_path / "run"), **every))
    assert text == ["All 12 networks ended by early stopping, before their 600 steps were over. None diverged."]
    assert lines[0] == ["MC dropout", "power_bald-beta-4", *["–"] * 6, "0"]
    every |= {key.replace("power_bald", "random"): own for key in every}
    assert blocks(told(make_run(tmp_path / "other"), **every)) == ([], [], [])
    collapsed = every | {"random_0_0": own | {"most_predicted": 1.0, "accuracy": 0.1}}
    text, bullets, lines = blocks(told(make_run(tmp_path / "third"), **collapsed))
    assert (len(text), len(bullets), lines) == (1, 1, [])


def test_points_of_a_sweep_have_steps_of_their_own(tmp_path):
    few = replace(SMALL, training=config.Training(steps=300, min_steps=50))
    one, other = told(make_run(tmp_path / "one")), told(make_run(tmp_path / "other", few))
    text, _, lines = blocks(one, other)
    assert text[0].startswith("36 of 48 networks ended by early stopping; 12 took all 300 steps. None")
    assert [line[4] for line in lines] == ["6 of 12", "6 of 12", "0 of 12", "0 of 12"]


def test_it_stands_in_the_report_after_the_time(tmp_path, monkeypatch):
    def save(figure, path_stem, kinds):
        paths = [Path(f"{path_stem}.{kind}") for kind in kinds]
        for path in paths:
            path.write_text(BLANK)
        return paths

    monkeypatch.setattr(drawing, "save_as", save)
    text = report([told(make_run(tmp_path / "run"))], load_data=False).with_suffix(".md").read_text()
    assert text.index("\n## Time\n") < text.index("\n## Training\n\nAll 24 networks") < text.index("\n## Warnings\n")


@pytest.mark.parametrize("fit", [3, {"steps": ["many"]}, {"steps": "many"}])
def test_what_no_fit_tells_is_refused(tmp_path, fit):
    workdir = make_run(tmp_path / "run")
    path = next(workdir.glob("*/random/seed_0")) / "metrics.jsonl"
    line = durable.read(path)[0]
    path.unlink()
    durable.append(path, line | {"fit": fit})
    with pytest.raises(CorruptRunError, match="line 1: 'metrics': fit: expected scalars by their names, or lists"):
        gather([workdir])
    assert json.loads(path.read_text())["fit"] == fit
