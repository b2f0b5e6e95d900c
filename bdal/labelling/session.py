"""People as oracles, in the browser: the run behind the labelling page.

Every answer is in the ledger, on disk, before the page shows the next point.
"""

from pathlib import Path

from bdal.answers import title
from bdal.config.parts import NO_PARTS, Parts
from bdal.errors import LabelError
from bdal.experiment.progress import Progress
from bdal.experiment.run import advance, num_queries
from bdal.labelling.exchange import Item, Measured, State
from bdal.labelling.questions import gray_span, picture
from bdal.labelling.server import serve
from bdal.labelling.task import Task, held_task, load_task, open_round
from bdal.pool import ABSTAIN
from bdal.statistics import share_range
from bdal.store import directory
from bdal.store.ledger import START


def label(
    workdir: str | Path, *, data_dir: str | None = None, parts: Parts = NO_PARTS,
    port: int = 0, open_browser: bool = True, announce=print,
) -> None:  # fmt: skip
    """Serve the labelling page on this machine until it is stopped; the run directory is held meanwhile."""
    task = load_task(workdir, data_dir, parts)
    with held_task(task):
        serve(RunSession(task), port=port, open_browser=open_browser, announce=announce, folder=task.workdir)


def _measured_on(labels: int, done: bool) -> str:
    """What accuracy is measured on where there is no test set; how many labels is known once all are answered."""
    many = f"{labels} label{'' if labels == 1 else 's'}" if done else "labels"
    return f"Accuracy is measured on the {many} for validation."


def _measured(row: directory.Row, *, few: bool) -> Measured:
    """A round's accuracy, with its interval where it is of labels for validation."""
    ends = share_range(row.accuracy, row.points) if few and row.points else (None, None)
    return Measured(row.labels, row.accuracy, *ends)


class RunSession:
    """A `bdal.labelling.server.Session` on a run directory that is held."""

    def __init__(self, task: Task, progress=Progress):
        self._task = task
        self._progress = progress
        self._ledger = task.ledger
        self._names = task.prepared.data.source.file_names
        self._span = gray_span(task.prepared.data.source.inputs)

    def state(self) -> State:
        """Where the run stands."""
        ledger, experiment, data = self._ledger, self._task.prepared.experiment, self._task.prepared.data
        labels, number = experiment.labels, open_round(ledger)
        settled = ledger.settled(labels.contradictions)
        run = directory.SeedRun("", "", ledger.seed, ledger.folder, ledger.events, [])
        first = set(ledger.queried(START)[: labels.validation_labels])  # paid for, whatever was answered
        given = {index for index, answer in settled.items() if answer != ABSTAIN}
        paid = sum(1 for index in settled if index in first or index in given or labels.abstain_cost)
        rows = directory.rows_of(run, abstain_cost=0)  # what was trained on, whatever was paid for
        return State(
            round=0 if number is None else number + 1,
            total_rounds=num_queries(experiment) if labels.abstain_cost else None,
            phase="label" if number is not None else "finished" if ledger.finished else "training",
            items=tuple(
                Item(index, title(index, self._names), settled.get(index))
                for index in (ledger.queried(number) if number is not None else ())
            ),
            class_names=data.class_names,
            history=tuple(_measured(row, few=data.test is None) for row in rows),
            labels_paid=paid,
            budget=labels.budget,
            training_labels=len(given - first),
            message="" if data.test is not None else _measured_on(len(given & first), done=number != START),
            instruction=labels.instruction or "Which class is this?",
        )

    def image(self, pool_index: int) -> bytes | None:
        """A picture of a pool point: its file, or its array as PNG."""
        source = self._task.prepared.data.source
        found = picture(pool_index, source.inputs, source.files, span=self._span)
        return None if found is None else found.content

    def tell(self, pool_index: int, label: int) -> None:
        """Take an answer to the open query; on disk when this returns."""
        number = open_round(self._ledger)
        if number is None or pool_index not in self._ledger.queried(number):
            raise LabelError(f"pool point {pool_index} is not in the open query")
        self._ledger.tell(number, [pool_index], [label], num_classes=self._task.prepared.data.num_classes)

    def advance(self) -> None:
        """Train on what was answered, and choose the next query."""
        advance(self._task.prepared, self._task.workdir, self._progress)
        self._ledger = self._task.ledger
