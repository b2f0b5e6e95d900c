"""What a run directory says of its run, and what is refused there."""

import errno
import json
import os
from dataclasses import replace

import jax
import numpy as np
import pytest

from bdal.config import Comparison, Data, Experiment, Labels, Named, Query, Training, load
from bdal.errors import ConfigError
from bdal.store import directory
from bdal.store.directory import Row, results, seed_runs, write_run
from bdal.store.durable import CorruptRunError, append
from bdal.store.ledger import Ledger
from tests.store.test_durable import EVENTS, ledger_of


def experiment(**changes) -> Experiment:
    strategies = (Named("random"), Named("power_bald", {"beta": 4}))
    return Experiment("small", (Comparison("mc_dropout", 5, strategies),), seeds=2, **changes)


def test_write_run(tmp_path):
    workdir = tmp_path / "runs" / "small"
    write_run(workdir, experiment(), {"labels": "sha", "count": np.int64(3)})
    assert load(workdir / "config.yaml") == experiment()
    run = json.loads((workdir / "run.json").read_text())
    assert run["data"] == {"labels": "sha", "count": 3}
    assert run["chunk_size"] == 1024
    assert run["versions"].keys() == {"python", "bdal", "jax", "jaxlib", "flax", "optax", "numpy"}
    assert {"config", "backend", "device_kind", "devices"} < run.keys()
    assert "facts" not in run
    folders = {str(path.relative_to(workdir)) for path in workdir.glob("*/*/*")}
    assert folders == {f"mc_dropout/{name}/seed_{s}" for name in ("random", "power_bald-beta-4") for s in (0, 1)}

    before = {path: path.read_bytes() for path in workdir.glob("*.*")}
    write_run(workdir, experiment(), {"labels": "sha", "count": 3})  # the same again: nothing changes
    assert {path: path.read_bytes() for path in workdir.glob("*.*")} == before


def contents(workdir) -> dict:
    return {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


def other_versions(monkeypatch):
    versions = directory.versions()
    monkeypatch.setattr(directory, "versions", lambda: versions | {"jax": "99.0"})
    return f"jax: {versions['jax']} != 99.0"


def other_devices(monkeypatch):
    one = jax.devices()[0]
    monkeypatch.setattr(jax, "devices", lambda: [one] * 3)
    return "devices: 1 != 3"


def other_backend(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "abacus")
    return "backend: cpu != abacus"


def other_threads(monkeypatch):
    """XLA divides its sums among them."""
    there = directory.run_identity(experiment(), "data")["threads"]
    monkeypatch.setenv("NPROC", "77")
    return f"threads: {there} != 77"


CHANGES = {
    "seed": ({"seed": 3}, "data", "seed: 0 != 3"),
    "labels": ({"labels": Labels(budget=160)}, "data", "labels.budget: 150 != 160"),
    "chunk size": ({"query": Query(chunk_size=64)}, "data", "query.chunk_size: 1024 != 64"),
    "data": ({}, "other", "data: data != other"),
    "jax": ({}, "data", other_versions),
    "devices": ({}, "data", other_devices),
    "backend": ({}, "data", other_backend),
    "threads": ({}, "data", other_threads),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_run_is_refused_with_what_differs_unless_allowed(tmp_path, monkeypatch, name):
    changes, data, differs = CHANGES[name]
    first = write_run(tmp_path, experiment(), "data", facts={"points": 7})
    assert first == []
    before = contents(tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    if callable(differs):
        differs = differs(monkeypatch)
    with pytest.raises(ConfigError) as caught:
        write_run(tmp_path, experiment(**changes), data)
    assert str(caught.value) == (
        f"{tmp_path}: holds another run (there != now): {differs}; choose another directory, or go on all the "
        "same with --allow-mismatch of bdal run, which the report will say"
    )
    assert contents(tmp_path) == before

    assert write_run(tmp_path, experiment(**changes), data, allow_mismatch=True) == [differs]
    then = json.loads((tmp_path / "run.json").read_text())
    assert then.pop("mismatches") == [differs]
    (later,) = then.pop("later")
    threads = set() if name == "backend" else {"threads"}
    assert {"backend", "device_kind", "devices", "versions"} | threads == later.keys()
    assert then.pop("facts") == {"points": 7}
    now = directory.run_identity(experiment(**changes), data)
    for field in ("config", "experiment", "data", "chunk_size"):
        assert then[field] == json.loads(json.dumps(now[field]))
    assert {field: then[field] for field in later} == {field: run[field] for field in later}  # where it began
    assert load(tmp_path / "config.yaml") == experiment(**changes)

    before = contents(tmp_path)
    assert write_run(tmp_path, experiment(**changes), data) == []  # from now on it is this run
    assert write_run(tmp_path, experiment(**changes), data, allow_mismatch=True) == []
    assert contents(tmp_path) == before


def keep(workdir, strategy, seed, events, lines=()):
    """A seed's ledger and metrics, with points of its own to start with, as a run writes them; its events."""
    folder = workdir / "mc_dropout" / strategy / f"seed_{seed}"
    ledger = Ledger(seed, folder, directory.owner(workdir, f"mc_dropout/{strategy}", seed))
    for event in events:
        own = {"indices": [index + 10 * seed for index in event["indices"]]} if "indices" in event else {}
        ledger.add(event | own)
    for line in lines:
        append(folder / "metrics.jsonl", ledger.owner | line)
    return ledger.events


def buy(workdir, strategy="random"):
    append(workdir / "mc_dropout" / strategy / "seed_0" / "ledger.jsonl", EVENTS[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 3}, {"labels": Labels(budget=160)}, {"labels": Labels(validation=0.3)}, {"data": Data(pool=99)},
        {"data": Data(name="mnist")}, {"data": Data(classes=("a", "b"))}, {},
    ],
)  # fmt: skip
def test_what_labels_were_bought_for_cannot_change(tmp_path, changes):
    write_run(tmp_path, experiment(), "data")
    buy(tmp_path)
    before = contents(tmp_path)
    for allowed in (False, True):
        with pytest.raises(ConfigError, match=r"were asked for cannot change \(there != now\): .*; bring it back"):
            write_run(tmp_path, experiment(**changes), "data" if changes else "other data", allow_mismatch=allowed)
    assert contents(tmp_path) == before
    other = experiment(query=Query(chunk_size=64), data=Data(test=99))
    with pytest.raises(ConfigError, match="choose another directory, or go on all the same with --allow-mismatch"):
        write_run(tmp_path, other, "data")
    assert write_run(tmp_path, other, "data", allow_mismatch=True)


def by_people(strategy="random", members=5, **changes) -> Experiment:
    comparison = Comparison("mc_dropout", members, (Named(strategy),))
    return Experiment("small", (comparison,), labels=Labels(oracle="people"), **({"seeds": 1} | changes))


def test_what_people_answered_stays_where_it_is_looked_for(tmp_path):
    write_run(tmp_path, by_people(), "data")
    buy(tmp_path)
    for other in (by_people("margin"), by_people(first_seed=1)):
        with pytest.raises(ConfigError, match="were asked for cannot change"):
            write_run(tmp_path, other, "data", allow_mismatch=True)
    assert write_run(tmp_path, by_people(members=9), "data", allow_mismatch=True)


def test_a_config_that_was_edited_by_hand_is_held_against_what_began(tmp_path):
    write_run(tmp_path, by_people(), "data")
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("budget: 150", "budget: 200"))
    for labels in (False, True):
        if labels:
            buy(tmp_path)
        with pytest.raises(ConfigError, match=r"labels\.budget: 150 != 200"):
            directory.check_same(tmp_path, load(path), "data")
    path.write_text(path.read_text().replace("budget: 200", "budget: 150"))
    directory.check_same(tmp_path, load(path), "data")


def test_without_the_files_that_say_what_a_run_is_nothing_goes_on(tmp_path):
    write_run(tmp_path, experiment(), "data")
    buy(tmp_path)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="data: data != other"):
        write_run(tmp_path, experiment(), "other", allow_mismatch=True)
    assert write_run(tmp_path, experiment(), "data") == []
    assert load(tmp_path / "config.yaml") == experiment()
    (tmp_path / "run.json").unlink()
    with pytest.raises(CorruptRunError, match=r"has ledgers and no run\.json"):
        write_run(tmp_path, experiment(), "data", allow_mismatch=True)


def test_data_that_lies_elsewhere_is_no_other_data(tmp_path):
    write_run(tmp_path, experiment(data=Data(name="/there/pool.npz")), "data")
    moved = experiment(data=Data(name="/here/images"))
    assert write_run(tmp_path, moved, "data") == []
    assert load(tmp_path / "config.yaml") == moved
    with pytest.raises(ConfigError, match=r"data\.name: path != optdigits"):
        write_run(tmp_path, experiment(), "data")


def test_all_that_differs_is_said_at_once(tmp_path, monkeypatch):
    write_run(tmp_path, experiment(), "data")
    last = other_devices(monkeypatch)
    with pytest.raises(ConfigError) as caught:
        write_run(tmp_path, experiment(seed=3, labels=Labels(budget=160)), {"sha256": "77"})
    assert "(there != now): seed: 0 != 3; labels.budget: 150 != 160; " + last + "; data: data != " in str(caught.value)


def test_a_half_written_directory_is_made_whole(tmp_path):
    write_run(tmp_path, experiment(seed=9), "data")
    (tmp_path / "config.yaml").unlink()  # it is written last
    write_run(tmp_path, experiment(), "other")
    assert json.loads((tmp_path / "run.json").read_text())["data"] == "other"
    assert load(tmp_path / "config.yaml") == experiment()
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CorruptRunError, match=r"run\.json: expected what this package wrote"):
        write_run(tmp_path, experiment(), "other")


def test_write_run_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"cannot be used as a run directory: .*file"):
            write_run(workdir, experiment(), "data")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"new: cannot be used as a run directory: .*new: no permission to write"):
        write_run(tmp_path / "new", experiment(), "data")
    monkeypatch.setattr(os, "access", lambda path, _: not str(path).endswith("seed_0"))
    with pytest.raises(ConfigError, match=r"cannot be used as a run directory: .*seed_0: no permission to write"):
        write_run(tmp_path / "new", experiment(), "data")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_no_fault_of_the_config(tmp_path, monkeypatch, number):
    def full(path, _):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(directory, "write_atomic", full)
    with pytest.raises(OSError, match=r"run\.json") as caught:
        write_run(tmp_path, experiment(), "data")
    assert caught.value.errno == number
    assert not isinstance(caught.value, ConfigError)


def test_results(tmp_path):
    write_run(tmp_path, experiment(), "data")
    for strategy, seed, length in (("random", 0, 7), ("random", 1, 4), ("power_bald-beta-4", 0, 1)):
        keep(tmp_path, strategy, seed, EVENTS[:length])
    assert results(tmp_path) == [
        Row("mc_dropout", "random", 0, 2, 2, 0.5, 1.25, 0.75, 0.125, members=5, points=100),
        Row("mc_dropout", "random", 0, 3, 2, 0.75, 1.0, 0.5, 0.0625, members=5, points=100),
        Row("mc_dropout", "random", 1, 2, 2, 0.5, 1.25, 0.75, 0.125, members=5, points=100),
    ]


@pytest.mark.parametrize(("cost", "labels"), [(1, [2, 5]), (0, [2, 3])])
def test_charged_abstentions_are_on_the_axis(tmp_path, cost, labels):
    write_run(tmp_path, experiment(labels=Labels(abstain_cost=cost)), "data")
    keep(tmp_path, "random", 0, [EVENTS[number] | {"abstained": each} for number, each in ((2, 0), (5, 2))])
    assert [(row.labels, row.abstained) for row in results(tmp_path)] == list(zip(labels, (0, 2), strict=True))


def test_seed_runs_are_what_each_has_written_so_far(tmp_path):
    write_run(tmp_path, experiment(), "data")
    root = tmp_path / "mc_dropout"
    lines = [{"round": 0, "seeds": 2}, {"round": 1, "seeds": 2}, {"round": 1, "seeds": 1}]
    whole, begun = keep(tmp_path, "random", 1, EVENTS, lines), keep(tmp_path, "power_bald-beta-4", 0, EVENTS[:3])
    (root / "random" / "seed_x").mkdir()
    ledger_of(root / "random" / "seed_x" / "ledger.jsonl")
    one, other = seed_runs(tmp_path)
    assert one[:4] == ("mc_dropout", "power_bald-beta-4", 0, root / "power_bald-beta-4" / "seed_0")
    assert (one.events, one.metrics, one.reason) == (begun, [], None)
    assert other[:3] == ("mc_dropout", "random", 1)
    assert (other.events, other.reason) == (whole, "budget")
    assert [(line["round"], line["seeds"]) for line in other.metrics] == [
        (0, 2),
        (1, 1),
    ]  # the last line of a round counts


def test_results_of_a_ledger_without_its_numbers(tmp_path):
    folder = tmp_path / "mc_dropout" / "random" / "seed_0"
    folder.mkdir(parents=True)
    append(folder / "ledger.jsonl", {"event": "evaluated", "round": 0, "labels": 3, "validation_labels": 2})
    with pytest.raises(CorruptRunError, match=r"ledger\.jsonl: line 1: 'evaluated' without 'accuracy'"):
        results(tmp_path)


def test_results_of_no_run(tmp_path):
    assert results(tmp_path) == []
    with pytest.raises(ConfigError, match="nowhere: expected a run directory, found none"):
        results(tmp_path / "nowhere")


# -- whose ledger it is -----------------------------------------------------------------------------------------------


def copied(workdir, there, here, *, names):
    for name in names:
        (workdir / "mc_dropout" / here / name).write_bytes((workdir / "mc_dropout" / there / name).read_bytes())


@pytest.mark.parametrize("names", [("ledger.jsonl",), ("metrics.jsonl",), ("ledger.jsonl", "metrics.jsonl")])
@pytest.mark.parametrize("there", ["random/seed_0", "power_bald-beta-4/seed_1"])
def test_a_ledger_that_was_copied_from_elsewhere_is_refused_with_both_owners(tmp_path, there, names):
    write_run(tmp_path, experiment(), "data")
    for strategy in ("random", "power_bald-beta-4"):
        for seed in range(2):
            keep(tmp_path, strategy, seed, EVENTS, [{"round": 0}])
    assert len(seed_runs(tmp_path)) == 4
    copied(tmp_path, there, "random/seed_1", names=names)
    strategy, seed = there.split("/seed_")
    with pytest.raises(CorruptRunError) as caught:
        results(tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())["run"]
    assert str(caught.value) == (
        f"{tmp_path}/mc_dropout/random/seed_1/{names[0]}: expected that of run {run}, method mc_dropout/random, "
        f"seed 1, found that of run {run}, method mc_dropout/{strategy}, seed {seed}: it was copied here; "
        "put its own back, or take its folder away"
    )


@pytest.mark.parametrize("changes", [{"seed": 4}, {"labels": Labels(budget=160)}, {"training": Training(steps=7)}, {}])
def test_a_ledger_of_another_run_is_refused(tmp_path, changes):
    first, second = tmp_path / "first", tmp_path / "second"
    write_run(first, experiment(), "data")
    write_run(second, experiment(**changes), "data" if changes else "other data")
    keep(first, "random", 0, EVENTS)
    copied(tmp_path, first / "mc_dropout/random/seed_0", second / "mc_dropout/random/seed_0", names=["ledger.jsonl"])
    with pytest.raises(CorruptRunError, match=r"expected that of run run-.*, found that of run run-"):
        seed_runs(second)


def test_which_seeds_and_methods_a_directory_has_is_no_other_run(tmp_path):
    """So that the parts of a sweep, and a run that got more seeds, have ledgers of one run."""
    comparison = Comparison("mc_dropout", 7, (Named("margin"),))
    one, two = tmp_path / "one", tmp_path / "two"
    write_run(one, experiment(), "data")
    write_run(two, replace(experiment(first_seed=4), name="other", comparisons=(comparison,)), "data")
    assert directory.owner(one, "a/b", 0) == directory.owner(two, "a/b", 0)
    began = directory.owner(one, "a/b", 0)
    write_run(one, experiment(training=Training(steps=7)), "data", allow_mismatch=True)
    assert directory.owner(one, "a/b", 0) == began  # it goes on as what it began


def test_a_ledger_that_does_not_say_whose_it_is_is_refused_in_a_run_that_has_a_name(tmp_path):
    write_run(tmp_path, experiment(), "data")
    ledger_of(tmp_path / "mc_dropout" / "random" / "seed_1" / "ledger.jsonl")
    with pytest.raises(CorruptRunError, match=r"found that of nobody \(it does not say whose it is\)"):
        seed_runs(tmp_path)


def test_of_ledgers_that_do_not_say_whose_they_are_no_two_seeds_start_alike(tmp_path):
    """Those in benchmarks/results were written before ledgers said whose they are."""
    for folder in ("random/seed_0", "bald/seed_0", "random/seed_1"):
        (tmp_path / "mc_dropout" / folder).mkdir(parents=True)
    ledger_of(tmp_path / "mc_dropout" / "random" / "seed_0" / "ledger.jsonl")
    assert len(seed_runs(tmp_path)) == 1
    ledger_of(tmp_path / "mc_dropout" / "bald" / "seed_0" / "ledger.jsonl")  # methods share their start
    assert len(seed_runs(tmp_path)) == 2
    ledger_of(tmp_path / "mc_dropout" / "random" / "seed_1" / "ledger.jsonl", EVENTS[:3])
    with pytest.raises(CorruptRunError, match=r"starts with the same points as seed_\d beside it: it is a copy"):
        seed_runs(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "{}]", '"run"', '{"run": 3}', '{"later": {}}', '{"facts": []}', '{"experiment": "x"}', "\x00"],
)
def test_a_run_json_that_is_none_is_named(tmp_path, text):
    write_run(tmp_path, experiment(), "data")
    (tmp_path / "run.json").write_text(text)
    for read in (seed_runs, results, lambda path: write_run(path, experiment(), "data")):
        with pytest.raises(CorruptRunError, match=r"run\.json: expected what this package wrote, found other text"):
            read(tmp_path)
