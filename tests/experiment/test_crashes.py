"""Real processes that are killed, interrupted or have no room on the disk, and what the next one makes of it.

The whole campaign is `python tests/crash_campaign.py`; that a run goes on from every single event is in test_run.py.
"""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from bdal.store import durable, parameters
from tests.crash_campaign import EVENTS, NAMED, PLACES, POSTERIORS, Bench, campaign, ledgers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
POINTS = {  # of a run, which is killed at each; the campaign knows more of them
    event: [f"{third}_{event}:3", *(f"{place}_{event}:1" for place in PLACES if place != third)]
    for event, third in zip(EVENTS, itertools.cycle(PLACES))
} | {
    "run.json and table.md": ["before_run.json", "after_run.json", "before_table.md", "after_table.md"],
    "config.yaml and curves.png": ["before_config.yaml", "after_config.yaml", "before_curves.png", "after_curves.png"],
    "parameters": [name for name in NAMED if name.startswith("parameters_")],
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Both posteriors, run to the end; what they compiled is kept."""
    return Bench(tmp_path_factory.mktemp("crashes"))


def finished_as_expected(bench, posterior, workdir):
    process = bench.start(posterior, workdir)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert ledgers(workdir) == bench.expected[posterior]
    return errors


def prefixes(bench, posterior, workdir):
    """What is there is readable, and the beginning of what would have come."""
    found = ledgers(workdir)
    for name, content in found.items():
        durable.read(workdir / name)
        assert bench.expected[posterior][name].startswith(content)
    return found


# -- kill -9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("event", "posterior"), zip(POINTS, itertools.cycle(POSTERIORS)))
def test_killed_around_everything_that_is_written(bench, tmp_path, event, posterior):
    outcome = bench.trial(posterior, tmp_path / "run", POINTS[event])
    assert outcome.same
    assert outcome.kills == POINTS[event]
    for seed in range(2):
        for strategy in ("random", "power_bald"):
            folder = tmp_path / "run" / posterior / strategy / f"seed_{seed}"
            assert [line["round"] for line in durable.read(folder / "metrics.jsonl")] == [0, 1, 2, 3]
            whole = bench.folder / f"{posterior}-again" / posterior / strategy / f"seed_{seed}" / "parameters"
            ours, theirs = (parameters.restore_leaves(each) for each in (folder / "parameters", whole))
            assert ours.keys() == theirs.keys()
            assert all((ours[name] == theirs[name]).all() for name in ours)


OWN_POINTS = [
    "after_config.yaml", "after_validation:1", "torn_evaluated:2", "before_metrics:3", "after_queried:2",
    "torn_labelled:3", "before_finished:1",
]  # fmt: skip


def test_killed_with_parts_of_ones_own(tmp_path):
    """A network and a posterior in JAX, and one that bdal cannot look into."""
    bench = Bench(tmp_path, own_parts=True)
    for posterior, points in (
        ("noisy_head", [*OWN_POINTS, "parameters_written:1", "parameters_renamed:1"]),
        ("bagging", OWN_POINTS),
    ):
        outcome = bench.trial(posterior, tmp_path / posterior, points)
        assert outcome.same
        assert outcome.kills == points
        assert len(ledgers(tmp_path / posterior)) == 4


def test_a_campaign(bench, tmp_path):
    outcomes = campaign(bench, tmp_path, 6, seed=3, line=lambda text: None)
    assert all(outcome.same for outcome in outcomes), outcomes
    assert sum(len(outcome.kills) for outcome in outcomes) >= 6


def test_a_killed_process_is_taken_over_with_a_warning_and_its_query_is_asked_again(bench, tmp_path):
    workdir = tmp_path / "run"
    process = bench.start("mc_dropout", workdir, "after_queried:2")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    owner = json.loads((workdir / "run.lock").read_text())
    assert owner["pid"] == process.pid
    (content,) = (text for text in prefixes(bench, "mc_dropout", workdir).values() if text)
    assert b'"queried", "round": 1' in content.splitlines()[-1]
    errors = finished_as_expected(bench, "mc_dropout", workdir)
    assert (
        f"bdal: warning: {workdir}: taking over from process {process.pid} on host {socket.gethostname()} since "
        f"{owner['started']}, which did not finish\n"
    ) in errors
    assert not (workdir / "run.lock").exists()


# -- signals ----------------------------------------------------------------------------------------------------------

WAITING = """
import sys
from bdal import cli
from bdal.experiment import run
stage = run.Progress.stage
def waiting(report, text):
    if text.endswith("random, round 1: {phase}"):
        print("here", flush=True)
        sys.stdin.readline()
    stage(report, text)
run.Progress.stage = waiting
sys.exit(cli.main(sys.argv[1:]))
"""


def heard(process, line):
    for text in process.stdout:
        if text == f"{line}\n":
            return
    pytest.fail(process.stderr.read())


@pytest.mark.parametrize(
    ("posterior", "number", "phase"), [("mc_dropout", signal.SIGTERM, "fit"), ("deep_ensemble", signal.SIGINT, "query")]
)
def test_a_signal_in_the_middle_of_a_round(bench, tmp_path, posterior, number, phase):
    workdir = tmp_path / "run"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child would inherit that it is ignored
    try:
        process = bench.start(posterior, workdir, code=WAITING.format(phase=phase))
    finally:
        signal.signal(signal.SIGINT, before)
    heard(process, "here")
    assert (workdir / "run.lock").exists()
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.endswith(
        f"bdal: interrupted; what was complete is kept; to go on: bdal run {bench.folder / posterior}.yaml --workdir "
        f"{workdir}\n"
    )
    assert "Traceback" not in errors
    assert not (workdir / "run.lock").exists()
    found = prefixes(bench, posterior, workdir)
    assert {content.count(b"\n") for content in found.values()} == {5}  # the start, and a round; nothing new
    assert "taking over" not in finished_as_expected(bench, posterior, workdir)


# -- two at once ------------------------------------------------------------------------------------------------------


def test_a_second_process_is_told_to_try_later(bench, tmp_path):
    workdir = tmp_path / "run"
    first = bench.start("mc_dropout", workdir, code=WAITING.format(phase="fit"))
    heard(first, "here")
    owner = json.loads((workdir / "run.lock").read_text())
    before = ledgers(workdir)
    second = bench.start("mc_dropout", workdir)
    _, errors = second.communicate()
    assert second.returncode == 75
    assert errors == (
        f"bdal: {workdir} is in use by process {first.pid} on host {socket.gethostname()} since {owner['started']}; "
        "try again later\n"
    )
    assert ledgers(workdir) == before
    first.communicate("\n")
    assert first.returncode == 0
    assert ledgers(workdir) == bench.expected["mc_dropout"]


def test_a_process_that_slept_through_a_whole_run_of_another_writes_nothing(bench, tmp_path):
    workdir = tmp_path / "run"
    first = bench.start("mc_dropout", workdir, code=WAITING.format(phase="fit"))
    heard(first, "here")
    first.send_signal(signal.SIGSTOP)
    (workdir / ".run.lock").unlink()  # as where hosts share the folder and not their locks
    assert "taking over from process" in finished_as_expected(bench, "mc_dropout", workdir)
    whole = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate("\n")
    assert first.returncode == 75, errors
    assert errors.endswith("; nothing more was written here\n")
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == whole


# -- a full disk ------------------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from bdal import cli
from bdal.store import directory
write_run = directory.write_run
def then_full(*arguments, **options):
    found = write_run(*arguments, **options)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
    return found
directory.write_run = then_full
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_file_that_cannot_grow(bench, tmp_path):
    """The limit on a file's size is what a full disk is to a process: a write stops halfway."""
    workdir = tmp_path / "run"
    size = max(map(len, bench.expected["mc_dropout"].values())) * 2 // 3
    process = bench.start("mc_dropout", workdir, code=LIMITED.format(size=size))
    _, errors = process.communicate()
    assert process.returncode == 1, errors
    assert re.search(r"^bdal: .*(ledger|metrics)\.jsonl: File too large$", errors, re.MULTILINE)
    assert "Traceback" not in errors
    assert any(content.count(b"\n") > 4 for content in prefixes(bench, "mc_dropout", workdir).values())
    finished_as_expected(bench, "mc_dropout", workdir)


# -- oracles ----------------------------------------------------------------------------------------------------------

FAILING = """
import sys
from bdal import cli
from bdal import config
from bdal.experiment import run_experiment
from bdal.experiment.prepare import prepare
cli._keep_compiled_programs()
experiment = config.load(sys.argv[2])
labels, count = prepare(experiment).data.pool_labels, [0]
def oracle(indices):
    count[0] += 1
    if count[0] == 4:
        raise TimeoutError("the annotator has gone home")
    return labels[indices]
run_experiment(experiment, sys.argv[4], oracle=oracle)
"""


def test_an_oracle_that_raises_ends_the_process_with_an_error(bench, tmp_path):
    process = bench.start("mc_dropout", tmp_path / "run", code=FAILING)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.endswith("TimeoutError: the annotator has gone home\n")
    (content,) = (text for text in prefixes(bench, "mc_dropout", tmp_path / "run").values() if text)
    assert b'"queried", "round": 1' in content.splitlines()[-1]
    finished_as_expected(bench, "mc_dropout", tmp_path / "run")


def test_people_who_are_interrupted_between_their_last_answer_and_the_training(bench, tmp_path):
    def bdal(command, *arguments, failpoint=""):
        environment = os.environ | {"BDAL_FAILPOINT": failpoint, "BDAL_CACHE_DIR": str(bench.folder / "cache")}
        return subprocess.run(
            [sys.executable, "-m", "bdal", command, *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    people = ["--labels.oracle=people", "--seeds=1", "--comparisons.0.strategies=[random]", "--together=false"]
    done = {}
    for name, failpoint in (("whole", ""), ("killed", "after_labelled")):
        workdir = tmp_path / name
        first = bdal("run", str(bench.folder / "mc_dropout.yaml"), "--workdir", name, *people)
        assert first.returncode == 0, first.stderr
        while True:
            asked = bdal("ask", name)
            assert asked.returncode == 0, asked.stderr
            if asked.stdout.startswith("finished"):
                break
            text = (workdir / "query" / "query.csv").read_text().replace("\n", "7\n").replace("label7", "label", 1)
            answers = tmp_path / f"{time.monotonic_ns()}"
            answers.mkdir()
            (answers / "answers.csv").write_text(text)
            if failpoint:
                killed = bdal("tell", name, str(answers / "answers.csv"), failpoint=failpoint)
                assert killed.returncode == -signal.SIGKILL
            told = bdal("tell", name, str(answers / "answers.csv"))
            assert told.returncode == 0, told.stderr
        done[name] = ledgers(workdir)
    assert done["killed"] == done["whole"]
