"""A sweep is files that are the same however often it is asked for, and commands that anything can run."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from bdal import config, datasets
from bdal.errors import ConfigError
from bdal.experiment import sweep as sweeps
from bdal.experiment.sweep import Sweep, run_locally, sweep

PAGE = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()
SECTIONS = dict(re.findall(r"^## ([^\n]*)\n.*?^```(?:bash|python)\n(.*?)^```", PAGE, flags=re.M | re.S))
CONFIG = """\
name: small
seeds: 3
labels: {budget: 60, initial: 10}
comparisons:
- {posterior: mc_dropout, members: 20, strategies: [random, margin]}
- {posterior: deep_ensemble, members: 5, strategies: [random]}
"""


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def root(tmp_path):
    return tmp_path / "sweep"


def points(root):
    """Every point's experiment, read from its own file."""
    return {path.parent.name: config.load(path) for path in root.glob("runs/*/config.yaml")}


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def runs_of(experiment):
    """(posterior, strategy, seed) of everything that `bdal run` would run."""
    return {
        (comparison.posterior.label, strategy.label, seed)
        for comparison in experiment.comparisons
        for strategy in comparison.strategies
        for seed in experiment.seed_numbers
    }


# -- what is written --------------------------------------------------------------------------------------------------


def test_every_setting_and_seed_has_a_config_of_its_own(base, root):
    given = sweep(base, grid=["training.learning-rate=1e-3,0.01", "strategy=bald,entropy"], seeds="2:5", root=root)
    expected = [
        f"strategy={strategy},training.learning_rate={rate},seed={seed}"
        for seed, strategy, rate in product((2, 3, 4), ("bald", "entropy"), ("1e-3", "0.01"))
    ]
    assert given.names == expected
    original, written = config.load(base), points(root)
    assert set(written) == set(expected)
    for name, (seed, strategy, rate) in zip(
        expected, product((2, 3, 4), ("bald", "entropy"), (1e-3, 0.01)), strict=True
    ):
        one = (config.Named(strategy),)
        assert written[name] == replace(
            original, first_seed=seed, seeds=1, training=replace(original.training, learning_rate=rate),
            comparisons=tuple(replace(each, strategies=one) for each in original.comparisons),
        )  # fmt: skip


def test_a_command_a_line_in_the_order_of_the_runs(base, tmp_path):
    root = tmp_path / "a place with 'quotes' and spaces"
    given = sweep(base, grid=["strategy=bald"], seeds="0:2", root=root)
    lines = (root / "commands.txt").read_text().splitlines()
    assert [shlex.split(line) for line in lines] == given.commands
    for name, (bdal, run, path, workdir, folder) in zip(given.names, given.commands, strict=True):
        assert (bdal, run, workdir) == ("bdal", "run", "--workdir")
        assert Path(folder) == root / "runs" / name
        assert Path(path) == Path(folder) / "config.yaml"
        assert config.load(path).seed_numbers == range(int(name[-1]), int(name[-1]) + 1)


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ([], {("mc_dropout", "random"), ("mc_dropout", "margin"), ("deep_ensemble", "random")}),
        (["posterior=mc_dropout"], {("mc_dropout", "random"), ("mc_dropout", "margin")}),
        (["strategy=bald"], {("mc_dropout", "bald"), ("deep_ensemble", "bald")}),
        (["strategy={name: power_bald, beta: 4}", "posterior=deep_ensemble"], {("deep_ensemble", "power_bald-beta-4")}),
    ],
)
def test_what_a_run_compares(base, root, grid, expected):
    given = sweep(base, grid=grid, seeds="0:1", root=root)
    assert {run[:2] for run in runs_of(points(root)[given.names[0]])} == expected


def test_the_grid_has_each_posterior_with_each_strategy(base, root):
    sweep(base, grid=["posterior=mc_dropout,deep_ensemble", "strategy=bald,margin"], seeds="0:2", root=root)
    each = [runs_of(experiment) for experiment in points(root).values()]
    assert all(len(runs) == 1 for runs in each)
    assert set.union(*each) == set(product(("mc_dropout", "deep_ensemble"), ("bald", "margin"), (0, 1)))


@pytest.mark.parametrize(
    ("seeds", "per_run", "expected"),
    [
        ("0:4", 1, {"seed=0": [0], "seed=1": [1], "seed=2": [2], "seed=3": [3]}),
        ("0:10", 5, {"seeds=0-4": [0, 1, 2, 3, 4], "seeds=5-9": [5, 6, 7, 8, 9]}),
        ("7:8", 1, {"seed=7": [7]}),
        (None, 1, {"small": [0, 1, 2]}),  # as the config says
    ],
)
def test_seeds(base, root, seeds, per_run, expected):
    sweep(base, seeds=seeds, seeds_per_run=per_run, root=root)
    assert {name: list(point.seed_numbers) for name, point in points(root).items()} == expected


def test_overrides_hold_for_all_points(base, root):
    sweep(base, ["--labels.budget", "80", "--data.pool=500"], grid=["strategy=bald,margin"], seeds="0:2", root=root)
    assert {(point.labels.budget, point.data.pool) for point in points(root).values()} == {(80, 500)}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("strategy=margin,{name: power_bald, beta: 8}", ["strategy=margin", "strategy=power_bald-beta-8"]),
        ("model.hidden=[64, 32],[16]", ["model.hidden=64-32", "model.hidden=16"]),
        ("model={name: mlp, hidden: [8]},cnn,null", ["model=name-mlp-hidden-8", "model=cnn", "model=null"]),
        ("training.weight_decay=1e-4,0", ["training.weight_decay=1e-4", "training.weight_decay=0"]),
        ("data.name=../../etc/one.npz,'a,b.npz'", ["data.name=..-..-etc-one.npz", "data.name=a-b.npz"]),
        ("data.name=optdigits,..,/", None),  # a name of nothing but what is left out
    ],
)
def test_names_are_plain_folders_of_the_root(base, root, values, expected):
    given = sweep(base, grid=[values], root=root)
    assert expected is None or given.names == expected
    assert len(given.names) == len(set(given.names)) == len(list((root / "runs").iterdir()))
    assert all(re.fullmatch(r"[A-Za-z0-9._+=,~-]+", name) for name in given.names)
    assert all(Path(command[-1]).resolve().parent == root / "runs" for command in given.commands)


def test_long_values_have_names_that_a_folder_can_have(base, root):
    start = "x" * 300
    given = sweep(base, grid=[f"data.name={start}1.npz,{start}2.npz"], seeds="0:1", root=root)
    assert len(points(root)) == 2
    assert max(map(len, given.names)) < 180


def test_without_a_root_it_is_below_sweeps(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sweep(base, seeds="0:1").root == tmp_path / "sweeps" / "small"


# -- asked again ------------------------------------------------------------------------------------------------------


def test_the_same_again_gives_the_same_bytes(base, root):
    first = sweep(base, grid=["strategy=bald,margin"], seeds="0:3", root=root)
    before = contents(root)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert sweep(base, grid=["strategy=bald,margin"], seeds="0:3", root=root) == first
    assert contents(root) == before
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times  # not even written again


def test_more_is_added_at_the_end_and_less_removes_nothing(base, root):
    sweep(base, grid=["strategy=bald"], seeds="0:2", root=root)
    lines, files = (root / "commands.txt").read_text(), contents(root)
    more = sweep(base, grid=["strategy=margin,bald"], seeds="0:3", root=root)
    assert len(more.names) == 6
    assert (root / "commands.txt").read_text().startswith(lines)
    assert len((root / "commands.txt").read_text().splitlines()) == 6
    kept = {name: files[name] for name in files if name.startswith("runs/")}
    assert kept.items() <= contents(root).items()
    all_of_it = (root / "commands.txt").read_text()
    less = sweep(base, grid=["strategy=margin"], seeds="2:3", root=root)
    assert less.names == ["strategy=margin,seed=2"]
    assert (root / "commands.txt").read_text() == all_of_it
    asked = json.loads((root / "sweep.json").read_text())["asked"]
    assert [request["seeds"] for request in asked] == ["0:2", "0:3", "2:3"]


def test_the_order_of_the_grid_is_no_other_sweep(base, root):
    grid = ["training.steps=200,400", "strategy=bald"]
    assert sweep(base, grid=grid, root=root) == sweep(base, grid=grid[::-1], root=root)


def test_what_a_run_has_written_stays(base, root):
    given = sweep(base, seeds="0:1", root=root)
    ledger = root / "runs" / given.names[0] / "mc_dropout" / "random" / "seed_0" / "ledger.jsonl"
    ledger.parent.mkdir(parents=True)
    ledger.write_text("{}\n")
    sweep(base, seeds="0:2", root=root)
    assert ledger.read_text() == "{}\n"


def test_a_run_directory_that_is_gone_is_made_anew(base, root):
    given = sweep(base, seeds="0:2", root=root)
    before = contents(root)
    (root / "runs" / given.names[1] / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"runs/seed=1/config\.yaml"):  # not asked for, so it cannot be made
        sweep(base, seeds="0:1", root=root)
    sweep(base, seeds="0:2", root=root)
    assert contents(root) == before


def test_a_sweep_that_was_moved_or_whose_data_was_has_new_paths(base, root, tmp_path):
    sweep(base, ["--data.data-dir=/one"], seeds="0:1", root=root)
    moved = tmp_path / "moved"
    root.rename(moved)
    sweep(base, ["--data.data-dir=/two"], seeds="0:1", root=moved)
    assert str(moved) in (moved / "commands.txt").read_text()
    assert str(root) + "/" not in (moved / "commands.txt").read_text()
    assert points(moved)["seed=0"].data.data_dir == "/two"


# -- what is refused, before anything is written ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"grid": ["strategy"]}, "expected a field and its values"),
        ({"grid": ["=bald"]}, "expected a field and its values"),
        ({"grid": ["../x=1"]}, "expected a field and its values"),
        ({"grid": ["strategy="]}, "expected values with commas between"),
        ({"grid": ["strategy=bald,,margin"]}, "expected values with commas between"),
        ({"grid": ["strategy=bald,bald"]}, "every value once"),
        ({"grid": ["model.hidden=[1,2"]}, "brackets and quotes that close"),
        ({"grid": ["strategy=bald], [margin"]}, "brackets and quotes that close"),
        ({"grid": ["strategy=bald", "strategy=margin"]}, "expected once"),
        ({"grid": ["seeds=1,2"]}, "--seeds 0:10"),
        ({"grid": ["strategy=bald,margn"]}, "margn"),
        ({"grid": ["strategy={name: power_bald, betta: 3}"]}, "betta"),
        ({"grid": ["strategy=3"]}, r"strategies\.0: expected a name"),
        ({"grid": ["strategy=a/b"]}, "a strategy's name"),
        ({"grid": ["model=mlp,mpl"]}, r"model: got 'mpl' \(did you mean 'mlp'\?\)"),
        ({"grid": ["model.hiden=[3]"]}, "model mlp: expected options hidden, dropout, got 'hiden'"),
        ({"grid": ["posterior=laplace"]}, "mc_dropout, deep_ensemble.*'laplace'"),
        ({"grid": ["training.stepz=3"]}, "unknown field; did you mean 'steps'"),
        ({"grid": ["training.steps=300,no"]}, "training.steps: expected a whole number"),
        ({"grid": ["labels.budget=60,5"]}, "labels.budget: expected at least"),
        ({"grid": ["training.learning_rate=1e-3,0.001"]}, "every run once"),
        ({"grid": ["data.name=a b,a/b"]}, "differ in letters"),
        ({"grid": ["data.name=digits,Digits"]}, "differ in letters"),  # one folder on some disks
        ({"grid": [f"seed={','.join(map(str, range(101)))}"], "seeds": "0:100"}, "at most 10000 runs"),
        ({"grid": [f"{field}={','.join(map(str, range(1, 500)))}" for field in ("seed", "data.pool", "data.test")]},
         "at most 10000 runs"),
        ({"seeds": "0:100000"}, "at most 10000 runs"),
        ({"seeds": "10"}, "FIRST:END"),
        ({"seeds": "3:3"}, "FIRST:END"),
        ({"seeds": "-1:3"}, "FIRST:END"),
        ({"seeds": "9999999998:9999999999"}, "first_seed"),
        ({"seeds": "0:10", "seeds_per_run": 4}, "divisor of 10"),
        ({"seeds": "0:10", "seeds_per_run": 0}, "at least 1"),
        ({"seeds_per_run": 2}, "--seeds"),
        ({"overrides": ["--training.steps=none"]}, "training.steps"),
    ],
)  # fmt: skip
def test_refused_in_one_line_and_nothing_is_written(base, root, arguments, message):
    with pytest.raises(ConfigError, match=message) as error:
        sweep(base, root=root, **arguments)
    assert "\n" not in str(error.value)
    assert not root.exists()


def test_another_config_under_the_root_is_refused_with_the_fields(base, root):
    sweep(base, grid=["strategy=bald"], seeds="0:2", root=root)
    before = contents(root)
    with pytest.raises(ConfigError, match=r"another sweep .*training\.steps: 600 != 300; choose another --root"):
        sweep(base, ["--training.steps=300"], grid=["strategy=margin"], seeds="0:2", root=root)
    base.write_text(CONFIG.replace("budget: 60", "budget: 70"))
    with pytest.raises(ConfigError, match=r"labels\.budget: 60 != 70"):
        sweep(base, grid=["strategy=bald"], seeds="0:2", root=root)
    assert contents(root) == before


def test_a_run_that_was_edited_is_refused(base, root):
    sweep(base, seeds="0:1", root=root)
    path = root / "runs" / "seed=0" / "config.yaml"
    path.write_text(path.read_text().replace("steps: 600", "steps: 500"))
    with pytest.raises(ConfigError, match=r"runs/seed=0/config\.yaml\): training\.steps: 500 != 600"):
        sweep(base, seeds="0:1", root=root)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"seeds": "0:4"}, {"seeds": "0:4", "seeds_per_run": 2}),
        ({"seeds": "0:4", "seeds_per_run": 4}, {"seeds": "3:4"}),
        ({"seeds": "0:4", "seeds_per_run": 4}, {"seeds": "0:1", "overrides": ["--data.data-dir=/elsewhere"]}),
        ({"seeds": "0:2"}, {"seeds": "0:2", "grid": ["strategy=margin"]}),  # margin is in the config
        ({"seeds": "0:2"}, {"seeds": "1:2", "grid": ["training.steps=600"]}),  # its default
    ],
)
def test_the_same_run_twice_is_refused(base, root, first, second):
    sweep(base, root=root, **first)
    before = contents(root)
    with pytest.raises(ConfigError, match="expected every run once"):
        sweep(base, root=root, **second)
    assert contents(root) == before


def test_other_seeds_and_other_settings_are_not_the_same_run(base, root):
    sweep(base, seeds="0:2", root=root)
    sweep(base, seeds="2:4", seeds_per_run=2, root=root)
    sweep(base, seeds="0:2", grid=["training.steps=601"], root=root)
    sweep(base, seeds="0:2", grid=["strategy=bald"], root=root)
    assert len((root / "commands.txt").read_text().splitlines()) == 7


def test_a_root_that_is_something_else_is_refused(base, root, tmp_path):
    root.mkdir()
    (root / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="found a run directory"):
        sweep(base, seeds="0:1", root=root)
    with pytest.raises(ConfigError, match="cannot be used for a sweep"):
        sweep(base, seeds="0:1", root=base)
    with pytest.raises(ConfigError, match="fits on a line"):
        sweep(base, seeds="0:1", root=tmp_path / "two\nlines")


@pytest.mark.parametrize("text", ["", "[]", '{"points": {}}', '{"asked": [], "points": {"../../x": {}}}', "nonsense"])
def test_a_sweep_json_of_another_hand_is_refused(base, root, text):
    sweep(base, seeds="0:1", root=root)
    (root / "sweep.json").write_text(text)
    with pytest.raises(ConfigError, match=r"sweep\.json: expected what `bdal sweep` wrote"):
        sweep(base, seeds="0:1", root=root)


# -- running it here --------------------------------------------------------------------------------------------------


def fake(root, *codes):
    """A sweep whose runs are Python programs."""
    return Sweep(root, [[sys.executable, "-S", "-c", code] for code in codes], [f"seed={s}" for s in range(len(codes))])


def exits(code):
    return f"import sys; sys.exit({code})"


def test_a_line_for_each_run_that_ends(root):
    lines = []
    assert run_locally(fake(root, *["print('hello')"] * 3), workers=2, line=lines.append) == 0
    assert sorted(line.split()[1] for line in lines) == ["seed=0:", "seed=1:", "seed=2:"]
    assert [line.split()[0] for line in lines] == ["1/3", "2/3", "3/3"]
    assert all(line.endswith(": finished") for line in lines)
    logs = [(root / "logs" / f"seed={s}.log").read_text().splitlines() for s in range(3)]
    assert all(said.startswith("$ ") and rest == ["hello"] for said, *rest in logs)


def test_so_many_at_a_time_and_no_more(root):
    """Each run waits until as many as there are workers have started, and says how many are there."""
    root.mkdir()
    code = f"""if 1:
        import os, time
        folder, mine = {str(root)!r}, str(os.getpid())
        os.mkdir(os.path.join(folder, "here-" + mine))
        first = os.path.join(folder, "two")
        there = []
        while len(there) < 2 and not os.path.exists(first):
            there = [name for name in os.listdir(folder) if name.startswith("here-")]
            time.sleep(0.01)
        open(first, "w").close()
        time.sleep(0.3)
        print(len([name for name in os.listdir(folder) if name.startswith("here-")]))
        os.rmdir(os.path.join(folder, "here-" + mine))
    """
    assert run_locally(fake(root, *[code] * 5), workers=2, line=lambda _: None) == 0
    seen = [int((root / "logs" / f"seed={s}.log").read_text().split()[-1]) for s in range(5)]
    assert max(seen) == 2


def test_failures_do_not_stop_the_others_and_are_listed(root):
    lines = []
    given = fake(
        root,
        "pass",
        "import sys; print('bdal: no such file'); sys.exit(2)",
        "import os; os.kill(os.getpid(), 9)",
        "pass",
    )
    assert run_locally(given, workers=1, line=lines.append) == 1
    ended = {line.split()[1]: line for line in lines[:4]}
    assert "exit code 2: bdal: no such file" in ended["seed=1:"]
    assert str(root / "logs" / "seed=1.log") in ended["seed=1:"]
    assert "SIGKILL" in ended["seed=2:"]
    assert lines[3].startswith("2/4 seed=3: finished")
    assert lines[4].startswith("2 of 4 runs failed")
    assert [shlex.split(line) for line in lines[5:]] == [given.commands[1], given.commands[2]]


def test_a_run_in_use_is_tried_again_after_the_others(root, monkeypatch):
    monkeypatch.setattr(sweeps, "AGAIN", (0.05, 0.05, 0.05))
    root.mkdir()
    twice = f"""if 1:
        import os, sys
        path = {str(root / "turns")!r}
        turns = os.path.getsize(path) if os.path.exists(path) else 0
        open(path, "a").write("x")
        sys.exit(75 if turns < 2 else 0)
    """
    lines = []
    assert run_locally(fake(root, twice, "pass"), workers=1, line=lines.append) == 0
    assert (root / "turns").read_text() == "xxx"
    assert [re.sub(r" in \d+ s", "", line) for line in lines] == [
        "0/2 seed=0: in use by another process",
        "1/2 seed=1: finished",
        "1 of 2 runs are in use by other processes: again",
        "1/2 seed=0: in use by another process",
        "1 of 2 runs are in use by other processes: again",
        "2/2 seed=0: finished",
    ]


def test_a_run_that_stays_in_use_ends_in_75_and_a_failure_in_1(root, monkeypatch):
    monkeypatch.setattr(sweeps, "AGAIN", (0.01, 0.01))
    lines = []
    given = fake(root, exits(75), "pass")
    assert run_locally(given, workers=2, line=lines.append) == 75
    assert "in use by other processes still" in lines[-2]
    assert shlex.split(lines[-1]) == given.commands[0]
    assert run_locally(fake(root, exits(75), exits(3)), workers=2, line=lambda _: None) == 1


def test_bdal_is_the_one_of_this_interpreter(root, monkeypatch, tmp_path):
    other = tmp_path / "bin" / "bdal"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\nexit 9\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}:{os.environ['PATH']}")
    given = Sweep(root, [["bdal", "--version"]], ["seed=0"])
    assert run_locally(given, workers=1, line=lambda _: None) == 0
    assert "bdal 0" in (root / "logs" / "seed=0.log").read_text()


def test_a_run_has_a_group_of_its_own_and_no_input(root):
    """Ctrl-C in a terminal goes to a whole group: the runs are ended by us alone."""
    assert run_locally(fake(root, "import os, sys; print(os.getpgrp(), repr(sys.stdin.read()))"), workers=1) == 0
    group, read = (root / "logs" / "seed=0.log").read_text().splitlines()[1].split()
    assert int(group) != os.getpgrp()
    assert read == "''"


def test_an_interrupt_that_is_ignored_stays_so(root):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        given = fake(root, "import os, signal; os.kill(os.getppid(), signal.SIGHUP)", "pass")
        assert run_locally(given, workers=1, line=lambda _: None) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_log_keeps_what_was_said_before(root):
    for _ in range(2):
        run_locally(fake(root, "print('hello')"), workers=1, line=lambda _: None)
    assert (root / "logs" / "seed=0.log").read_text().splitlines()[1::2] == ["hello", "hello"]


def test_no_workers_are_refused(root):
    with pytest.raises(ConfigError, match="--workers: expected at least 1, found 0"):
        run_locally(fake(root, "pass"), workers=0)


def started(root, count):
    """The pids of runs that have started, once there are `count`."""
    deadline = time.monotonic() + 60
    while len(pids := [int(path.name) for path in (root / "pids").iterdir()]) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return pids


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_the_runs_and_starts_no_more(root, number):
    (root / "pids").mkdir(parents=True)
    waits = f"import os, time; open(os.path.join({str(root / 'pids')!r}, str(os.getpid())), 'w'); time.sleep(60)"
    pids = []

    def interrupt():
        pids.extend(started(root, 2))
        os.kill(os.getpid(), number)

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    thread, lines = threading.Thread(target=interrupt), []
    thread.start()
    assert run_locally(fake(root, "pass", waits, waits, waits), workers=2, line=lines.append) == 130
    thread.join()
    assert lines[0] == "1/4 seed=0: finished"
    assert lines[1:] == ["interrupted: 1 of 4 runs are finished; the same command goes on"]
    assert not any(map(alive, pids))
    assert len(started(root, 2)) == 2  # the fourth was not started
    assert {each: signal.getsignal(each) for each in before} == before


def test_a_run_that_does_not_end_is_killed_at_a_second_interrupt(root):
    (root / "pids").mkdir(parents=True)
    deaf = f"""if 1:
        import os, signal, time
        signal.signal(signal.SIGTERM, lambda *_: open(os.path.join({str(root)!r}, "asked"), "w"))
        open(os.path.join({str(root / "pids")!r}, str(os.getpid())), "w")
        while True: time.sleep(60)
    """
    pids = []

    def interrupt():
        pids.extend(started(root, 1))
        os.kill(os.getpid(), signal.SIGINT)
        while not (root / "asked").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert run_locally(fake(root, deaf), workers=1, line=lambda _: None) == 130
    thread.join()
    assert not alive(pids[0])


def test_runs_do_not_outlive_a_reader_that_has_gone(root):
    (root / "pids").mkdir(parents=True)
    waits = f"import os, time; open(os.path.join({str(root / 'pids')!r}, str(os.getpid())), 'w'); time.sleep(60)"

    def gone(_):
        started(root, 1)
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_locally(fake(root, waits, "pass"), workers=2, line=gone)
    assert not alive(started(root, 1)[0])


# -- the page's scripts -----------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path):
    """Stand-ins for SLURM's commands and for `bdal`, and what was called."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    programs = {
        "srun": f'shift; echo $$ > {tmp_path}/step; exec "$@"',
        "scontrol": f'echo "scontrol $*" >> {calls}',
        "scancel": f'echo "scancel $*" >> {calls}; kill -TERM "$(cat {tmp_path}/step)"',
        "sleep": f'echo "sleep $*" >> {calls}',
        "bdal": f'echo "bdal $*" >> {calls}\n[[ $1 != wait ]] || {{ trap "exit 130" TERM; touch {tmp_path}/waiting; '
        "while :; do read -rt 0.05 < /dev/zero; done; }; exit $1",
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    calls.touch()
    (tmp_path / "array.sh").write_text(SECTIONS["A SLURM array"])

    def submit(*commands, task):
        (tmp_path / "commands.txt").write_text("".join(f"{line}\n" for line in commands))
        environment = os.environ | {
            "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "2",
            "SLURM_ARRAY_TASK_ID": str(task),
        }  # fmt: skip
        return subprocess.Popen(["bash", tmp_path / "array.sh", tmp_path], env=environment)

    return submit, calls, tmp_path


@pytest.mark.parametrize(
    ("code", "then"),
    [(0, []), (2, []), (75, ["scontrol requeue 17_2"]), (130, ["sleep 600"])],
)
def test_the_slurm_script_runs_its_line(cluster, code, then):
    submit, calls, _ = cluster
    process = submit("bdal 9 first", f"bdal {code} 'a word' \"b\"", "bdal 9 third", task=2)
    assert process.wait(timeout=60) == code
    assert calls.read_text().splitlines() == [f"bdal {code} a word b", *then]


def test_the_slurm_script_goes_back_into_the_queue_before_its_time_is_over(cluster):
    submit, calls, folder = cluster
    process = submit("bdal wait", task=1)
    while not (folder / "waiting").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=60) == 130
    assert calls.read_text().splitlines() == ["bdal wait", "scancel --signal=TERM 17_1", "scontrol requeue 17_1"]


@pytest.fixture
def submitted(tmp_path):
    """The page's submitit script beside a sweep's commands, and a way to call it."""
    script = tmp_path / "submit.py"
    script.write_text(SECTIONS["submitit"])

    def call(commands, program=None, **environment):
        (tmp_path / "commands.txt").write_text("".join(shlex.join(command) + "\n" for command in commands))
        words = [script, tmp_path, "local"] if program is None else ["-c", program]
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)} | environment,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return call, tmp_path


def test_the_submitit_script_runs_every_command(submitted):
    call, folder = submitted
    writes = [[sys.executable, "-c", f"open('done-{s}', 'w')"] for s in range(2)]
    done = call(writes)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.rpartition(": ")[2] for line in done.stdout.splitlines()] == ["finished"] * 2
    assert {path.name for path in folder.glob("done-*")} == {"done-0", "done-1"}
    failed = call([[sys.executable, "-c", "import sys; sys.exit(3)"], writes[0]])
    assert failed.returncode == 1
    line = next(line for line in failed.stdout.splitlines() if "failed, see " in line)
    assert "exit code 3" in Path(line.partition("failed, see ")[2]).read_text()


def test_the_submitit_function_repeats_a_run_in_use_and_ends_its_process(submitted):
    """What the script does with exit codes, and at the exception by which submitit ends a job."""
    call, _ = submitted
    program = """if 1:
        import os, signal, sys, threading, time
        from pathlib import Path
        from submit import Run
        turns = "import os, sys; n = len(os.listdir('turns')); os.mkdir(f'turns/{n}'); sys.exit([75, 130, 0][n])"
        os.mkdir("turns")
        Run()(f'{sys.executable} -c "{turns}"', pause=0)
        assert len(os.listdir("turns")) == 3

        def handler(*_):
            sys.exit(-1)
        signal.signal(signal.SIGUSR2, handler)
        def interrupt():
            while not os.path.exists("pid") or not Path("pid").read_text():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGUSR2)
        threading.Thread(target=interrupt).start()
        waits = "import os, signal as s, time; assert s.getsignal(s.SIGUSR2) == s.SIG_IGN; "
        waits += "open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
        try:
            Run()(f'{sys.executable} -c "{waits}"')
        except SystemExit:
            pass
        try:
            os.kill(int(Path("pid").read_text()), 0)
        except ProcessLookupError:
            print("ended")
        again = Run().checkpoint("bdal run", 3)
        print(again.function.__class__.__name__, *again.args)
    """
    done = call([], program)
    assert (done.stderr, done.stdout.splitlines()) == ("", ["ended", "Run bdal run 3"])


# -- real runs --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A config of 150 digits, and what one `bdal run` of all its strategies and seeds writes."""
    folder = tmp_path_factory.mktemp("digits")
    data = datasets.load("optdigits")
    np.savez(
        folder / "digits.npz", inputs=data.inputs[:150], labels=data.labels[:150], test_inputs=data.test_inputs[:60],
        test_labels=data.test_labels[:60],
    )  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(f"""\
name: tiny
seeds: 2
together: false
data: {{name: {folder / "digits.npz"}}}
model: {{hidden: [16]}}
training: {{steps: 30, min_steps: 5, batch_size: 16, learning_rate: 0.01, eval_every: 10, patience: 2}}
labels: {{budget: 30, initial: 8, validation: 0.2}}
query: {{size: 10, chunk_size: 64}}
comparisons:
- {{posterior: mc_dropout, members: 4, strategies: [random, bald]}}
""")
    own = Path(sys.executable).parent
    environment = os.environ | {"BDAL_CACHE_DIR": str(folder / "cache"), "PATH": f"{own}:{os.environ['PATH']}"}
    whole = folder / "whole"
    subprocess.run(
        [sys.executable, "-m", "bdal", "run", path, "--workdir", whole],
        env=environment,
        check=True,
        capture_output=True,
    )
    expected = ledgers([whole])
    assert set(expected) == set(product(["mc_dropout"], ["random", "bald"], ["seed_0", "seed_1"]))
    return path, expected, environment


def ledgers(workdirs):
    """Every ledger's bytes, by posterior, strategy and seed."""
    found = {}
    for workdir in workdirs:
        for ledger in Path(workdir).glob("*/*/seed_*/ledger.jsonl"):
            key = ledger.relative_to(workdir).parts[:3]
            assert key not in found
            found[key] = ledger.read_bytes()
    return found


@pytest.mark.slow
def test_a_sweep_writes_the_ledgers_of_one_run_of_everything(digits, root, monkeypatch):
    """One strategy with a run for each seed, the other with both seeds in a run."""
    path, expected, environment = digits
    monkeypatch.setenv("BDAL_CACHE_DIR", environment["BDAL_CACHE_DIR"])
    apart = sweep(path, grid=["strategy=random"], seeds="0:2", root=root)
    both = sweep(path, grid=["strategy=bald"], seeds="0:2", seeds_per_run=2, root=root)
    given = Sweep(root, apart.commands + both.commands, apart.names + both.names)
    lines = []
    assert run_locally(given, workers=2, line=lines.append) == 0
    assert len(lines) == 3
    assert ledgers(root.glob("runs/*")) == expected


@pytest.mark.slow
def test_submitit_writes_them_too(digits, submitted):
    path, expected, environment = digits
    call, folder = submitted
    given = sweep(path, grid=["strategy=random,bald"], seeds="0:2", seeds_per_run=2, root=folder)
    done = call(given.commands, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert ledgers(folder.glob("runs/*")) == expected
