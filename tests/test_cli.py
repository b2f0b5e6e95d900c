import io
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from bdal import cli, config, contrib
from bdal import experiment as experiments
from bdal.config.data import load as load_data
from bdal.errors import AcceleratorError, ConfigError, DataNotFoundError
from bdal.experiment.progress import Progress
from bdal.store.directory import owner, seed_folder
from bdal.store.durable import append
from bdal.store.ledger import Ledger
from bdal.store.lock import LockedError, lock
from bdal.strategy import STRATEGIES
from bdal.strategy.table import AUTHORS

CONFIG = """\
name: tiny
seeds: 2
labels: {budget: 40, initial: 20}
comparisons:
- {posterior: mc_dropout, members: 3, strategies: [random, margin]}
"""


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty working folder with `tiny.yaml`, a cache of its own, and jax's settings as they were afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BDAL_CACHE_DIR", str(tmp_path / "cache"))
    Path("tiny.yaml").write_text(CONFIG)
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs",
             "jax_persistent_cache_min_entry_size_bytes")  # fmt: skip
    before = {name: getattr(jax.config, name) for name in names}
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def runner(monkeypatch):
    """Puts a function in the place of the runner."""

    def replace(run):
        monkeypatch.setattr(experiments, "run_experiment", run)

    return replace


def made_up_run(experiment, workdir):
    """Ledgers as a run would leave them, with made-up numbers."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "config.yaml").write_text(config.dump(experiment))
    with Progress(total=4) as report:
        for comparison in experiment.comparisons:
            for strategy in comparison.strategies:
                for seed in range(experiment.seeds):
                    folder = seed_folder(workdir, comparison, strategy, seed)
                    folder.mkdir(parents=True)
                    for number, labels in enumerate((20, 32)):
                        append(
                            folder / "ledger.jsonl",
                            {
                                "event": "evaluated", "round": number, "labels": labels, "validation_labels": 8,
                                "points": 10, "members": 3, "accuracy": 0.5 + labels / 100 + seed / 50,
                                "nll": 0.5, "brier": 0.25, "ece": 0.125,
                            },
                        )  # fmt: skip
                    report.line(f"{comparison.method(strategy)} seed {seed}: 32 labels")
                    report.advance()


def test_run_ends_with_a_table(workplace, runner, capsys):
    seen = {}

    def run(experiment, workdir, *, parts, allow_mismatch):
        seen.update(experiment=experiment, workdir=workdir, allow_mismatch=allow_mismatch)
        made_up_run(experiment, workdir)

    runner(run)
    assert cli.main(["run", "tiny.yaml", "--training.steps", "30", "--seed=4"]) == 0
    assert (seen["experiment"].training.steps, seen["experiment"].seed) == (30, 4)
    assert seen["workdir"] == workplace / "runs" / "tiny"
    assert seen["allow_mismatch"] is False
    out = capsys.readouterr().out
    assert out.startswith("mc_dropout/random seed 0: 32 labels\n")
    assert "acc. at 32" in out
    assert out.splitlines()[-2:] == [
        "figures curves.png and curves.pdf, tables table.md and table.csv in runs/tiny",
        "all of it as one page: bdal report runs/tiny",
    ]
    assert "\x1b" not in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "tiny.yaml", "--workdir", "there", "--seed", "4"],
        ["run", "--seed", "4", "tiny.yaml", "--workdir=there"],
        ["run", "--workdir", "there", "--seed=4", "tiny.yaml", "--debug"],
    ],
)
def test_overrides_anywhere_and_a_relative_workdir(workplace, runner, monkeypatch, arguments):
    seen = []

    def run(experiment, workdir, **_):
        seen.append((experiment.seed, workdir))
        made_up_run(experiment, workdir)
        (workplace / "elsewhere").mkdir()
        monkeypatch.chdir(workplace / "elsewhere")

    runner(run)
    assert cli.main(arguments) == 0
    assert seen == [(4, workplace / "there")]
    assert not list((workplace / "elsewhere").iterdir())


@pytest.mark.parametrize("flag", ["--data-dir", "--data.data-dir"])
@pytest.mark.parametrize("joined", [False, True])
def test_the_folder_of_the_data_has_a_short_flag(workplace, runner, flag, joined):
    seen = []

    def run(experiment, workdir, **_):
        seen.append(experiment.data.data_dir)
        made_up_run(experiment, workdir)

    runner(run)
    assert cli.main(["run", *([f"{flag}=there"] if joined else [flag, "there"]), "tiny.yaml"]) == 0
    assert seen == [str(workplace / "there")]


@pytest.mark.parametrize("name", ["photos #2", "a: b", "[x]", "1e3", "null", "~", "{}", "déjà 'vu'"])
def test_the_folder_of_the_data_is_a_path_and_not_yaml(workplace, runner, name):
    seen = []

    def run(experiment, workdir, **_):
        seen.append(experiment.data.data_dir)
        made_up_run(experiment, workdir)

    runner(run)
    for workdir, arguments in (("a", ["--data-dir", f"/there/{name}"]), ("b", [f"--data-dir=/there/{name}"])):
        assert cli.main(["run", "tiny.yaml", "--workdir", workdir, *arguments]) == 0
    assert seen == [f"/there/{name}"] * 2


@pytest.mark.parametrize("place", [1, 2, 4])
def test_a_mismatch_is_allowed_by_a_flag_without_a_value(workplace, runner, place):
    seen = []

    def run(experiment, workdir, *, parts, allow_mismatch):
        seen.append((experiment.seed, allow_mismatch))
        made_up_run(experiment, workdir)

    runner(run)
    arguments = ["run", "tiny.yaml", "--seed", "4"]
    assert cli.main([*arguments[:place], "--allow-mismatch", *arguments[place:]]) == 0
    assert seen == [(4, True)]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("bald2: no such strategy"), 2, "bdal: bald2: no such strategy"),
        (ValueError("two\n  lines"), 1, "bdal: two lines"),
        (DataNotFoundError("mnist: put four files in /data/mnist"), 1, "bdal: mnist: put four files in /data/mnist"),
        (OSError(28, "No space left on device", "/x/ledger"), 1, "bdal: /x/ledger: No space left on device"),
        (AcceleratorError("a TPU is attached, but"), 1, "bdal: a TPU is attached, but"),
        (
            KeyboardInterrupt(), 130,
            "bdal: interrupted; what was complete is kept; to go on: bdal run tiny.yaml --model.hidden '[8, 8]'",
        ),
        (LockedError("runs/tiny is in use by process 7"), 75, "bdal: runs/tiny is in use by process 7"),
    ],
)  # fmt: skip
def test_errors_are_one_line(workplace, runner, capsys, error, code, line):
    def run(*_, **__):
        raise error

    runner(run)
    assert cli.main(["run", "tiny.yaml", "--model.hidden", "[8, 8]"]) == code
    captured = capsys.readouterr()
    assert captured.err == line + "\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: np.zeros(2**56), "this machine has not enough memory: Unable to allocate 512. PiB for an array"),
        (lambda: jax.numpy.zeros(2**44).block_until_ready(), "the device has not enough memory: RESOURCE_EXHAUSTED: "),
        (lambda: b"x" * 2**62, "this machine has not enough memory: MemoryError"),
    ],
)
def test_without_memory_it_is_said_what_was_asked_and_what_to_make_smaller(workplace, runner, capsys, ask, says):
    runner(lambda *_, **__: ask())
    assert cli.main(["run", "tiny.yaml"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bdal: {says}")
    assert line.endswith(
        "; make smaller, in this order: query.chunk_size, query.candidates, training.batch_size, "
        "comparisons.N.members, data.pool, or seeds in one program (--together false)"
    )
    with pytest.raises((MemoryError, RuntimeError)):
        cli.main(["run", "tiny.yaml", "--debug"])


@pytest.mark.parametrize(
    "twice",
    [
        ["--workdir", "a", "--workdir", "b"], ["--workdir=a", "--workdir=a"], ["--allow-mismatch", "--allow-mismatch"],
        ["--seeds", "3", "--seeds", "4"], ["--data-dir", "a", "--data.data-dir", "b"],
    ],
)  # fmt: skip
def test_an_option_that_is_given_twice_is_refused(workplace, runner, capsys, twice):
    runner(lambda *_, **__: pytest.fail("it ran"))
    assert cli.main(["run", "tiny.yaml", *twice]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected once, found" in line


def test_a_machine_without_a_home(workplace, runner, capsys, monkeypatch):
    """No HOME, and a user whom the system does not know, as in some containers."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("BDAL_CACHE_DIR")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    jax.config.update("jax_compilation_cache_dir", None)
    runner(made_up_run_of_any)
    assert cli.main(["run", "tiny.yaml"]) == 0
    errors = capsys.readouterr().err
    assert errors.startswith(
        "bdal: compiled programs are not kept: ~/.cache/bdal: expected a path, found ~ for a home "
    )
    assert "Traceback" not in errors
    for arguments in (["--data.name", "mnist"], ["--data-dir", "~nosuch/there"], ["--workdir", "~nosuch/there"]):
        code = cli.main(["doctor" if "mnist" in arguments else "run", "tiny.yaml", *arguments])
        assert code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "~" in line][-1:]
        assert "found ~ for a home directory that is not known" in line


def made_up_run_of_any(experiment, workdir, **_):
    made_up_run(experiment, workdir)


def test_an_output_that_has_no_plus_minus_ends_no_run(workplace, runner, monkeypatch):
    """A real table into a pipe in ASCII."""
    runner(lambda experiment, workdir, **_: made_up_run(experiment, workdir))
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["run", "tiny.yaml"]) == 0
    out.flush()
    assert rb"\xb1" in out.buffer.getvalue()


def test_debug_and_bugs_raise(workplace, runner):
    def run(*_, **__):
        raise ValueError("deep inside")

    runner(run)
    with pytest.raises(ValueError, match="deep inside"):
        cli.main(["run", "tiny.yaml", "--debug"])

    def bug(*_, **__):
        raise TypeError("a bug")

    runner(bug)
    with pytest.raises(TypeError, match="a bug"):
        cli.main(["run", "tiny.yaml"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["run"], "the following arguments are required: CONFIG.yaml"),
        (["run", "tiny.yaml", "more.yaml"], "unrecognized arguments: more.yaml"),
        (["rnu", "tiny.yaml"], "invalid choice: 'rnu'"),
        (["run", "tiny.yaml", "--workdir"], "argument --workdir: expected one argument"),
    ],
)
def test_usage_errors(workplace, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "absent.yaml"], "bdal: absent.yaml: cannot be read as a config: No such file or directory"),
        (["run", "tiny.yaml", "--sede", "3"], "bdal: command line: sede: unknown field; did you mean 'seed'?"),
        (["run", "tiny.yaml", "--seed"], "bdal: command line: --seed: expected a value after it, found none"),
        (
            ["run", "tiny.yaml", "--", "x"],
            "bdal: command line: expected an override such as --training.steps 300, found '--'",
        ),
        (["methods", "--seed", "3"], "bdal: --seed is no option of `bdal methods`"),
        (["report", "runs/tiny", "--allow-mismatch"], "bdal: --allow-mismatch is no option of `bdal report`"),
        (
            ["report", "runs/tiny", "--out", "page.html"],
            "bdal: out: expected a folder, in which the report is report.html, got page.html; pass page",
        ),
        (
            ["ask", "runs/tiny"],
            "bdal: {cwd}/runs/tiny: expected a run directory, as `bdal run CONFIG.yaml --workdir` makes one",
        ),
    ],
)
def test_config_errors(workplace, capsys, arguments, line):
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == line.format(cwd=workplace) + "\n"


def test_a_directory_in_use_is_tried_later(workplace, capsys):
    (workplace / "runs" / "tiny").mkdir(parents=True)
    with lock(workplace / "runs" / "tiny"):
        owner = json.loads((workplace / "runs" / "tiny" / "run.lock").read_text())
        assert cli.main(["run", "tiny.yaml"]) == 75
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"bdal: {workplace}/runs/tiny is in use by process {os.getpid()} on host {socket.gethostname()} since "
        f"{owner['started']}; try again later\n"
    )
    assert [path.name for path in (workplace / "runs" / "tiny").iterdir()] == [".run.lock"]


def test_what_people_are_asked_for_is_said_at_the_end(workplace, runner, capsys):
    def run(experiment, workdir, **_):
        folder = seed_folder(workdir, experiment.comparisons[0], experiment.comparisons[0].strategies[0], 0)
        folder.mkdir(parents=True)
        (workdir / "config.yaml").write_text(config.dump(experiment))
        ledger = Ledger(0, folder, owner(workdir, "mc_dropout/margin", 0))
        ledger.add({"event": "queried", "round": -1, "indices": list(range(28))})
        ledger.add({"event": "labelled", "round": -1, "indices": [7], "labels": [0]})

    runner(run)
    one = ["--labels.oracle", "people", "--seeds", "1", "--comparisons.0.strategies", "[margin]"]
    assert cli.main(["run", "tiny.yaml", *one]) == 0
    assert capsys.readouterr().out == (
        "27 of 28 labels wanted to start with (8 for validation, 20 for training): bdal label runs/tiny, or bdal ask "
        "runs/tiny for files to fill in\n"
    )


def test_warnings_are_a_line_each(workplace, runner, capsys):
    def run(experiment, workdir, **_):
        made_up_run(experiment, workdir)
        warnings.warn("two\n  lines", UserWarning, stacklevel=1)

    runner(run)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["run", "tiny.yaml"]) == 0
    assert capsys.readouterr().err == "bdal: warning: two lines\n"


def test_from_another_thread_than_the_main_one(workplace, runner, capsys):
    """Where signals cannot be handled."""
    runner(lambda experiment, workdir, **_: made_up_run(experiment, workdir))
    found = []
    thread = threading.Thread(target=lambda: found.append(cli.main(["run", "tiny.yaml"])))
    thread.start()
    thread.join()
    assert found == [0]


def test_compiled_programs_are_kept_in_a_private_folder(workplace, capsys):
    jax.config.update("jax_compilation_cache_dir", None)
    cli._keep_compiled_programs()
    folder = Path(jax.config.jax_compilation_cache_dir)
    assert folder.parent == workplace / "cache" / "xla"
    assert (folder.stat().st_mode & 0o777, folder.parent.stat().st_mode & 0o777) == (0o700, 0o700)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
    assert jax.config.jax_persistent_cache_min_entry_size_bytes == -1

    jax.config.update("jax_compilation_cache_dir", "/the/users/own")
    cli._keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == "/the/users/own"
    assert capsys.readouterr().err == ""


def test_a_cache_that_cannot_be_used_is_left_out(workplace, monkeypatch, capsys):
    jax.config.update("jax_compilation_cache_dir", None)
    (workplace / "file").write_text("")
    monkeypatch.setenv("BDAL_CACHE_DIR", str(workplace / "file"))
    cli._keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
    assert capsys.readouterr().err.startswith("bdal: compiled programs are not kept: ")

    monkeypatch.setenv("BDAL_CACHE_DIR", str(workplace / "theirs"))
    owner = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: owner)
    cli._keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir is None
    assert "belongs to another user" in capsys.readouterr().err


def bdal(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "bdal", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
    )


def test_the_program_itself(workplace):
    wrong = bdal("run", "tiny.yaml", "--training.stpes", "3")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "bdal: command line: training.stpes: unknown field; did you mean 'steps'?\n"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["run", "--help"], ["--version"]])
def test_what_somebody_types_first(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 0
    assert "bdal" in capsys.readouterr().out


def test_help_and_version_are_quick_to_load():
    code = (
        "import sys; from bdal import cli\n"
        "try: cli.main(['--version'])\n"
        "except SystemExit as stop: print(stop.code)\n"
        "print(sorted({'yaml', 'cattrs', 'rich', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, code, imported = done.stdout.splitlines()
    assert version.startswith("bdal ")
    assert (code, imported) == ("0", "[]")


def test_methods_lists_every_strategy_with_its_options(capsys):
    assert cli.main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {line.split()[0] for line in lines if line and not line.startswith(" ")}
    assert names >= {*STRATEGIES, "loss_prediction", "vaal"}
    assert {"beta=8.0", "rule=code"} <= {line.split()[0] for line in lines if line.startswith("  ")}
    assert all(len(line) <= 130 for line in lines)


@pytest.mark.parametrize("width", [80, 120])
def test_methods_says_of_every_strategy_whose_rule_it_is(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal
    assert cli.main(["methods"]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert all(len(line) <= width for line in lines)
    starts = [number for number, line in enumerate(lines) if line and not line.startswith(" ")]
    column = lines[0].index("paper")
    shown = {}
    for start, end in itertools.pairwise(starts):
        shown[lines[start].split()[0]] = " ".join(" ".join(line[column:] for line in lines[start:end]).split())
    for name, method in (STRATEGIES | contrib.STRATEGIES).items():
        said = method.rule if method.rule == AUTHORS or not method.paper else f"differs: {method.rule}"
        assert f"{method.paper} – {said} {method.needs}" in shown[name] or name == "random"


def test_the_doctor_looks_at_a_pool(workplace, capsys):
    builders = "[{name: noisy_labels, rate: 0.1}, {name: contaminated, source: noise, share: 0.5}]"
    assert cli.main(["doctor", "tiny.yaml", "--data.pool", "60", "--data.builders", builders]) == 0
    lines = capsys.readouterr().out.partition("\n\n")[2].splitlines()
    pool = load_data(config.load("tiny.yaml", ["--data.pool", "60", "--data.builders", builders])).source
    of_each = ", ".join(f"{digit}: {int((pool.labels == digit).sum())}" for digit in range(10))
    assert lines == [
        "data  120 pool points of shape 8x8x1, 10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        f"labels of each class: {of_each}",
        "6 of 60 labels were flipped on purpose",
        "the oracle abstains on 60 of 120 points",
        "120 points, 120 of them distinct, 0 repeat another one",
    ]


@pytest.mark.parametrize(
    "change",
    [
        ["--comparisons.0.strategies.0", "bold"],
        ["--labels.oracle", "simulated", "--data.name", "./own.npz", "--data.classes", "[a, b]"],
        ["--comparisons.0.strategies.0", "{name: power_bald, bata: 3}"],
    ],
)
def test_the_doctor_refuses_what_a_run_would(workplace, capsys, change):
    np.savez("own.npz", inputs=np.zeros((300, 8, 8, 1), np.float32))
    assert cli.main(["doctor", "tiny.yaml", *change]) == 2
    found = capsys.readouterr().err
    assert cli.main(["run", "tiny.yaml", *change]) == 2
    assert capsys.readouterr().err == found
    assert found.startswith("bdal: ")


def test_the_doctor_looks_at_a_pool_without_labels(workplace, capsys):
    np.savez("mine.npz", inputs=np.arange(90.0).reshape(30, 3))
    own = ["--data.name", "mine.npz", "--data.classes", "[cat, dog]"]
    assert cli.main(["doctor", "tiny.yaml", *own]) == 2  # nobody to label it
    assert "labels.oracle: expected people for " in capsys.readouterr().err
    one = ["--labels.oracle", "people", "--seeds", "1", "--comparisons.0.strategies", "[random]"]
    assert cli.main(["doctor", "tiny.yaml", *own, *one]) == 0
    lines = capsys.readouterr().out.partition("\n\n")[2].splitlines()
    assert lines == [
        "data  30 pool points of shape 3, 2 classes: cat, dog",
        "30 points, 30 of them distinct, 0 repeat another one",
    ]
