"""A run says in its ledgers what happened; it goes on where it stopped, to the same bytes, and repeats nothing."""

import errno
import itertools
import json
import os
import re
import sys
import time
import warnings
from collections import Counter
from dataclasses import replace
from datetime import datetime

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from bdal import config, datasets, models
from bdal.config import data
from bdal.errors import ConfigError, DataNotFoundError, LabelError
from bdal.experiment import prepare
from bdal.experiment import run as runner
from bdal.experiment.run import run_experiment
from bdal.pool import ABSTAIN
from bdal.store import directory, durable, lock, parameters
from tests.compilations import count_compilations
from tests.experiment.made_up import made_up_programs

BUDGET, VALIDATION, INITIAL, SIZE, SEEDS = 40, 8, 8, 10, 2
LABEL_COUNTS = [8, 18, 28, 32]
RANDOM, BALD = config.Named("random"), config.Named("bald")
DROPOUT = config.Comparison("mc_dropout", 4, (RANDOM, BALD))
ENSEMBLE = config.Comparison("deep_ensemble", 3, (RANDOM, BALD))


@pytest.fixture(scope="module", autouse=True)
def _compiled_programs_are_kept(tmp_path_factory):
    """Every call of `run` builds its programs anew; here they are compiled once."""
    names = ["dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes"]
    names = ["jax_compilation_cache_dir", *("jax_" + name for name in names[1:])]
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, [str(tmp_path_factory.mktemp("xla")), 0, -1], strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The first 200 digits of the pool and 100 of the test set: pool index is row number."""
    source = datasets.load("optdigits")
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(
        path, inputs=source.inputs[:200], labels=source.labels[:200], test_inputs=source.test_inputs[:100],
        test_labels=source.test_labels[:100],
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def tiny(digits):
    """One seed after the other, in two seeds."""
    return config.Experiment(
        name="tiny",
        seeds=SEEDS,
        together=False,
        data=config.Data(name=str(digits)),
        model=config.Named("mlp", {"hidden": [16]}),
        training=config.Training(steps=30, min_steps=5, batch_size=16, learning_rate=1e-2, eval_every=10, patience=2),
        labels=config.Labels(budget=BUDGET, initial=INITIAL, validation=0.2),
        query=config.Query(size=SIZE, chunk_size=64),
        evaluation=config.Evaluation(members=3, points=50),
        comparisons=(DROPOUT,),
    )


class Watch:
    """In place of the progress display: what was said, and what was compiled in each phase."""

    def __init__(self, stop_after=None):
        self.lines, self.compiled, self._stop_after, self._open = [], [], stop_after, None

    def __call__(self, total):
        self.total, self.advanced = total, 0
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._close()

    def _close(self):
        if self._open is not None:
            name, context, durations = self._open
            context.__exit__(None, None, None)
            self.compiled.append((name, len(durations)))
            self._open = None

    def stage(self, text):
        self._close()
        context = count_compilations()
        self._open = text, context, context.__enter__()

    def line(self, text):
        self._close()
        self.lines.append(text)
        if len(self.lines) == self._stop_after:
            raise KeyboardInterrupt

    def advance(self, steps=1):
        self.advanced += steps


def files(workdir, name="ledger.jsonl"):
    return {str(path.relative_to(workdir)): path.read_bytes() for path in sorted(workdir.glob(f"*/*/seed_*/{name}"))}


def events(workdir, run_name, seed):
    """Of a ledger, without whose it is."""
    return anyones(durable.read(workdir / run_name / f"seed_{seed}" / "ledger.jsonl"))


def anyones(ledger):
    first = {field: value for field, value in ledger[0].items() if field not in ("run", "method", "seed")}
    return [first, *ledger[1:]]


def of(kind, ledger):
    return [event for event in ledger if event["event"] == kind]


@pytest.fixture(scope="module", params=[False, True], ids=["dropout apart", "ensemble together"])
def finished(request, tiny, tmp_path_factory):
    """A run from beginning to end: the experiment, its directory, and what was seen."""
    experiment = replace(tiny, together=True, comparisons=(ENSEMBLE,)) if request.param else tiny
    workdir, watch = tmp_path_factory.mktemp("run"), Watch()
    assert run_experiment(experiment, workdir, progress=watch) == workdir
    return experiment, workdir, watch


# -- real programs ----------------------------------------------------------------------------------------------------


def test_ledgers_hold_what_happened_in_its_order(finished, digits):
    experiment, workdir, _ = finished
    labels = np.load(digits)["labels"]
    expected = ["validation", "initial", *["evaluated", "queried", "labelled"] * 3, "evaluated", "finished"]
    ledgers = files(workdir)
    assert len(ledgers) == SEEDS * 2
    for name in ledgers:
        ledger = durable.read(workdir / name)
        assert [event["event"] for event in ledger] == expected
        assert [event["round"] for event in ledger[2:]] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
        assert ledger[-1] == {"event": "finished", "round": 3, "reason": "budget"}
        bought = []
        for event in ledger:
            if "labels" in event and "indices" in event:
                assert event["labels"] == labels[event["indices"]].tolist()
                bought += event["indices"]
        assert len(set(bought)) == len(bought) == BUDGET  # every label counted, validation too, and none twice
        assert [event["indices"] for event in of("queried", ledger)] == [e["indices"] for e in of("labelled", ledger)]
        assert [len(event["indices"]) for event in of("queried", ledger)] == [10, 10, 4]
        evaluated = of("evaluated", ledger)
        assert [event["labels"] for event in evaluated] == LABEL_COUNTS
        assert [event["validation_labels"] for event in evaluated] == [VALIDATION] * 4
        assert [event["points"] for event in evaluated] == [50] * 4
        assert [event["members"] for event in evaluated] == [3] * 4
        assert ["final" in event for event in evaluated] == [False, False, False, True]
        final = evaluated[-1]["final"]
        assert (final["members"], final["points"]) == (experiment.comparisons[0].members, 100)
        for event in [*evaluated, final]:
            assert 0 <= event["accuracy"] <= 1
            assert round(event["accuracy"] * event["points"], 4) % 1 == 0
            assert event["nll"] > 0
            assert 0 <= event["brier"] <= 2
            assert 0 <= event["ece"] <= 1
        assert not any("seconds" in event for event in ledger)


def test_methods_start_from_the_same_model(finished):
    experiment, workdir, _ = finished
    posterior = experiment.comparisons[0].posterior.name
    for seed in range(SEEDS):
        random, bald = (events(workdir, f"{posterior}/{name}", seed) for name in ("random", "bald"))
        assert random[:3] == bald[:3]  # validation, initial set and first evaluation: a difference is the strategy's
        assert random[3] != bald[3]
    assert random[:2] != events(workdir, f"{posterior}/random", 0)[:2]


def test_metrics_are_the_same_rounds_with_seconds_and_gains(finished):
    experiment, workdir, _ = finished
    for name, content in files(workdir, "metrics.jsonl").items():
        metrics = [json.loads(line) for line in content.splitlines()]
        evaluated = of("evaluated", durable.read(workdir / name.replace("metrics", "ledger")))
        assert [m["accuracy"] for m in metrics] == [event["accuracy"] for event in evaluated]
        assert [m.get("final") for m in metrics] == [event.get("final") for event in evaluated]
        assert [len(m["gains"]) for m in metrics] == [10, 10, 4, 0]
        for told in [m["fit"] for m in metrics]:
            networks = experiment.comparisons[0].members if experiment.together else 1
            assert told.keys() == {"steps", "best_step", "validation_nll", "diverged", "most_predicted"}
            assert {len(each) for name, each in told.items() if name != "most_predicted"} == {networks}
            assert all(0 < best <= steps <= 30 for best, steps in zip(told["best_step"], told["steps"], strict=True))
            assert all(nll > 0 for nll in told["validation_nll"])
            assert told["diverged"] == [False] * networks
            assert 0.1 <= told["most_predicted"] <= 1
        assert [set(m["seconds"]) for m in metrics] == [{"fit", "evaluate", "query"}] * 3 + [{"fit", "evaluate"}]
        assert {m["seeds"] for m in metrics} == {SEEDS if experiment.together else 1}


def test_table_and_figures_are_made(finished):
    experiment, workdir, watch = finished
    for name in ("table.md", "table.csv", "curves.png", "curves.pdf", "config.yaml", "run.json"):
        assert (workdir / name).stat().st_size > 100
    assert "bald" in (workdir / "table.md").read_text()
    assert watch.advanced == watch.total == 2 * 4 * (1 if experiment.together else SEEDS)
    assert sum("the last query has 4 points: the budget has no more" in line for line in watch.lines) == watch.total / 4


def test_fit_is_compiled_once_for_all_strategies_and_nothing_after_the_first_round(finished):
    _, _, watch = finished
    with_work = [stage for stage, compiled in watch.compiled if compiled]
    assert len(watch.compiled) == watch.total * 3 - watch.total / 4  # the last round asks nothing
    assert [re.sub(r"^\w+/", "", stage) for stage in with_work] == [
        "random, round 0: fit",
        "random, round 0: query",
        "random, round 0: evaluate",
        "bald, round 0: query",
    ]


def test_a_second_call_repeats_nothing(finished):
    experiment, workdir, _ = finished
    before = files(workdir), files(workdir, "metrics.jsonl")
    (workdir / "table.md").unlink()
    watch = Watch()
    run_experiment(experiment, workdir, progress=watch)
    assert watch.lines == [f"finished already: nothing is left to run in {workdir}"]
    assert watch.compiled == []
    assert (files(workdir), files(workdir, "metrics.jsonl")) == before
    assert (workdir / "table.md").exists()


def test_an_interrupted_run_goes_on_to_the_same_bytes_with_nothing_new_to_compile(finished, tmp_path):
    experiment, workdir, watch = finished
    stop = Watch(stop_after=len(watch.lines) // 2 - 3)  # in the middle of a strategy
    with pytest.raises(KeyboardInterrupt):
        run_experiment(experiment, tmp_path, progress=stop)
    assert files(tmp_path) != files(workdir)
    misses = []

    def listen(event, **_):
        misses.extend([event] * (event == "/jax/compilation_cache/cache_misses"))

    jax.monitoring.register_event_listener(listen)
    rest = Watch()
    run_experiment(experiment, tmp_path, progress=rest)
    seconds = re.compile(r", [0-9.]+ s$")
    assert [seconds.sub("", line) for line in stop.lines + rest.lines] == [seconds.sub("", l) for l in watch.lines]
    assert files(tmp_path) == files(workdir)
    assert misses == []  # all programs came from the folder where the first run left them


@pytest.mark.parametrize("missing", [(), ("test_inputs", "test_labels")])
def test_final_figures_are_by_another_program_only_where_the_measure_is_another(tiny, digits, tmp_path, missing, spied):
    np.savez(tmp_path / "data.npz", **{name: part for name, part in np.load(digits).items() if name not in missing})
    experiment = replace(tiny, seeds=1, data=config.Data(str(tmp_path / "data.npz")))
    experiment = replace(experiment, comparisons=(replace(DROPOUT, strategies=(BALD,)),))
    points = VALIDATION if missing else 100
    for evaluation, along, compiled in (
        (config.Evaluation(), [(points, 4)] * 4, []),
        (config.Evaluation(members=9, points=200), [(points, 4)] * 4, []),
        (config.Evaluation(members=3), [(points, 3)] * 4, [(points, 4)]),
    ):
        watch, workdir = Watch(), tmp_path / f"{evaluation.members}"
        spied.clear()
        run_experiment(replace(experiment, evaluation=evaluation), workdir, progress=watch)
        assert spied == [*compiled, *along, *compiled]  # the first time to compile it
        assert not any(count for stage, count in watch.compiled if "round 0" not in stage)
        *before, last = of("evaluated", events(workdir, "mc_dropout/bald", 0))
        assert [(event["points"], event["members"]) for event in [*before, last]] == along
        assert (last["final"]["points"], last["final"]["members"]) == (points, 4)
        figures = ("accuracy", "nll", "brier", "ece")
        same = [last[name] for name in figures] == [last["final"][name] for name in figures]
        assert same == (not compiled)


@pytest.fixture
def spied(monkeypatch):
    """On how many points and by how many members a run evaluates, call by call."""
    calls, make = [], runner.programs_of

    def spying(*arguments):
        made = make(*arguments)

        def evaluate(committee, inputs, labels, count):
            calls.append((len(labels), count))
            return made.evaluate(committee, inputs, labels, count)

        def compile_final(committee, inputs, labels, seeds):
            calls.append((len(labels), made.all_members))
            made.compile_final(committee, inputs, labels, seeds)

        return made._replace(evaluate=evaluate, compile_final=compile_final)

    monkeypatch.setattr(runner, "programs_of", spying)
    return calls


@pytest.mark.slow
def test_a_pool_on_the_host_makes_the_same_queries(tiny, tmp_path, monkeypatch):
    experiment = replace(tiny, seeds=1, comparisons=(replace(DROPOUT, strategies=(BALD,)),))
    run_experiment(experiment, tmp_path / "device", progress=Watch())
    monkeypatch.setattr(data, "ON_DEVICE_BYTES", 0)
    watch = Watch()
    run_experiment(experiment, tmp_path / "host", progress=watch)
    ours, theirs = (events(tmp_path / where, "mc_dropout/bald", 0) for where in ("host", "device"))
    assert [event["indices"] for event in of("queried", ours)] == [event["indices"] for event in of("queried", theirs)]
    for one, other in zip(of("evaluated", ours), of("evaluated", theirs), strict=True):
        assert one["nll"] == pytest.approx(other["nll"], rel=1e-4)
    assert [compiled for stage, compiled in watch.compiled if "round 0" not in stage] == [0] * 8


def test_labels_that_were_not_bought_and_test_labels_change_no_query(tiny, digits, tmp_path):
    experiment = replace(tiny, seeds=1, comparisons=(replace(DROPOUT, strategies=(BALD,)),))
    run_experiment(experiment, tmp_path / "true", progress=Watch())
    true = events(tmp_path / "true", "mc_dropout/bald", 0)
    arrays = dict(np.load(digits))
    bought = [
        index for event in true if event["event"] in ("validation", "initial", "queried") for index in event["indices"]
    ]
    others = np.setdiff1d(np.arange(200), bought)
    arrays["labels"][others] = (arrays["labels"][others] + 1) % 10
    arrays["test_labels"] = (arrays["test_labels"] + 1) % 10
    np.savez(tmp_path / "poisoned.npz", **arrays)
    run_experiment(
        replace(experiment, data=config.Data(name=str(tmp_path / "poisoned.npz"))),
        tmp_path / "poisoned",
        progress=Watch(),
    )
    poisoned = events(tmp_path / "poisoned", "mc_dropout/bald", 0)
    assert [e for e in poisoned if e["event"] != "evaluated"] == [e for e in true if e["event"] != "evaluated"]
    assert of("evaluated", poisoned) != of("evaluated", true)


# -- what is refused before any training ------------------------------------------------------------------------------


def with_strategy(experiment, strategy):
    return replace(experiment, comparisons=(config.Comparison("mc_dropout", 4, (RANDOM, strategy)),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda e: with_strategy(e, config.Named("badl")),
            r"comparisons\.0\.strategies\.1: .*got 'badl' .*, expected one of",
        ),
        (lambda e: with_strategy(e, config.Named("bald", {"beta": 2})), "strategy bald: expected no options"),
        (lambda e: with_strategy(e, config.Named("power_bald", {"beta": "x"})), "expected a beta that is finite"),
        (lambda e: replace(e, model=config.Named("cnn")), r"cnn expects images of shape \(28, 28, 1\)"),
        (
            lambda e: replace(e, labels=config.Labels(budget=2000, initial=100)),
            "at most 200 labels to start with.* 500",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_training(tiny, tmp_path, monkeypatch, change, message):
    monkeypatch.setattr(runner, "programs_of", None)
    watch = Watch()
    with pytest.raises(ConfigError, match=message):
        run_experiment(change(tiny), tmp_path / "run", progress=watch)
    assert watch.compiled == []
    assert list(tmp_path.iterdir()) == []  # nothing in the way of the corrected run


def test_missing_data_and_another_experiment_in_the_directory(tiny, finished, tmp_path):
    with pytest.raises(DataNotFoundError, match=r"nowhere\.npz: no such file"):
        run_experiment(replace(tiny, data=config.Data(name=str(tmp_path / "nowhere.npz"))), tmp_path, progress=Watch())
    experiment, workdir, _ = finished
    before = files(workdir)
    with pytest.raises(ConfigError, match=r"holds another run .*training\.steps: 30 != 31"):
        run_experiment(replace(experiment, training=replace(experiment.training, steps=31)), workdir, progress=Watch())
    assert files(workdir) == before


@pytest.mark.parametrize(("model", "rate"), [(config.Named("cnn"), 0.5), (config.Named("cnn", {"dropout": 0.1}), 0.1)])
def test_dropout_reaches_the_network(monkeypatch, model, rate):
    seen = []

    class Watched(models.CNN):
        def __init__(self, *args, dropout, **kwargs):
            seen.append(dropout)
            super().__init__(*args, dropout=dropout, **kwargs)

    monkeypatch.setattr(sys.modules["bdal.models.cnn"], "CNN", Watched)
    source = datasets.from_arrays(np.zeros((20, 28, 28, 1), np.float32), np.arange(20) % 10)
    experiment = config.Experiment("x", (DROPOUT,), model=model, labels=config.Labels(budget=15, initial=5))
    found = prepare.prepare(experiment, data=source).model
    variables = found.init(jax.random.key(0))
    found.apply(variables, jax.random.key(1), source.inputs[0])
    assert found.train is not None
    found.train(variables, jax.random.key(1), source.inputs[:2])
    assert set(seen) == {rate}


# -- every way to stop, with programs that cost nothing ---------------------------------------------------------------


@pytest.fixture
def cheap(monkeypatch):
    monkeypatch.setattr(runner, "programs_of", made_up_programs)
    monkeypatch.setattr(runner.figures, "learning_curves", lambda rows, path, **_: None)


@pytest.fixture
def one(tiny):
    """One seed of one strategy."""
    return replace(tiny, seeds=1, comparisons=(replace(DROPOUT, strategies=(RANDOM,)),))


@pytest.fixture
def labels(digits):
    return np.load(digits)["labels"]


class Asked:
    """An oracle that records what it was asked, and may abstain."""

    def __init__(self, labels, abstains=lambda indices: np.zeros(len(indices), bool)):
        self.labels, self.abstains, self.calls = labels, abstains, []

    def __call__(self, indices):
        self.calls.append(np.asarray(indices).tolist())
        return np.where(self.abstains(np.asarray(indices)), ABSTAIN, self.labels[indices])


def some(indices):
    """Three points of ten."""
    return indices * 7 % 10 < 3


def stop_at(monkeypatch, append_number, error=KeyboardInterrupt):
    """Let the disk take so many events; the next one ends the process before it is written."""
    append, count = durable.append, [0]

    def counting(path, event):
        if count[0] == append_number:
            raise error
        count[0] += 1
        append(path, event)

    monkeypatch.setattr(durable, "append", counting)


def metrics(workdir):
    """Each ledger's metrics without seconds."""
    return {
        name: [{k: v for k, v in line.items() if k != "seconds"} for line in durable.read(workdir / name)]
        for name in files(workdir, "metrics.jsonl")
    }


def number_of_events(workdir):
    names = ("ledger.jsonl", "metrics.jsonl")
    return sum(content.count(b"\n") for name in names for content in files(workdir, name).values())


@pytest.mark.parametrize("together", [False, True])
def test_from_any_event_on_it_goes_on_to_the_same_bytes(cheap, tiny, tmp_path, together, monkeypatch):
    experiment = replace(tiny, together=together, comparisons=(replace(DROPOUT, strategies=(RANDOM,)),))
    run_experiment(experiment, tmp_path / "whole", progress=Watch())
    whole, measured, total = (
        files(tmp_path / "whole"),
        metrics(tmp_path / "whole"),
        number_of_events(tmp_path / "whole"),
    )
    assert total == SEEDS * (13 + 4)
    for number in range(0, total, 1 if together else 3):
        workdir = tmp_path / str(number)
        with monkeypatch.context() as patch:
            stop_at(patch, number)
            with pytest.raises(KeyboardInterrupt):
                run_experiment(experiment, workdir, progress=Watch())
        for content in files(workdir).values():
            assert any(complete.startswith(content) for complete in whole.values())
        run_experiment(experiment, workdir, progress=Watch())
        assert files(workdir) == whole, number
        assert metrics(workdir) == measured, number  # no round is lost, none is there twice


def test_seeds_that_finish_in_different_rounds_go_on_from_any_event_too(
    cheap, spied, tiny, labels, tmp_path, monkeypatch
):
    experiment = replace(
        tiny, seeds=3, together=True, comparisons=(replace(DROPOUT, strategies=(RANDOM,)),),
        labels=config.Labels(budget=BUDGET, initial=INITIAL, validation=0.2, abstain_cost=0),
    )  # fmt: skip
    run_experiment(experiment, tmp_path / "first", progress=Watch())
    start = events(tmp_path / "first", "mc_dropout/random", 1)[1]["indices"]

    def oracle(indices):
        return Asked(labels, lambda indices: some(indices) | np.isin(indices, start))(indices)

    spied.clear()
    run_experiment(experiment, tmp_path / "whole", progress=Watch(), oracle=oracle)
    whole, measured, total = (
        files(tmp_path / "whole"),
        metrics(tmp_path / "whole"),
        number_of_events(tmp_path / "whole"),
    )
    ends = [events(tmp_path / "whole", "mc_dropout/random", s)[-1]["round"] for s in range(3)]
    assert len(set(ends)) > 1
    assert spied.count((100, 4)) == 1 + len(set(ends))  # to compile it, and where a seed ends
    for s in range(3):  # its own last round is final, and no other
        *before, last = of("evaluated", events(tmp_path / "whole", "mc_dropout/random", s))
        assert not any("final" in event for event in before)
        assert last["final"]["nll"] == pytest.approx(last["nll"] + 1e-3)  # by one member more
    for number in range(0, total, 3):
        workdir = tmp_path / str(number)
        for stop in (number, 7):  # and once more, soon after
            with monkeypatch.context() as patch:
                stop_at(patch, stop)
                with pytest.raises(KeyboardInterrupt):
                    run_experiment(experiment, workdir, progress=Watch(), oracle=oracle)
            if total - number <= 7:
                break
        run_experiment(experiment, workdir, progress=Watch(), oracle=oracle)
        assert files(workdir) == whole, number
        assert metrics(workdir) == measured, number


def test_a_seed_that_finished_by_itself_is_not_touched_when_others_go_on(cheap, tiny, labels, tmp_path):
    experiment = replace(
        tiny, together=True, parameters="last", comparisons=(replace(DROPOUT, strategies=(RANDOM,)),)
    )  # fmt: skip
    run_experiment(experiment, tmp_path, progress=Watch())
    whole = files(tmp_path)
    done, behind = (tmp_path / "mc_dropout" / "random" / f"seed_{s}" for s in (0, 1))
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    assert len(before) > 4  # the parameters too
    for name in ("ledger.jsonl", "metrics.jsonl"):
        (behind / name).unlink()
    asked = Asked(labels)
    run_experiment(experiment, tmp_path, progress=Watch(), oracle=asked)
    assert files(tmp_path) == whole
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before
    assert sum(map(len, asked.calls)) == BUDGET  # of seed 1 only


@pytest.mark.parametrize("number", range(0, 17, 2))
def test_a_disk_that_is_full_for_a_while(cheap, one, tmp_path, monkeypatch, number):
    run_experiment(one, tmp_path / "whole", progress=Watch())
    sync, count = os.fsync, itertools.count()

    def full(handle):
        if next(count) == number + 6:  # after the files of the directory itself
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device"):
            run_experiment(one, tmp_path / "full", progress=Watch())
    for name, content in files(tmp_path / "full").items():
        durable.read(tmp_path / "full" / name)
        assert files(tmp_path / "whole")[name].startswith(content)
    run_experiment(one, tmp_path / "full", progress=Watch())
    assert files(tmp_path / "full") == files(tmp_path / "whole")
    assert metrics(tmp_path / "full") == metrics(tmp_path / "whole")


def test_parameters_of_the_last_committee_are_there_whenever_it_is_finished(cheap, one, tmp_path, monkeypatch):
    one = replace(one, parameters="last")
    run_experiment(one, tmp_path / "whole", progress=Watch())

    def kept(workdir):
        return parameters.restore_leaves(workdir / "mc_dropout" / "random" / "seed_0" / "parameters")

    total = number_of_events(tmp_path / "whole")
    for number in (total - 3, total - 2, total - 1):  # before "evaluated", the metrics, and "finished"
        workdir = tmp_path / str(number)
        with monkeypatch.context() as patch:
            stop_at(patch, number)
            with pytest.raises(KeyboardInterrupt):
                run_experiment(one, workdir, progress=Watch())
        assert not of("finished", events(workdir, "mc_dropout/random", 0))
        run_experiment(one, workdir, progress=Watch())
        assert files(workdir) == files(tmp_path / "whole")
        assert kept(workdir) == kept(tmp_path / "whole")
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("parameters/*")}
    run_experiment(one, workdir, progress=Watch())  # a finished one keeps them as they are
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("parameters/*")} == before


def rewrite(path, ledger):
    """A ledger of these events, as if they had been written one after the other."""
    path.unlink(missing_ok=True)
    for event in ledger:
        durable.append(path, event)
    shorten_metrics(path)


def shorten_metrics(path):
    """The metrics as they were when the ledger at `path` was as long as it is now."""
    whole = path.read_bytes().rpartition(b"\n")[0]
    metrics, rounds = path.with_name("metrics.jsonl"), whole.count(b'{"event": "evaluated"')
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(keepends=True)[:rounds]))


@pytest.mark.parametrize("together", [False, True])
def test_a_torn_line_is_cut_off_and_written_again(cheap, tiny, tmp_path, together):
    experiment = replace(tiny, together=together)
    run_experiment(experiment, tmp_path, progress=Watch())
    whole = files(tmp_path)
    torn = tmp_path / "mc_dropout" / "bald" / "seed_1" / "ledger.jsonl"
    content = torn.read_bytes()
    for size in range(1, len(content), 211):
        torn.write_bytes(content[:size])
        if content[:size].endswith(b"\n"):
            continue
        shorten_metrics(torn)
        with pytest.warns(UserWarning, match=r"ledger\.jsonl: line \d+ was cut off by a crash and is left out"):
            run_experiment(experiment, tmp_path, progress=Watch())
        assert files(tmp_path) == whole


def test_a_damaged_ledger_is_refused_and_left_as_it_is(cheap, tiny, tmp_path):
    run_experiment(tiny, tmp_path, progress=Watch())
    path = tmp_path / "mc_dropout" / "bald" / "seed_1" / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    edited = lines[3].replace(b'"indices": [', b'"indices": [1')
    for number, damaged in (
        (3, lines[:2] + lines[3:5]),  # "evaluated" is missing
        (2, [lines[0], *lines[2:5]]),
        (4, [*lines[:3], edited, lines[4]]),
        (6, [*lines[:5], lines[4]]),
    ):
        path.write_bytes(b"".join(damaged))
        with pytest.raises(directory.CorruptRunError, match=rf"seed_1/ledger\.jsonl: line {number}: its checksum"):
            run_experiment(tiny, tmp_path, progress=Watch())
        assert path.read_bytes() == b"".join(damaged)


def test_another_seeds_or_methods_ledger_is_refused_and_left_as_it_is(cheap, tiny, tmp_path):
    run_experiment(tiny, tmp_path, progress=Watch())
    own = files(tmp_path)
    ours = tmp_path / "mc_dropout" / "bald" / "seed_1" / "ledger.jsonl"
    for other in ("mc_dropout/bald/seed_0/ledger.jsonl", "mc_dropout/random/seed_1/ledger.jsonl"):
        ours.write_bytes(own[other])
        method, seed = other.split("/seed_")
        found = rf"expected that of run .*, method mc_dropout/bald, seed 1, found that of .*{method}, seed {seed[0]}"
        with pytest.raises(directory.CorruptRunError, match=found):
            run_experiment(tiny, tmp_path, progress=Watch())
        with pytest.raises(directory.CorruptRunError, match=found):
            directory.results(tmp_path)
        assert ours.read_bytes() == own[other]
    # one that says it is this seed's, and starts with the points of another, is none either
    whose = directory.owner(tmp_path, "mc_dropout/bald", 1)
    first, *rest = durable.read(tmp_path / "mc_dropout" / "bald" / "seed_0" / "ledger.jsonl")
    rewrite(ours, [first | whose, *rest])
    with pytest.raises(directory.CorruptRunError, match="'validation': expected the points with which seed 1 of this"):
        run_experiment(tiny, tmp_path, progress=Watch())
    ours.write_bytes(own["mc_dropout/bald/seed_1/ledger.jsonl"])
    run_experiment(tiny, tmp_path, progress=Watch())
    assert files(tmp_path) == own


def test_what_the_ledger_says_was_labelled_is_not_asked_again(cheap, tiny, tmp_path):
    experiment = replace(tiny, seeds=1, comparisons=(replace(DROPOUT, strategies=(RANDOM,)),))
    run_experiment(experiment, tmp_path, progress=Watch())
    path = tmp_path / "mc_dropout" / "random" / "seed_0" / "ledger.jsonl"
    ledger = durable.read(path)
    labelled = ledger[4] | {"labels": [9 - ledger[4]["labels"][0], *ledger[4]["labels"][1:]]}
    rewrite(path, [*ledger[:4], labelled])  # a person's answer that differs from the data set's
    run_experiment(experiment, tmp_path, progress=Watch())
    again = durable.read(path)
    assert again[4] == labelled
    assert again[5]["accuracy"] != ledger[5]["accuracy"]  # the model was fitted to that answer
    assert len(again) == len(ledger)


def test_what_one_seed_of_a_program_was_asked_and_told_holds_when_another_lags(cheap, tiny, tmp_path):
    experiment = replace(tiny, together=True, comparisons=(replace(DROPOUT, strategies=(RANDOM,)),))
    run_experiment(experiment, tmp_path, progress=Watch())
    ahead, behind = (tmp_path / "mc_dropout" / "random" / f"seed_{s}" / "ledger.jsonl" for s in (0, 1))
    ledger = durable.read(ahead)
    rewrite(behind, durable.read(behind)[:3])
    before = {index for event in ledger[:2] for index in event["indices"]}
    asked = sorted(set(range(200)) - before)[:10]  # other points than the program would choose
    told = {"event": "labelled", "round": 0, "indices": asked, "labels": [7] * 10}
    queried = {"event": "queried", "round": 0, "indices": asked}
    kept = [*ledger[:3], queried, told]
    accuracies = [ledger[5]["accuracy"]]
    for size in (len(kept), len(kept) - 1):
        rewrite(ahead, kept[:size])
        run_experiment(experiment, tmp_path, progress=Watch())
        again = durable.read(ahead)
        assert again[3] == queried
        assert again[4]["indices"] == asked
        assert (again[4] == told) == (size == len(kept))
        accuracies.append(again[5]["accuracy"])
        assert of("finished", events(tmp_path, "mc_dropout/random", 1))
    assert len(set(accuracies)) == 3  # the model was fitted to what was told


@pytest.mark.parametrize("together", [False, True])
def test_initial_sets_are_paired_across_strategies_and_posteriors(cheap, tiny, tmp_path, together):
    run_experiment(
        replace(tiny, together=together, seeds=3, comparisons=(DROPOUT, ENSEMBLE)), tmp_path, progress=Watch()
    )
    starts = [
        [anyones(durable.read(tmp_path / name))[:2] for name in files(tmp_path) if f"seed_{s}" in name]
        for s in range(3)
    ]
    for same in starts:
        assert len(same) == 4
        assert all(start == same[0] for start in same)
    assert starts[0][0] != starts[1][0] != starts[2][0]


def test_an_exhausted_pool_ends_the_run_and_says_so(cheap, tiny, tmp_path):
    labels = config.Labels(budget=250, initial=10, validation=0.2)  # 200 points in the pool
    experiment = replace(tiny, seeds=1, labels=labels, query=config.Query(size=60))
    watch = Watch()
    run_experiment(experiment, tmp_path, progress=watch)
    assert "mc_dropout/random: the last query has 20 points: the pool has no more" in watch.lines
    ended = [line for line in watch.lines if "ended" in line]
    assert len(ended) == len(experiment.comparisons[0].strategies)
    assert all(line.endswith(" s, ended: exhausted") for line in ended)
    ledger = events(tmp_path, "mc_dropout/random", 0)
    assert ledger[-1] == {"event": "finished", "round": 3, "reason": "exhausted"}
    assert [len(event["indices"]) for event in of("queried", ledger)] == [60, 60, 20]
    assert of("evaluated", ledger)[-1]["final"]["points"] == 100
    run_experiment(experiment, tmp_path, progress=Watch())
    assert events(tmp_path, "mc_dropout/random", 0) == ledger


def test_the_start_may_be_balanced_and_validation_is_a_fifth_of_the_budget(cheap, tiny, tmp_path):
    experiment = replace(tiny, labels=config.Labels(budget=50, initial=20, balanced=True))
    run_experiment(experiment, tmp_path, progress=Watch())
    for seed in range(SEEDS):
        validation, initial = events(tmp_path, "mc_dropout/random", seed)[:2]
        assert len(validation["indices"]) == 10
        assert np.bincount(initial["labels"], minlength=10).tolist() == [2] * 10
        assert not set(validation["indices"]) & set(initial["indices"])


def test_no_validation_and_no_initial_labels(cheap, tiny, tmp_path):
    run_experiment(
        replace(tiny, labels=config.Labels(budget=20, initial=0, validation=0.0)), tmp_path, progress=Watch()
    )
    ledger = events(tmp_path, "mc_dropout/random", 0)
    assert [ledger[0]["indices"], ledger[1]["indices"]] == [[], []]
    assert [event["labels"] for event in of("evaluated", ledger)] == [0, 10, 20]


# -- oracles ----------------------------------------------------------------------------------------------------------


def test_the_oracle_is_asked_once_for_each_label_and_in_the_order_of_the_ledger(cheap, one, labels, tmp_path):
    asked = Asked(labels)
    run_experiment(one, tmp_path, progress=Watch(), oracle=asked)
    ledger = events(tmp_path, "mc_dropout/random", 0)
    assert asked.calls == [e["indices"] for e in ledger if e["event"] in ("validation", "initial", "labelled")]
    again = Asked(labels)
    run_experiment(one, tmp_path, progress=Watch(), oracle=again)
    assert again.calls == []


@pytest.mark.parametrize("number", [2, 3])
def test_between_queried_and_labelled_the_same_query_is_asked_again(cheap, one, labels, tmp_path, number, monkeypatch):
    """`number`: the labels bought before are the start's and those of a round."""
    asked, again = Asked(labels), Asked(labels)
    record = durable.append

    def crash(path, event):
        if event.get("event") == "labelled" and len(asked.calls) == number + 1:
            raise KeyboardInterrupt  # the oracle has answered, the answer is not on disk
        record(path, event)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "append", crash)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(one, tmp_path, progress=Watch(), oracle=asked)
    ledger = events(tmp_path, "mc_dropout/random", 0)
    assert ledger[-1] == {"event": "queried", "round": number - 2, "indices": asked.calls[-1]}
    monkeypatch.setattr(runner, "step_key", lambda key, r, purpose: jax.random.key(r))  # a selection anew would differ
    run_experiment(one, tmp_path, progress=Watch(), oracle=again)
    assert again.calls[0] == asked.calls[-1]
    bought = Counter(itertools.chain(*asked.calls, *again.calls))
    assert {index for index, times in bought.items() if times > 1} == set(asked.calls[-1])
    assert events(tmp_path, "mc_dropout/random", 0)[: len(ledger)] == ledger


@pytest.mark.parametrize("error", [RuntimeError("the line is dead"), TimeoutError("no answer"), KeyboardInterrupt()])
def test_an_oracle_that_raises_leaves_the_round_at_queried(cheap, one, labels, tmp_path, error):
    run_experiment(one, tmp_path / "whole", progress=Watch())
    calls = []

    def answers(indices):
        calls.append(indices.tolist())
        found = []
        for index in indices:
            if len(calls) == 4 and len(found) == 2:  # the third item of the second query
                raise error
            found.append(labels[index])
        return np.array(found)

    with pytest.raises(type(error)):
        run_experiment(one, tmp_path / "run", progress=Watch(), oracle=answers)
    assert events(tmp_path / "run", "mc_dropout/random", 0)[-1] == {
        "event": "queried", "round": 1, "indices": calls[-1],
    }  # fmt: skip
    assert not (tmp_path / "run" / "run.lock").exists()
    again = Asked(labels)
    run_experiment(one, tmp_path / "run", progress=Watch(), oracle=again)
    assert again.calls[0] == calls[-1]
    assert files(tmp_path / "run") == files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda answer: answer[:-1], r"expected one for each of the 10 queried points .* got shape \(9,\)"),
        (lambda answer: np.append(answer, 3), r"expected one for each of the 10 queried points .* got shape \(11,\)"),
        (lambda answer: answer * 0 + 10, r"expected a class in \[0, 10\), got 10 for pool point \d+"),
        (lambda answer: answer * 0 - 1, r"expected a class in \[0, 10\), got -1 for pool point \d+"),
        (lambda answer: answer + 0.5, "expected integer classes"),
        (lambda answer: [None] * len(answer), "expected integer classes, got None for pool point"),
        (lambda answer: None, "expected one for each of the 10 queried points"),
    ],
)
def test_a_wrong_answer_is_refused_and_nothing_of_it_is_written(cheap, one, labels, tmp_path, wrong, message):
    run_experiment(one, tmp_path / "whole", progress=Watch())
    calls = []

    def oracle(indices):
        calls.append(indices.tolist())
        return wrong(labels[indices]) if len(calls) == 4 else labels[indices]

    with pytest.raises(LabelError, match=message):
        run_experiment(one, tmp_path / "run", progress=Watch(), oracle=oracle)
    assert events(tmp_path / "run", "mc_dropout/random", 0)[-1] == {
        "event": "queried", "round": 1, "indices": calls[-1],
    }  # fmt: skip
    run_experiment(one, tmp_path / "run", progress=Watch(), oracle=oracle)
    assert calls[4] == calls[3]
    assert files(tmp_path / "run") == files(tmp_path / "whole")


@pytest.mark.parametrize("cost", [0, 1])
def test_abstentions_are_recorded_charged_as_agreed_and_not_asked_again(cheap, one, labels, tmp_path, cost):
    one = replace(one, labels=replace(one.labels, abstain_cost=cost))
    asked = Asked(labels, some)
    run_experiment(one, tmp_path, progress=Watch(), oracle=asked)
    ledger = events(tmp_path, "mc_dropout/random", 0)
    every = list(itertools.chain(*asked.calls))
    assert len(set(every)) == len(every)  # nothing is asked twice, whatever the answer was
    for event in ledger:
        if "labels" in event and "indices" in event:
            told = [None if some(np.array(index)) else labels[index] for index in event["indices"]]
            assert event["labels"] == told
    training = [index for call in asked.calls[1:] for index in call]
    given = [index for index in training if not some(np.array(index))]
    assert 0 < len(given) < len(training)
    paid = len(given) + cost * (len(training) - len(given))
    assert paid == one.labels.training_labels == 32
    last = of("evaluated", ledger)[-1]
    assert (last["labels"], last["abstained"]) == (len(given), len(training) - len(given))
    assert ledger[-1]["reason"] == "budget"
    (row,) = [row for row in directory.results(tmp_path) if row.labels == paid]
    assert (row.abstained, row.validation_labels) == (len(training) - len(given), VALIDATION)


def test_an_oracle_that_abstains_is_as_good_as_the_points_that_it_answers(cheap, one, labels, tmp_path):
    """What was abstained on reaches no training and no validation set."""
    seen = []

    def programs(*arguments):
        made = made_up_programs(*arguments)

        def fit(keys, labelled, validation, pool):
            for known, size in ((labelled[0], int(labelled[0].count)), (validation[0], VALIDATION)):
                indices = known.indices[:size]
                assert not some(indices).any()
                assert known.labels[:size].tolist() == labels[indices].tolist()
            seen.append((set(validation[0].indices.tolist()), int(validation[0].count)))
            return made.fit(keys, labelled, validation, pool)

        def query(strategy, keys, committee, labelled, validation, excluded, pool):
            ledger = events(tmp_path, "mc_dropout/random", 0)
            known = [event for event in ledger if "labels" in event and "indices" in event]
            closed = set(known[0]["indices"])
            closed |= {i for e in known for i, label in zip(e["indices"], e["labels"], strict=True) if label is None}
            assert set(np.flatnonzero(excluded[0])) == closed
            return made.query(strategy, keys, committee, labelled, validation, excluded, pool)

        return made._replace(fit=fit, query=query)

    runner.programs_of = programs  # `cheap` puts the real ones back
    run_experiment(one, tmp_path, progress=Watch(), oracle=Asked(labels, some))
    held_out = events(tmp_path, "mc_dropout/random", 0)[0]
    given = {index for index, label in zip(held_out["indices"], held_out["labels"], strict=True) if label is not None}
    assert 0 < len(given) < VALIDATION
    assert seen == [(given, VALIDATION)] * 4  # some of them twice, so that no shape changes


def test_an_oracle_that_never_answers(cheap, one, labels, tmp_path):
    with pytest.raises(LabelError, match=r"seed_0: expected a label for at least one of 8 points for validation"):
        run_experiment(
            one, tmp_path / "validation", progress=Watch(), oracle=Asked(labels, lambda indices: indices >= 0)
        )
    for cost, reason, queries in ((1, "budget", 3), (0, "exhausted", 20)):
        one = replace(one, labels=config.Labels(budget=32, initial=2, validation=0.0, abstain_cost=cost))
        run_experiment(one, tmp_path / reason, progress=Watch(), oracle=Asked(labels, lambda indices: indices >= 0))
        ledger = events(tmp_path / reason, "mc_dropout/random", 0)
        assert (ledger[-1]["reason"], len(of("queried", ledger))) == (reason, queries)
        assert {event["labels"] for event in of("evaluated", ledger)} == {0}


def test_a_run_with_abstentions_goes_on_from_any_event(cheap, one, labels, tmp_path, monkeypatch):
    run_experiment(one, tmp_path / "whole", progress=Watch(), oracle=Asked(labels, some))
    for number in range(number_of_events(tmp_path / "whole")):
        workdir = tmp_path / str(number)
        with monkeypatch.context() as patch:
            stop_at(patch, number)
            with pytest.raises(KeyboardInterrupt):
                run_experiment(one, workdir, progress=Watch(), oracle=Asked(labels, some))
        run_experiment(one, workdir, progress=Watch(), oracle=Asked(labels, some))
        assert files(workdir) == files(tmp_path / "whole"), number


@pytest.mark.parametrize("policy", ["last", "majority"])
def test_contradicting_answers_are_all_kept_and_settled_by_the_policy(cheap, one, labels, tmp_path, policy):
    one = replace(one, labels=replace(one.labels, contradictions=policy))
    run_experiment(one, tmp_path, progress=Watch())
    path = tmp_path / "mc_dropout" / "random" / "seed_0" / "ledger.jsonl"
    ledger = durable.read(path)
    told, (point, *_), (label, *_) = ledger[4], ledger[4]["indices"], ledger[4]["labels"]
    other = (label + 1) % 10
    by_file = {"source": {"file": "answers.csv", "sha256": "77"}}
    more = {"event": "labelled", "round": 0, "indices": [point] * 3, "labels": [other, label, other]} | by_file

    def accuracies(*events):
        rewrite(path, [*ledger[:4], *events])
        run_experiment(one, tmp_path, progress=Watch())
        assert durable.read(path)[4 : 4 + len(events)] == list(events)
        return [event["accuracy"] for event in of("evaluated", durable.read(path))]

    changed = told | {"labels": [other, *told["labels"][1:]]}
    before, with_other = accuracies(told), accuracies(changed)
    assert before != with_other
    assert accuracies(told, more) == with_other  # 2 to 2, the last one
    tie = more | {"indices": [point], "labels": [other]}
    assert accuracies(told, tie) == with_other
    twice = more | {"indices": [point] * 2, "labels": [label, other]}
    assert accuracies(told, twice) == (with_other if policy == "last" else before)


# -- the world around -------------------------------------------------------------------------------------------------


def test_another_config_data_set_or_environment_is_refused_or_recorded(cheap, one, digits, tmp_path, monkeypatch):
    other = tmp_path / "other" / "digits.npz"
    other.parent.mkdir()
    arrays = dict(np.load(digits))
    arrays["labels"][17] = (arrays["labels"][17] + 1) % 10
    np.savez(other, **arrays)
    workdir = tmp_path / "run"
    monkeypatch.setattr(directory, "versions", lambda: {"jax": "1"})
    run_experiment(one, workdir, progress=Watch())
    for change, env, differs in (
        ({"training": replace(one.training, steps=31)}, {"jax": "1"}, r"training\.steps: 30 != 31"),
        ({}, {"jax": "2"}, r"jax: 1 != 2"),
    ):
        changed = replace(one, **change)
        monkeypatch.setattr(directory, "versions", lambda env=env: env)
        before = files(workdir)
        with pytest.raises(ConfigError, match=rf"holds another run \(there != now\): {differs}; choose another"):
            run_experiment(changed, workdir, progress=Watch())
        with pytest.warns(UserWarning, match=rf"^goes on although it differs \(there != now\): {differs}$"):
            run_experiment(changed, workdir, progress=Watch(), allow_mismatch=True)
        assert re.fullmatch(differs, directory.identity_of(workdir)["mismatches"][-1])
        assert re.search(differs, durable.read(workdir / "warnings.jsonl")[-1]["message"])
        assert files(workdir) == before
        run_experiment(changed, workdir, progress=Watch())
        one = changed
    assert len(directory.identity_of(workdir)["mismatches"]) == 2
    on_other = replace(one, data=config.Data(name=str(other)))
    before = files(workdir)
    for allowed in (False, True):  # the labels in the ledger would be those of other points
        with pytest.raises(ConfigError, match=r"cannot change \(there != now\): data: [0-9a-f]{12} != [0-9a-f]{12}; "):
            run_experiment(on_other, workdir, progress=Watch(), allow_mismatch=allowed)
    assert files(workdir) == before


def test_hosts_are_compared_by_config_and_data_before_anything_is_written(cheap, one, tmp_path, monkeypatch):
    seen = []

    def disagree(digest):
        seen.append(digest)
        raise ConfigError("hosts: expected the same")

    monkeypatch.setattr(prepare, "check_hosts_agree", disagree)
    for changed in (one, replace(one, seed=1), replace(one, data=replace(one.data, pool=150))):
        with pytest.raises(ConfigError, match="hosts: expected the same"):
            run_experiment(changed, tmp_path / "run", progress=Watch())
    assert not (tmp_path / "run").exists()
    assert len(set(seen)) == 3
    assert all(config.digest(one) in digest for digest in seen[:1])
    assert data.load(one).fingerprint in seen[0]


def test_a_clock_that_jumps_changes_nothing(cheap, one, tmp_path, monkeypatch):
    run_experiment(one, tmp_path / "whole", progress=Watch())
    hours = itertools.count(10**9, -3600)

    class Backwards(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(next(hours), tz)

    monkeypatch.setattr(time, "time", lambda: next(hours))
    monkeypatch.setattr(time, "time_ns", lambda: next(hours) * 10**9)
    monkeypatch.setattr(lock, "datetime", Backwards)
    run_experiment(one, tmp_path / "back", progress=Watch())
    assert files(tmp_path / "back") == files(tmp_path / "whole")
    for name in files(tmp_path / "back", "metrics.jsonl"):
        for line in durable.read(tmp_path / "back" / name):
            assert all(0 <= seconds < 60 for seconds in line["seconds"].values())


def test_a_relative_directory_is_resolved_once(cheap, one, tmp_path, monkeypatch):
    for place in ("here", "elsewhere"):
        (tmp_path / place).mkdir()
    monkeypatch.chdir(tmp_path / "here")

    class Moving(Watch):
        def stage(self, text):
            monkeypatch.chdir(tmp_path / "elsewhere")
            super().stage(text)

    assert run_experiment(one, "runs/x", progress=Moving()) == tmp_path / "here" / "runs" / "x"
    assert of("finished", events(tmp_path / "here" / "runs" / "x", "mc_dropout/random", 0))
    assert (tmp_path / "here" / "runs" / "x" / "table.md").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_directory_that_cannot_be_one_is_refused_before_training(cheap, one, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    watch = Watch()
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="cannot be used as a run directory"):
            run_experiment(one, workdir, progress=watch)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"cannot be used as a run directory: .*no permission to write"):
        run_experiment(one, tmp_path / "read_only", progress=watch)
    assert watch.lines == watch.compiled == []
    assert (tmp_path / "file").read_text() == "mine"


def test_warnings_are_kept_once_with_where_they_came_from(cheap, one, labels, tmp_path):
    rounds = []

    def oracle(indices):
        warnings.warn("the annotator is\n  tired", RuntimeWarning, stacklevel=1)
        if len(rounds) == 3:
            warnings.warn("and bored", UserWarning, stacklevel=1)
        rounds.append(indices)
        return labels[indices]

    with pytest.warns(RuntimeWarning, match="tired"), pytest.warns(UserWarning, match="bored"):
        run_experiment(one, tmp_path, progress=Watch(), oracle=oracle)
    for name in ("ledger.jsonl", "metrics.jsonl"):
        (tmp_path / "mc_dropout" / "random" / "seed_0" / name).unlink()
    with pytest.warns(RuntimeWarning, match="tired"):  # again shown, not again written
        run_experiment(one, tmp_path, progress=Watch(), oracle=oracle)
    assert durable.read(tmp_path / "warnings.jsonl") == [
        {"where": "mc_dropout/random, start", "category": "RuntimeWarning", "message": "the annotator is tired"},
        {"where": "mc_dropout/random, round 1", "category": "UserWarning", "message": "and bored"},
    ]


def test_a_pool_without_labels_needs_an_oracle(cheap, one, digits, labels, tmp_path):
    arrays = dict(np.load(digits))
    unlabelled = tmp_path / "unlabelled.npz"
    np.savez(unlabelled, **{name: part for name, part in arrays.items() if name != "labels"})
    one = replace(one, data=config.Data(str(unlabelled), classes=tuple("0123456789")))
    with pytest.raises(
        ConfigError, match=r"labels\.oracle: expected people for .*unlabelled\.npz, which has no labels"
    ):
        run_experiment(one, tmp_path / "run", progress=Watch())
    assert not (tmp_path / "run").exists()
    run_experiment(one, tmp_path / "run", progress=Watch(), oracle=labels.__getitem__)
    assert of("finished", events(tmp_path / "run", "mc_dropout/random", 0))


def test_who_answers_is_one_or_the_other(cheap, one, digits, labels, tmp_path):
    people = replace(one, labels=replace(one.labels, oracle="people"))
    with pytest.raises(
        ConfigError, match=r"labels\.oracle: expected simulated, for an oracle of one's own, found people"
    ):
        run_experiment(people, tmp_path / "run", progress=Watch(), oracle=labels.__getitem__)
    arrays = dict(np.load(digits))
    np.savez(tmp_path / "unlabelled.npz", **{name: part for name, part in arrays.items() if name != "labels"})
    unlabelled = config.Data(str(tmp_path / "unlabelled.npz"), classes=tuple("0123456789"))
    balanced = replace(one, data=unlabelled, labels=replace(one.labels, balanced=True))
    with pytest.raises(ConfigError, match=r"labels\.balanced: expected false for .*, which has no labels, found true"):
        run_experiment(balanced, tmp_path / "run", progress=Watch(), oracle=labels.__getitem__)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("together", [False, True])
def test_without_a_test_set_it_is_evaluated_on_the_labels_for_validation(
    cheap, tiny, digits, labels, tmp_path, together
):
    np.savez(tmp_path / "pool.npz", **{name: np.load(digits)[name] for name in ("inputs", "labels")})
    experiment = replace(tiny, together=together, data=config.Data(str(tmp_path / "pool.npz")))
    run_experiment(experiment, tmp_path / "run", progress=Watch(), oracle=Asked(labels, some))
    for seed in range(SEEDS):
        ledger = events(tmp_path / "run", "mc_dropout/bald", seed)
        given = sum(label is not None for label in ledger[0]["labels"])
        assert {(event["on"], event["points"]) for event in of("evaluated", ledger)} == {("validation", given)}
