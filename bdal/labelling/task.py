"""People as oracles, by files: ask for labels, take the answers, train again. `session` does it in the browser.

Everything a person says is in the ledger, on disk, before anything is done with it.
"""

import hashlib
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bdal import config
from bdal.answers import read_answers
from bdal.config.parts import NO_PARTS, Parts
from bdal.errors import ConfigError, DataNotFoundError, LabelError
from bdal.experiment.prepare import Prepared, prepare
from bdal.experiment.progress import Progress, short
from bdal.experiment.run import advance, held
from bdal.labelling.questions import write_query
from bdal.store import directory
from bdal.store.ledger import START, Ledger


class Task(NamedTuple):
    """A run directory in which people answer."""

    workdir: Path
    prepared: Prepared

    @property
    def ledger(self) -> Ledger:
        """What was asked and answered so far, read anew."""
        return _ledger(self.workdir, self.prepared.experiment)


def load_task(workdir: str | Path, data_dir: str | None = None, parts: Parts = NO_PARTS) -> Task:
    """The run that a directory holds, with its data. Raises `ConfigError` if it is none in which people answer.

    `data_dir` is where the data set's files are, or the `.npz` or folder itself, if that is not where it was. `parts`
    are those of one's own that the run was made with.
    """
    workdir = Path(workdir).resolve()
    experiment = _experiment(workdir)
    if experiment.labels.oracle != "people":
        raise ConfigError(f"{workdir}: labels.oracle: expected people, found {experiment.labels.oracle}")
    try:
        return Task(workdir, prepare(config.moved(experiment, data_dir), parts=parts))
    except DataNotFoundError as error:
        raise DataNotFoundError(f"{error}; if it lies elsewhere now, say where by --data-dir") from error


@contextmanager
def held_task(task: Task) -> Iterator[None]:
    """Hold the run directory, once it is known to be on the same data, in the same environment."""
    with held(task.workdir):
        prepared = task.prepared
        directory.check_same(task.workdir, prepared.experiment, prepared.data.fingerprint, prepared.parts)
        yield


def ask(
    workdir: str | Path,
    *,
    data_dir: str | None = None,
    parts: Parts = NO_PARTS,
    progress=Progress,
) -> str:
    """Write the open query to `query/` in the run directory, training first where that is due; what there is to do.

    Called again it writes the same files. See `bdal.labelling.questions.write_query` for what they are.
    """
    task = load_task(workdir, data_dir, parts)
    with held_task(task):
        return _train_and_ask(task, progress)


def tell(
    workdir: str | Path,
    answers: str | Path,
    *,
    data_dir: str | None = None,
    parts: Parts = NO_PARTS,
    only_asked: bool = False,
    progress=Progress,
) -> str:
    """Take the answers in a file; once the query is answered, train, and write the next one. What there is to do.

    Answers to points that were not asked for are kept, and given when these are asked for: they are paid for then.

    Raises:
      LabelError: an answer that is no class, or to no point of the pool, or with `only_asked` to a point that was not
        asked for; nothing of the file is taken.
    """
    task = load_task(workdir, data_dir, parts)
    data = task.prepared.data
    with held_task(task):
        names = data.source.file_names
        found = read_answers(answers, class_names=data.class_names, names=names, run=identity(task))
        ledger = task.ledger
        if ledger.finished:
            known = ledger.kept() | ledger.answers()
            if any(
                label not in known.get(int(index), ()) for index, label in zip(found.indices, found.labels, strict=True)
            ):
                raise LabelError(f"{task.workdir}: the run is finished, and takes no more answers")
        number = open_round(ledger)
        if number is None:  # training is due; what is told now is known before it
            number = ledger.completed_rounds() - 1
        new = 0
        if not ledger.finished:
            keep = None if only_asked else data.num_points
            new = ledger.tell(number, num_classes=data.num_classes, keep=keep, **found._asdict())
            ledger.recall(number, num_classes=data.num_classes)
        told = f"{new} of {len(found.indices)} answers in {found.source['file']} are new"
        counts = ledger.settled(task.prepared.experiment.labels.contradictions)
        last = dict(zip(found.indices.tolist(), found.labels.tolist(), strict=True))
        if others := sum(counts.get(index, label) != label for index, label in last.items()):
            told += f"; for {others} of its points another answer counts, a label or a later one (a later word: a file "
            told += "of another name)"
        if later := len(last.keys() - ledger.answers().keys()):
            told += f"; {later} of its points were not asked for yet: kept, and paid for when they are"
        return f"{told}; {_train_and_ask(task, progress)}"


def open_round(ledger: Ledger) -> int | None:
    """The round whose query is not answered in full; None where there is training to do, or nothing at all."""
    rounds = (START, ledger.completed_rounds())
    return next((number for number in rounds if ledger.unanswered(number)), None)


def num_wanted(workdir: str | Path) -> int:
    """How many labels a run waits for; 0 where no person is asked."""
    experiment = _experiment(Path(workdir))
    if experiment.labels.oracle != "people":
        return 0
    ledger = _ledger(Path(workdir), experiment)
    number = open_round(ledger)
    return 0 if number is None else len(ledger.unanswered(number))


def wanted(workdir: str | Path) -> str:
    """What a run waits for, in words; nothing where it waits for no person."""
    experiment = _experiment(Path(workdir))
    return _wanted(_ledger(Path(workdir), experiment), experiment) if num_wanted(workdir) else ""


def _wanted(ledger: Ledger, experiment: config.Experiment) -> str:
    number = open_round(ledger)
    if number is None:
        return ""
    queried, left = len(ledger.queried(number)), len(ledger.unanswered(number))
    of = f"{left} of {queried}" if left < queried else f"{queried}"
    labels = f"{of} label{'s' if queried > 1 else ''}"
    if number != START:
        return f"{labels} wanted for round {number + 1}"
    held_out = experiment.labels.validation_labels
    return f"{labels} wanted to start with ({held_out} for validation, {queried - held_out} for training)"


def _experiment(workdir: Path) -> config.Experiment:
    if not (workdir / "config.yaml").exists():
        raise ConfigError(f"{workdir}: expected a run directory, as `bdal run CONFIG.yaml --workdir` makes one")
    return config.load(workdir / "config.yaml")


def _ledger(workdir: Path, experiment: config.Experiment) -> Ledger:
    comparison, seed = experiment.comparisons[0], experiment.first_seed
    folder = directory.seed_folder(workdir, comparison, comparison.strategies[0], seed)
    return Ledger(seed, folder, directory.owner(workdir, comparison.method(comparison.strategies[0]), seed))


def _train_and_ask(task: Task, progress) -> str:
    ledger = task.ledger
    if open_round(ledger) is None and not ledger.finished:
        advance(task.prepared, task.workdir, progress)
        ledger = task.ledger
    number = open_round(ledger)
    if number is None:
        return f"finished ({ledger.events[-1]['reason']})"
    data, left = task.prepared.data, ledger.unanswered(number)
    folder = task.workdir / "query"
    files = data.source.files
    write_query(
        folder, indices=left, inputs=data.source.inputs, class_names=data.class_names, round=number, files=files,
        names=data.source.file_names, run=identity(task),
    )  # fmt: skip
    labels, here = _wanted(ledger, task.prepared.experiment), shlex.quote(str(short(task.workdir)))
    return (
        f"{labels}: fill in {short(folder / 'query.csv')}, or import tasks.json into Label Studio, then "
        f"bdal tell {here} FILE; or bdal label {here}"
    )


def identity(task: Task) -> str:
    """What the files of a run are known by: of its data, classes and seed, so that it outlasts other changes.

    No spreadsheet takes it for a number, as it would 12e45678.
    """
    data, seed = task.prepared.data, task.prepared.experiment.first_seed
    facts = json.dumps([data.fingerprint, data.class_names, seed])
    return f"run-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"
