"""People as oracles: what they say is kept whatever happens, and the run goes on from there."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bdal import config
from bdal.datasets import Dataset
from bdal.errors import ConfigError, LabelError
from bdal.experiment import run as runner
from bdal.experiment.run import run_experiment
from bdal.labelling import ask, label, questions, task, tell
from bdal.labelling import session as session_module
from bdal.labelling.session import RunSession
from bdal.labelling.task import held_task, load_task, num_wanted
from bdal.pool import ABSTAIN
from bdal.statistics import share_range
from bdal.store import directory, durable
from bdal.store.ledger import START
from bdal.store.lock import LockedError, lock
from tests.experiment.made_up import made_up_programs

N, NAMES = 30, ("cat", "dog", "owl")
TRUTH = np.arange(N) * 5 % 3


class Quiet:
    """In place of the progress display."""

    def __init__(self, total):
        self.lines, self.rounds = [], 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def line(self, text):
        self.lines.append(text)

    def stage(self, text):
        pass

    def advance(self, steps=1):
        self.rounds += 1
        assert self.rounds < 20, "it does not wait for answers"


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    monkeypatch.setattr(runner, "programs_of", made_up_programs)
    monkeypatch.setattr(runner.figures, "learning_curves", lambda rows, path, **_: None)


@pytest.fixture
def experiment(tmp_path):
    """Twelve labels: three for validation and two to start with, then queries of four and three; no test set."""
    np.savez(tmp_path / "points.npz", inputs=np.random.default_rng(0).normal(size=(N, 2)).astype(np.float32))
    return config.Experiment(
        name="people",
        seeds=1,
        data=config.Data(str(tmp_path / "points.npz"), classes=NAMES),
        model=config.Named("mlp", {"hidden": [4]}),
        labels=config.Labels(budget=12, initial=2, validation=0.25, oracle="people"),
        query=config.Query(size=4),
        comparisons=(config.Comparison("mc_dropout", 3, (config.Named("random"),)),),
    )


@pytest.fixture
def workdir(experiment, tmp_path):
    return run_experiment(experiment, tmp_path / "run", progress=Quiet)


def ledger(workdir):
    return durable.read(workdir / "mc_dropout" / "random" / "seed_0" / "ledger.jsonl")


def metrics(workdir):
    return durable.read(workdir / "mc_dropout" / "random" / "seed_0" / "metrics.jsonl")


def kinds(workdir):
    return [event["event"] for event in ledger(workdir)]


def rows(workdir):
    """The open query as a person finds it."""
    lines = (workdir / "query" / "query.csv").read_text().splitlines()
    assert lines[0].startswith("pool_index,image,run,label")
    return [int(line.split(",")[0]) for line in lines[1:]]


def filled(path, given):
    """A file of answers, `{pool index: what was typed}`."""
    path.write_text("pool_index,label\n" + "".join(f"{index},{label}\n" for index, label in given.items()))
    return path


def true(indices):
    return {index: NAMES[TRUTH[index]] for index in indices}


def told(workdir, name, given):
    return tell(workdir, filled(workdir.parent / name, given), progress=Quiet)


# -- by files ---------------------------------------------------------------------------------------------------------


def test_from_the_first_question_to_the_last_answer(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kinds(workdir) == ["queried"]
    assert num_wanted(workdir) == 5
    message = ask(workdir, progress=Quiet)
    assert message == (
        "5 labels wanted to start with (3 for validation, 2 for training): fill in run/query/query.csv, or import "
        "tasks.json into Label Studio, then bdal tell run FILE; or bdal label run"
    )
    assert rows(workdir) == ledger(workdir)[0]["indices"]
    seen = []
    thens = "4 labels wanted for round 1", "3 labels wanted for round 2", "finished (budget)"
    for name, wanted, then in zip("abc", (5, 4, 3), thens, strict=True):
        assert num_wanted(workdir) == wanted
        seen += rows(workdir)
        assert told(workdir, f"{name}.csv", true(rows(workdir))).startswith(
            f"{wanted} of {wanted} answers in {name}.csv are new; {then}"
        )
    assert num_wanted(workdir) == 0
    assert len(set(seen)) == len(seen) == 12
    rounds = ["evaluated", "queried", "labelled"]
    assert kinds(workdir) == ["queried", "labelled", "validation", "initial", *rounds * 2, "evaluated", "finished"]
    for event in ledger(workdir):
        if "labels" in event and "indices" in event:
            assert event["labels"] == TRUTH[event["indices"]].tolist()
        if event["event"] == "labelled":
            assert event["source"]["file"] in ("a.csv", "b.csv", "c.csv")
            assert len(event["source"]["sha256"]) == 64
        if event["event"] == "evaluated":
            assert (event["on"], event["points"]) == ("validation", 3)
    assert [row.labels for row in directory.results(workdir)] == [2, 6, 9]
    assert ask(workdir, progress=Quiet) == "finished (budget)"
    assert (workdir / "table.md").exists()


def test_asked_again_it_is_the_same_question(workdir, experiment):
    ask(workdir, progress=Quiet)
    before = {path: path.read_bytes() for path in workdir.glob("query/*.*")}, ledger(workdir)
    ask(workdir, progress=Quiet)
    run_experiment(experiment, workdir, progress=Quiet)
    ask(workdir, progress=Quiet)
    assert ({path: path.read_bytes() for path in workdir.glob("query/*.*")}, ledger(workdir)) == before


def test_answers_come_in_parts_and_only_the_rest_is_asked_for(workdir):
    ask(workdir, progress=Quiet)
    asked = rows(workdir)
    message = told(workdir, "some.csv", true([asked[3], asked[1]]) | {asked[0]: ""})
    assert message.startswith("2 of 2 answers in some.csv are new; 3 of 5 labels wanted to start with")
    assert num_wanted(workdir) == 3
    assert rows(workdir) == [asked[0], asked[2], asked[4]]
    assert kinds(workdir) == ["queried", "labelled"]
    assert told(workdir, "none.csv", {asked[0]: ""}).startswith("0 of 0 answers in none.csv are new; 3 of 5 labels")
    assert told(workdir, "rest.csv", true(rows(workdir))).startswith("3 of 3 answers in rest.csv are new; 4 labels")


def test_it_cannot_be_told_and_it_was_told_wrongly(workdir):
    ask(workdir, progress=Quiet)
    start = rows(workdir)  # three for validation, two to train on
    told(workdir, "start.csv", true(start[1:]) | {start[0]: "?"})
    validation, initial = ledger(workdir)[2:4]
    assert validation == {"event": "validation", "indices": start[:3], "labels": [None, *TRUTH[start[1:3]]]}
    assert initial == {"event": "initial", "indices": start[3:], "labels": TRUTH[start[3:]].tolist()}
    assert ledger(workdir)[4]["points"] == 2  # each point for validation once, and without the one that cannot be told

    first = rows(workdir)
    other = NAMES[(TRUTH[start[4]] + 1) % 3]
    told(workdir, "first.csv", true(first[:3]) | {first[3]: "abstain", start[4]: other})  # and a correction
    event = ledger(workdir)[6]
    assert event["indices"] == [*first, start[4]]
    assert event["labels"] == [*TRUTH[first[:3]].tolist(), None, NAMES.index(other)]
    task = load_task(workdir)
    assert task.ledger.answers()[start[4]] == [TRUTH[start[4]], NAMES.index(other)]
    known = task.ledger.sets(1, capacity=9, policy="last", num_points=N, num_classes=3)
    assert known.labelled.indices[:5].tolist() == [*start[3:], *first[:3]]
    assert known.labelled.labels[:2].tolist() == [TRUTH[start[3]], NAMES.index(other)]
    assert known.abstained == 1
    last = rows(workdir)
    assert len(last) == 3  # the abstention is paid for
    assert told(workdir, "last.csv", true(last)).endswith("finished (budget)")
    assert ledger(workdir)[-2]["labels"] == 8
    assert directory.results(workdir)[-1].labels == 9


@pytest.mark.parametrize("policy", ["last", "majority"])
def test_one_labels_everything_and_another_skips(experiment, tmp_path, policy):
    experiment = replace(experiment, labels=replace(experiment.labels, contradictions=policy))
    workdir = run_experiment(experiment, tmp_path / "run", progress=Quiet)
    ask(workdir, progress=Quiet)
    start = rows(workdir)
    told(workdir, "one.csv", true(start))
    message = told(workdir, "other.csv", dict.fromkeys(start, "?"))
    assert message.startswith("5 of 5 answers in other.csv are new; for 5 of its points another answer counts, a label")
    first = rows(workdir)
    told(workdir, "first.csv", true(first))
    assert [row.labels for row in directory.results(workdir)] == [2, 6]
    wrong = {index: NAMES[(TRUTH[index] + 1) % 3] for index in first}
    assert told(workdir, "wrong.csv", wrong).startswith("4 of 4 answers in wrong.csv are new; 3 labels")
    assert told(workdir, "first.csv", true(first)).startswith(
        "0 of 4 answers in first.csv are new; for 4 of its points"
    )
    assert told(workdir, "again.csv", true(first)).startswith("4 of 4 answers in again.csv are new; 3 labels")
    assert told(workdir, "last.csv", true(rows(workdir))).endswith("finished (budget)")
    known = load_task(workdir).ledger.sets(2, capacity=9, policy=policy, num_points=N, num_classes=3)
    assert (known.abstained, int(known.labelled.count)) == (0, 9)
    assert known.labelled.labels.tolist() == TRUTH[known.labelled.indices].tolist()
    assert known.validation.labels.tolist() == TRUTH[start[:3]].tolist()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (lambda asked, free: true(asked) | {N: "cat"}, rf"expected pool points in \[0, {N}\), found \[{N}\]; nothing"),
        (lambda asked, free: true(asked) | {asked[2]: "cow"}, "cow"),
        (lambda asked, free: true(asked) | {asked[2]: "3"}, "3"),
    ],
)
def test_a_file_with_a_wrong_answer_is_refused_as_a_whole(workdir, typed, message):
    ask(workdir, progress=Quiet)
    asked = rows(workdir)
    free = next(index for index in range(N) if index not in asked)
    before = ledger(workdir)
    with pytest.raises(LabelError, match=message):
        told(workdir, "wrong.csv", typed(asked, free))
    assert ledger(workdir) == before
    assert not (workdir / "run.lock").exists()
    told(workdir, "right.csv", true(asked))
    assert num_wanted(workdir) == 4


def test_what_was_not_asked_for_is_kept_and_paid_for_when_it_is(workdir, experiment, tmp_path):
    ask(workdir, progress=Quiet)
    asked, before = rows(workdir), ledger(workdir)
    path = filled(tmp_path / "all.csv", true(range(N)))
    with pytest.raises(LabelError, match="expected points of the open query, found"):
        tell(workdir, path, only_asked=True, progress=Quiet)
    assert ledger(workdir) == before
    some = filled(tmp_path / "some.csv", true([index for index in range(N) if index not in asked[:2]]))
    message = tell(workdir, some, progress=Quiet)
    assert message.startswith(
        "28 of 28 answers in some.csv are new; 25 of its points were not asked for yet: kept, and"
    )
    assert "2 of 5 labels wanted" in message
    assert tell(workdir, some, progress=Quiet).startswith("0 of 28 answers in some.csv are new; 25 of its points")
    assert told(workdir, "rest.csv", true(asked[:2])).endswith("finished (budget)")
    assert [row.labels for row in directory.results(workdir)] == [2, 6, 9]
    assert tell(workdir, some, progress=Quiet).endswith("finished (budget)")
    known = load_task(workdir).ledger.sets(2, capacity=9, policy="last", num_points=N, num_classes=3)
    assert known.labelled.labels.tolist() == TRUTH[known.labelled.indices].tolist()
    queries = [event["indices"] for event in ledger(workdir) if event["event"] == "queried"]

    other = run_experiment(
        experiment, tmp_path / "other", progress=Quiet
    )  # the same labels in the order in which they are asked for
    for indices in queries:
        told(other, "next.csv", true(indices))
    assert [event["indices"] for event in ledger(other) if event["event"] == "queried"] == queries


@pytest.mark.parametrize("oracle", ["people", "simulated"])
def test_an_initial_set_from_a_file(experiment, tmp_path, oracle):
    given = {index: NAMES[(TRUTH[index] + 1) % 3] for index in (5, 17, 3, 21)}  # nobody else would say so
    path = filled(tmp_path / "known.csv", given | {7: "?"})
    labels = replace(experiment.labels, initial_file=str(path), oracle=oracle)
    np.savez(tmp_path / "points.npz", inputs=np.load(tmp_path / "points.npz")["inputs"], labels=TRUTH)
    experiment = replace(experiment, labels=labels)
    workdir = run_experiment(experiment, tmp_path / "run", progress=Quiet)
    if oracle == "people":
        assert num_wanted(workdir) == 3
        message = ask(workdir, progress=Quiet)
        assert message.startswith("3 of 7 labels wanted to start with (3 for validation, 4 for training)")
        assert not set(rows(workdir)) & set(given)
        filled(path, given | {8: "cat"})
        with pytest.raises(ConfigError):
            ask(workdir, progress=Quiet)
        filled(path, given | {8: "?"})
        told(workdir, "start.csv", true(rows(workdir)))
        path.unlink()
        with pytest.raises(LabelError, match=r"known\.csv: expected a file of answers, found no file"):
            ask(workdir, progress=Quiet)
        filled(path, dict.fromkeys((5, 17, 3, 22), "cat"))
        with pytest.raises(ConfigError, match=r"labels\.initial_file: expected the points that this run began with"):
            run_experiment(experiment, workdir, progress=Quiet)
    (initial,) = [event for event in ledger(workdir) if event["event"] == "initial"]
    assert initial["indices"] == [5, 17, 3, 21]
    assert [NAMES[label] for label in initial["labels"]] == list(given.values())
    assert metrics(workdir)[0]["labels"] == 4
    (validation,) = [event for event in ledger(workdir) if event["event"] == "validation"]
    assert not set(validation["indices"]) & set(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict.fromkeys(range(11), "cat"), r"labels\.budget: expected at least 14 "),
        ({N: "cat"}, rf"labels\.initial_file: expected pool points in \[0, {N}\), found \[{N}\]"),
        ({3: "?"}, r"labels\.initial_file: expected labels in .*known\.csv, found none"),
        (dict.fromkeys(range(N - 2), "cat"), r"labels\.initial_file: expected 3 points beside its own"),
    ],
)
def test_an_initial_file_that_does_not_fit(experiment, tmp_path, given, message):
    path = filled(tmp_path / "known.csv", given)
    with pytest.raises(ConfigError, match=message):
        run_experiment(
            replace(experiment, labels=replace(experiment.labels, initial_file=str(path))),
            tmp_path / "run",
            progress=Quiet,
        )
    assert not (tmp_path / "run").exists()


def test_what_is_kept_may_be_corrected_before_it_is_asked_for(workdir, tmp_path):
    ask(workdir, progress=Quiet)
    free = [index for index in range(N) if index not in rows(workdir)]
    wrong = {index: NAMES[(TRUTH[index] + 1) % 3] for index in free}
    assert told(workdir, "wrong.csv", wrong).startswith("25 of 25 answers in wrong.csv are new")
    assert told(workdir, "right.csv", true(free)).startswith("25 of 25 answers in right.csv are new")
    assert told(workdir, "start.csv", true(rows(workdir))).endswith("finished (budget)")
    known = load_task(workdir).ledger.sets(2, capacity=9, policy="last", num_points=N, num_classes=3)
    assert known.labelled.labels.tolist() == TRUTH[known.labelled.indices].tolist()


def test_the_file_of_another_run_is_refused_and_of_this_one_any_query_taken(workdir, experiment, tmp_path):
    def typed(folder, name):
        """The open query with every label typed into it."""
        path = tmp_path / name
        labels = [NAMES[TRUTH[index]] for index in rows(folder)]
        header, *lines = (folder / "query" / "query.csv").read_text().splitlines()
        path.write_text("\n".join([header, *map("".join, zip(lines, labels, strict=True))]) + "\n")
        return path

    np.savez(tmp_path / "others.npz", inputs=np.random.default_rng(1).normal(size=(N, 2)).astype(np.float32))
    changes = {
        "data": replace(experiment, data=replace(experiment.data, name=str(tmp_path / "others.npz"))),
        "classes": replace(experiment, data=replace(experiment.data, classes=NAMES[::-1])),
    }
    ask(workdir, progress=Quiet)
    before = ledger(workdir)
    for name, change in changes.items():
        other = run_experiment(change, tmp_path / name, progress=Quiet)
        ask(other, progress=Quiet)
        assert rows(other) == rows(workdir)  # the same points by number
        with pytest.raises(LabelError, match=r"row 2: run: expected run-\w{8}, found 'run-\w{8}': it is another run's"):
            tell(workdir, typed(other, "other.csv"), progress=Quiet)
        assert ledger(workdir) == before
    known = load_task(workdir)
    turned = known.prepared.data._replace(class_names=NAMES[::-1])  # of a data set with labels, which nobody looks at
    assert task.identity(known._replace(prepared=known.prepared._replace(data=turned))) != task.identity(known)
    start = typed(workdir, "start.csv")
    assert tell(workdir, start, progress=Quiet).startswith("5 of 5 answers in start.csv are new; 4 labels")
    assert tell(workdir, typed(workdir, "first.csv"), progress=Quiet).startswith("4 of 4 answers")
    start.write_text(start.read_text().replace("cat", "owl"))
    assert " of 5 answers in start.csv are new; 3 labels" in tell(workdir, start, progress=Quiet)


def test_photos_come_back_under_their_own_names(experiment, tmp_path):
    (tmp_path / "photos").mkdir()
    for index in range(N):
        pixels = np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index * 7 % 100:02d}.png")
    experiment = replace(experiment, data=replace(experiment.data, name=f"{tmp_path / 'photos'}"))
    workdir = run_experiment(experiment, tmp_path / "run", progress=Quiet)
    ask(workdir, progress=Quiet)
    header, *lines = (workdir / "query" / "query.csv").read_text().splitlines()
    assert header == "pool_index,image,run,label,name"
    cells = [line.split(",") for line in lines]
    for (index, image, of, _, name), (_, _, _, _, other) in zip(cells, [*cells[1:], cells[0]], strict=True):
        (tmp_path / "a.csv").write_text(f"{header}\n{index},{image},{of},cat,{other}\n")
        with pytest.raises(LabelError, match=f"row 2: name: expected '{name}' beside pool_index {index}, found"):
            tell(workdir, tmp_path / "a.csv", progress=Quiet)
        (tmp_path / "a.csv").write_text(f"{header}\n{index},{image},{of},cat,{name}\n")
        assert tell(workdir, tmp_path / "a.csv", progress=Quiet).startswith("1 of 1 answers in a.csv are new")


def test_told_again_is_told_once_and_after_the_end_nothing_is(workdir):
    ask(workdir, progress=Quiet)
    for name in "abc":
        told(workdir, f"{name}.csv", true(rows(workdir)))
    done = ledger(workdir)
    for name, count in zip("abc", (5, 4, 3), strict=True):
        again = tell(workdir, workdir.parent / f"{name}.csv", progress=Quiet)
        assert again == f"0 of {count} answers in {name}.csv are new; finished (budget)"
    with pytest.raises(LabelError, match="the run is finished, and takes no more answers"):
        told(workdir, "d.csv", {index: NAMES[(TRUTH[index] + 1) % 3] for index in rows(workdir)})
    assert ledger(workdir) == done


def test_other_data_is_noticed_before_anything_is_shown_or_written(workdir, experiment):
    ask(workdir, progress=Quiet)
    answers = filled(workdir.parent / "a.csv", true(rows(workdir)))
    path = Path(experiment.data.name)
    arrays, before = dict(np.load(path)), (ledger(workdir), (workdir / "query" / "query.csv").read_bytes())
    arrays["inputs"] = np.roll(arrays["inputs"], 1, axis=0)  # every point has another index
    np.savez(path, **arrays)
    for command in (lambda: ask(workdir, progress=Quiet), lambda: tell(workdir, answers, progress=Quiet)):
        with pytest.raises(ConfigError, match=r"cannot change \(there != now\): data: .*; bring it back as it was"):
            command()
    assert (ledger(workdir), (workdir / "query" / "query.csv").read_bytes()) == before


def test_nobody_can_tell_the_points_for_validation_until_somebody_can(workdir):
    ask(workdir, progress=Quiet)
    start = rows(workdir)
    with pytest.raises(LabelError, match=r"at least one of 3 points for validation, .*correct one of"):
        told(workdir, "start.csv", dict.fromkeys(start[:3], "?") | true(start[3:]))
    assert kinds(workdir)[:2] == ["queried", "labelled"]  # nothing is lost
    assert told(workdir, "second.csv", true(start[:1])).startswith(
        "1 of 1 answers in second.csv are new; 4 labels wanted"
    )


def test_who_is_not_to_ask_and_to_tell(workdir, experiment, tmp_path):
    for wrong in (tmp_path / "nowhere", tmp_path):
        for command in (lambda: ask(wrong, progress=Quiet), lambda: num_wanted(wrong)):  # noqa: B023
            with pytest.raises(ConfigError, match="expected a run directory"):
                command()
    simulated = tmp_path / "simulated"
    simulated.mkdir()
    labels = replace(experiment.labels, oracle="simulated")
    (simulated / "config.yaml").write_text(config.dump(replace(experiment, labels=labels)))
    with pytest.raises(ConfigError, match=r"labels\.oracle: expected people, found simulated"):
        ask(simulated, progress=Quiet)
    assert num_wanted(simulated) == 0
    with lock(workdir), pytest.raises(LockedError):
        ask(workdir, progress=Quiet)
    with lock(workdir), pytest.raises(LockedError):
        told(workdir, "a.csv", {0: "cat"})


def test_data_that_lies_elsewhere_now(workdir, experiment):
    path = Path(experiment.data.name)
    away = path.parent / "away" / path.name
    away.parent.mkdir()
    path.rename(away)
    with pytest.raises(FileNotFoundError, match=r"no such file.*; if it lies elsewhere now, say where by --data-dir"):
        ask(workdir, progress=Quiet)
    assert ask(workdir, data_dir=str(away), progress=Quiet).startswith("5 labels wanted to start with")


# -- from every moment on ---------------------------------------------------------------------------------------------


def steps(experiment, workdir, files):
    """What a person does, one command after the other; the second query is answered in two parts, with a correction."""
    yield lambda: run_experiment(experiment, workdir, progress=Quiet)
    for file in files:
        yield lambda file=file: tell(workdir, file, progress=Quiet)


@pytest.fixture
def reference(experiment, tmp_path):
    """A run that nothing happened to, and the files that it was told."""
    workdir, files = run_experiment(experiment, tmp_path / "whole", progress=Quiet), []

    def answer(given):
        files.append(filled(tmp_path / f"{len(files)}.csv", given))
        tell(workdir, files[-1], progress=Quiet)

    start = ledger(workdir)[0]["indices"]
    answer(true(start))
    first = rows(workdir)
    answer(true(first[2:]))
    answer(true(first[:1]) | {first[1]: "?", start[3]: NAMES[(TRUTH[start[3]] + 1) % 3]})
    answer(true(rows(workdir)))
    assert ledger(workdir)[-1]["event"] == "finished"
    return workdir, files


class StoppedError(OSError):
    pass


def interrupted(monkeypatch, module, name, number):
    """The `number`-th call of a function ends the process before anything is done."""
    call, count = getattr(module, name), itertools.count()

    def counting(*arguments):
        if next(count) == number:
            raise StoppedError("stopped")
        return call(*arguments)

    monkeypatch.setattr(module, name, counting)


@pytest.mark.parametrize(("module", "name"), [(durable, "append"), (questions, "write_atomic")])
def test_a_command_that_was_cut_short_and_repeated_gives_the_same_run(
    reference, experiment, tmp_path, monkeypatch, module, name
):
    whole, files = reference
    for number in itertools.count():
        workdir, stopped = tmp_path / f"{name}-{number}", 0
        with monkeypatch.context() as patch:
            interrupted(patch, module, name, number)
            for step in steps(experiment, workdir, files):
                try:
                    step()
                except StoppedError:
                    stopped += 1
                    step()
        content = (workdir / "mc_dropout" / "random" / "seed_0" / "ledger.jsonl").read_bytes()
        assert content == (whole / "mc_dropout" / "random" / "seed_0" / "ledger.jsonl").read_bytes(), number
        assert [line["round"] for line in metrics(workdir)] == [0, 1, 2]
        if not stopped:
            break
    assert number > 5  # there was something to stop


def test_answered_and_not_trained_yet(reference, experiment, tmp_path, monkeypatch):
    """Between the last answer of a query and the training that follows; whatever command comes next trains."""
    _, files = reference
    for then in (
        lambda d: ask(d, progress=Quiet),
        lambda d: run_experiment(experiment, d, progress=Quiet),
        lambda d: tell(d, files[0]),
    ):
        workdir = tmp_path / str(then.__code__.co_firstlineno) / then.__code__.co_names[0]
        run_experiment(experiment, workdir, progress=Quiet)
        with monkeypatch.context() as patch:
            patch.setattr(task, "advance", lambda *_: (_ for _ in ()).throw(StoppedError("stopped")))
            with pytest.raises(StoppedError):
                tell(workdir, files[0], progress=Quiet)
        assert kinds(workdir) == ["queried", "labelled"]
        assert num_wanted(workdir) == 0
        then(workdir)
        assert kinds(workdir) == ["queried", "labelled", "validation", "initial", "evaluated", "queried"]
        assert num_wanted(workdir) == 4


# -- in the browser ---------------------------------------------------------------------------------------------------


def label_all(session):
    """Answer whatever is open, and train, until it is finished."""
    while (state := session.state()).phase != "finished":
        if state.phase == "training":
            session.advance()
            continue
        item = next(item for item in state.items if item.answer is None)
        session.tell(item.pool_index, int(TRUTH[item.pool_index]))


def test_a_session_from_the_first_point_to_the_last(workdir):
    session = RunSession(load_task(workdir), Quiet)
    state = session.state()
    asked = ledger(workdir)[0]["indices"]
    assert (state.phase, state.round, state.total_rounds) == ("label", START + 1, 2)
    assert [item.pool_index for item in state.items] == asked
    assert {item.answer for item in state.items} == {None}
    assert state.items[0].name == f"pool point {asked[0]}"
    assert (state.class_names, state.budget, state.labels_paid, state.history) == (NAMES, 12, 0, ())
    assert state.message == "Accuracy is measured on the labels for validation."
    assert session.image(asked[0]) is None  # two numbers are no image

    for index in asked[:3]:
        session.tell(index, int(TRUTH[index]))
        assert ledger(workdir)[-1] == {
            "event": "labelled",
            "round": START,
            "indices": [index],
            "labels": [TRUTH[index]],
        }
    session.tell(asked[0], ABSTAIN)  # a second thought
    session.tell(asked[0], ABSTAIN)  # the same key twice
    state = session.state()
    assert [item.answer for item in state.items] == [ABSTAIN, *TRUTH[asked[1:3]], None, None]
    assert state.labels_paid == 3
    assert len(ledger(workdir)) == 5
    for index in asked[3:]:
        session.tell(index, int(TRUTH[index]))
    state = session.state()
    assert (state.phase, state.items) == ("training", ())
    assert (state.labels_paid, state.training_labels) == (5, 2)
    assert state.message == "Accuracy is measured on the 2 labels for validation."  # of 3; one could not be told
    with pytest.raises(LabelError, match=f"pool point {asked[0]} is not in the open query"):
        session.tell(asked[0], 0)
    session.advance()
    state = session.state()
    assert (state.phase, state.round, len(state.items)) == ("label", 1, 4)
    accuracy = ledger(workdir)[-2]["accuracy"]
    assert state.history == ((2, accuracy, *share_range(accuracy, 2)),)  # of 2 labels
    assert state.history[0].high - state.history[0].low > 0.6
    with pytest.raises(LabelError, match="is not in the open query"):
        session.tell(asked[4], 0)
    with pytest.raises(LabelError, match="expected a class"):
        session.tell(state.items[0].pool_index, 3)
    label_all(session)
    state = session.state()
    assert (state.phase, state.items, state.labels_paid, state.training_labels) == ("finished", (), 12, 9)
    assert [labels for labels, *_ in state.history] == [2, 6, 9]


@pytest.mark.parametrize(("cost", "paid"), [(1, 1), (0, 0)])
def test_abstentions_are_paid_for_as_agreed(experiment, tmp_path, cost, paid):
    experiment = replace(experiment, labels=replace(experiment.labels, abstain_cost=cost))
    session = RunSession(load_task(run_experiment(experiment, tmp_path / "run", progress=Quiet)), Quiet)
    items = session.state().items
    session.tell(items[0].pool_index, ABSTAIN)  # for validation: paid for, whatever the answer
    assert session.state().labels_paid == 1
    session.tell(items[-1].pool_index, ABSTAIN)
    assert session.state().labels_paid == 1 + paid
    for item in items[1:-1]:
        session.tell(item.pool_index, int(TRUTH[item.pool_index]))
    state = session.state()
    assert (state.phase, state.labels_paid, state.training_labels) == ("training", 4 + paid, 1)
    session.advance()
    state = session.state()
    assert [labels for labels, *_ in state.history] == [1]  # trained on, whatever was paid for
    event = next(event for event in ledger(session._task.workdir) if event["event"] == "evaluated")
    assert (event["labels"], event["abstained"], event["points"]) == (1, 1, 2)
    assert state.message == "Accuracy is measured on the 2 labels for validation."


def test_what_people_are_told_may_change_at_any_time(workdir, experiment):
    session = RunSession(load_task(workdir), Quiet)
    assert session.state().instruction == "Which class is this?"
    label_all(session)
    told = replace(experiment, labels=replace(experiment.labels, instruction="Is it a cat?"))
    (workdir / "config.yaml").write_text(config.dump(told))
    task = load_task(workdir)
    with held_task(task):  # no other run for that
        assert RunSession(task, Quiet).state().instruction == "Is it a cat?"


def test_a_session_that_is_cut_short_anywhere_is_taken_up_by_the_next(workdir, experiment, tmp_path, monkeypatch):
    label_all(RunSession(load_task(workdir), Quiet))
    for number in range(1, len(ledger(workdir)) + len(metrics(workdir))):
        again = run_experiment(experiment, tmp_path / str(number), progress=Quiet)
        with monkeypatch.context() as patch:
            interrupted(patch, durable, "append", number - 1)
            with pytest.raises(StoppedError):
                label_all(RunSession(load_task(again), Quiet))
        label_all(RunSession(load_task(again), Quiet))
        assert ledger(again) == ledger(workdir), number
        assert [line["round"] for line in metrics(again)] == [0, 1, 2]


def test_a_session_shows_pictures_as_they_are(experiment, tmp_path):
    np.savez(tmp_path / "images.npz", inputs=np.random.default_rng(0).uniform(size=(N, 4, 4)).astype(np.float32))
    experiment = replace(experiment, data=replace(experiment.data, name=str(tmp_path / "images.npz")))
    session = RunSession(load_task(run_experiment(experiment, tmp_path / "run", progress=Quiet)), Quiet)
    found = session.image(session.state().items[0].pool_index)
    assert (
        found
        == questions.picture(session.state().items[0].pool_index, np.load(tmp_path / "images.npz")["inputs"]).content
    )
    assert found.startswith(b"\x89PNG")


def test_the_file_that_leads_a_browser_to_the_page_lies_in_the_run_directory(workdir, monkeypatch):
    served = []
    monkeypatch.setattr(session_module, "serve", lambda session, **options: served.append(options))
    label(workdir, open_browser=False, announce=print)
    assert served == [{"port": 0, "open_browser": False, "announce": print, "folder": workdir.resolve()}]


def test_a_session_names_its_points_once(workdir, monkeypatch):
    task, called = load_task(workdir), []
    monkeypatch.setattr(Dataset, "file_names", property(lambda data: called.append(data.files)))
    session = RunSession(task, Quiet)
    for _ in range(3):
        session.state()
    assert called == [None]


def test_what_a_session_and_a_file_say_is_one_ledger(workdir):
    """Half in the browser, half in a file, both in any order."""
    session = RunSession(load_task(workdir), Quiet)
    asked = [item.pool_index for item in session.state().items]
    session.tell(asked[1], int(TRUTH[asked[1]]))
    ask(workdir, progress=Quiet)
    assert rows(workdir) == [asked[0], *asked[2:]]
    told(workdir, "rest.csv", true(asked))  # what is known already is not told again
    assert json.dumps(ledger(workdir)[2]["indices"]) == json.dumps([asked[0], *asked[2:]])
    assert RunSession(load_task(workdir), Quiet).state().round == 1
