"""One seed's ledger: its events, and what they say was labelled before a round.

An event is written once. Whoever comes back to a place in the ledger gets the event that is there. The first one says
whose ledger it is, and the seals of all others depend on it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdal.errors import LabelError
from bdal.experiment import durable
from bdal.experiment.durable import CorruptRunError
from bdal.experiment.lines import check_lines
from bdal.pool import ABSTAIN, LabelledSet, check_answers, extend

START = -1  # the round of the labels to start with, where people answer


class Sets(NamedTuple):
    """What is known of the pool before a round; preallocated, so that shapes never change."""

    labelled: LabelledSet
    validation: LabelledSet
    excluded: np.ndarray  # [N], validation and abstained points: not to be queried
    abstained: int  # training labels that were asked for and not given


class _Answer(NamedTuple):
    label: int
    by_file: bool


class Ledger:
    """The events of one (posterior, strategy, seed), in memory and on disk.

    `owner` is the run, the method and the seed (`directory.owner`). The first line of the ledger, and of the metrics,
    has them; those of another owner are refused as `CorruptRunError`.
    """

    def __init__(self, seed: int, folder: Path, owner: dict[str, Any] | None = None):
        self.seed = seed
        self.folder = folder
        self.owner = owner or {}
        self.events, measured = (durable.read(folder / name) for name in ("ledger.jsonl", "metrics.jsonl"))
        for name, lines, kind in (("ledger.jsonl", self.events, None), ("metrics.jsonl", measured, "metrics")):
            check_owner(folder / name, lines, self.owner)
            check_lines(folder / name, lines, kind)
        self._places = {}
        for event in self.events:
            self._places.setdefault((event["event"], event.get("round")), event)
        self._measured = {line["round"] for line in measured}
        if lost := sorted(number for number in self._measured if self.find("evaluated", number) is None):
            path = folder / "ledger.jsonl"
            raise CorruptRunError(
                f"{path}: ends before round {lost[0]}, which metrics.jsonl has, though the ledger is written first: "
                "lines are missing at its end"
            )

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.events) and self.events[-1].get("event") == "finished"

    def find(self, kind: str, number: int | None = None) -> dict[str, Any] | None:
        """The event of a kind, of a round where it has one; None if it has not come that far."""
        return self._places.get((kind, number))

    def record(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event as the ledger has it: the one that is there, or this one, now on disk."""
        known = self.find(event["event"], event.get("round"))
        return self.add(event) if known is None else known

    def add(self, event: dict[str, Any]) -> dict[str, Any]:
        """Append an event."""
        if not self.events:
            event = {"event": event["event"], **self.owner, **event}
        event = durable.plain(event)
        durable.append(self.folder / "ledger.jsonl", event)
        self.events.append(event)
        self._places.setdefault((event["event"], event.get("round")), event)
        return event

    def measure(self, facts: dict[str, Any]) -> None:
        """Add a line with seconds to the metrics, once a round."""
        if facts["round"] not in self._measured:
            facts = facts if self._measured else self.owner | facts
            durable.append(self.folder / "metrics.jsonl", facts)
            self._measured.add(facts["round"])

    # -- queries and answers

    def queried(self, number: int) -> list[int]:
        """The pool indices that were queried in a round; none if it has not come that far."""
        event = self.find("queried", number)
        return [] if event is None else event["indices"]

    def unanswered(self, number: int) -> list[int]:
        """Those of a round's query without an answer yet."""
        answers = self.answers()
        return [index for index in self.queried(number) if index not in answers]

    def completed_rounds(self) -> int:
        """Rounds whose query is answered."""
        number, answers = 0, self.answers()
        while (event := self.find("queried", number)) and all(index in answers for index in event["indices"]):
            number += 1
        return number

    def answers(self, before: int | None = None) -> dict[int, list[int]]:
        """Each point's answers in the order they came, ABSTAIN among them: all, or those before a round's training."""
        return {index: [answer.label for answer in given] for index, given in self._answers(before).items()}

    def settled(self, policy: str, before: int | None = None) -> dict[int, int]:
        """The label that each point's answers amount to by `policy`, ABSTAIN among them.

        Of a person at work, who corrects what was answered before, the latest answer counts; of files, every one.
        """
        settled = {}
        for index, given in self._answers(before).items():
            latest = max((place for place, answer in enumerate(given) if not answer.by_file), default=None)
            votes = [answer.label for place, answer in enumerate(given) if answer.by_file or place == latest]
            settled[index] = settle(votes, policy)
        return settled

    def _answers(self, before: int | None) -> dict[int, list[_Answer]]:
        answers: dict[int, list[_Answer]] = {}
        for event in self.events:
            if before is not None and (event["event"], event.get("round")) == ("evaluated", before):
                break
            if event["event"] in ("validation", "initial", "labelled"):
                for index, label in zip(event["indices"], event["labels"], strict=True):
                    found = answers.setdefault(index, [])
                    if event["event"] != "labelled" and found:  # the start repeats what people answered
                        continue
                    found.append(_Answer(ABSTAIN if label is None else label, by_file="source" in event))
        return answers

    def tell(self, number: int, indices, labels, *, num_classes: int, source: dict[str, str] | None = None) -> int:
        """Write answers to a round's open query, and corrections of earlier ones, in one event; gives how many are new.

        A point may have several answers, and what it has already is not written again: a file that is given a second
        time, filled in further, tells what is new in it and undoes no correction. Without a source it is a person at
        work, whose answer counts unless it is the point's latest already.

        Raises:
          LabelError: a label that is no class and not ABSTAIN, or a point that was never queried; nothing is written.
        """
        indices = [int(index) for index in indices]
        labels = check_answers(labels, indices, num_classes).tolist()
        known, open_now = self.answers(), set(self.queried(number))
        unknown = sorted({index for index in indices if index not in open_now and index not in known})
        if unknown:
            raise LabelError(
                f"answers: expected points of the open query, found {unknown[:5]}{' ...' if len(unknown) > 5 else ''}, "
                "which were not asked for; nothing was written"
            )
        given: dict[int, list[int]] = {}
        for index, label in zip(indices, labels, strict=True):
            given.setdefault(index, []).append(label)
        news = _not_yet if source is not None else _not_latest
        new = [(index, label) for index in given for label in news(given[index], known.get(index, []))]
        if new:
            points, answers = zip(*new, strict=True)
            nulls = [None if label == ABSTAIN else label for label in answers]
            event = {"event": "labelled", "round": number, "indices": points, "labels": nulls}
            self.add(event if source is None else event | {"source": source})
        return len(new)

    # -- what is labelled

    def sets(self, number: int, *, capacity: int, policy: str, num_points: int, num_classes: int) -> Sets:
        """What round `number` trains on, with contradictions settled by `policy`, "last" or "majority".

        Points stand in the order in which they were asked for, whatever the order of the answers. Where the oracle
        abstained on points for validation, others stand there twice, so that there are always as many.
        """
        answers = self.settled(policy, before=number)
        for event in self.events:
            if "indices" in event and (outside := [index for index in event["indices"] if index >= num_points]):
                path = self.folder / "ledger.jsonl"
                raise CorruptRunError(
                    f"{path}: {event['event']!r}: expected pool points below {num_points}, found {outside[0]}"
                )
        held_out, bought = (self.find(kind) for kind in ("validation", "initial"))
        start = [] if bought is None else bought["indices"]
        asked = start + [index for r in range(number) for index in self.queried(r)]
        validation = [] if held_out is None else held_out["indices"]
        labelled = [index for index in asked if answers.get(index, ABSTAIN) != ABSTAIN]
        abstained = [index for index in asked if answers.get(index) == ABSTAIN]
        valid = [index for index in validation if answers[index] != ABSTAIN]

        def filled(indices: Sequence[int], room: int) -> LabelledSet:
            return extend(
                LabelledSet.empty(max(room, len(indices))), np.asarray(indices, np.int32),
                np.asarray([answers[index] for index in indices], np.int32), num_points=num_points,
                num_classes=num_classes,
            )  # fmt: skip

        held_out = filled(valid, len(valid))
        if validation and not valid:
            raise LabelError(
                f"{self.folder}: expected a label for at least one of {len(validation)} points for validation, found "
                f"abstentions only; correct one of {validation[:5]} by bdal tell, or start again elsewhere with more"
            )
        again = np.resize(np.arange(len(valid)), len(validation))
        held_out = LabelledSet(held_out.indices[again], held_out.labels[again], np.int32(len(again)))
        excluded = np.zeros(num_points, bool)
        excluded[validation + abstained] = True
        return Sets(filled(labelled, capacity), held_out, excluded, len(abstained))


def check_owner(path: Path, lines: Sequence[dict[str, Any]], owner: dict[str, Any]) -> None:
    """Raise `CorruptRunError` if a file has lines, and the first of them says that they are of another owner."""
    found = {name: lines[0].get(name) for name in owner} if lines else owner
    if found != owner:
        raise CorruptRunError(
            f"{path}: expected that of {_of(owner)}, found that of {_of(found)}: it was copied here; put its own back, "
            "or take its folder away"
        )


def _of(owner: dict[str, Any]) -> str:
    if set(owner.values()) == {None}:
        return "nobody (it does not say whose it is)"
    return ", ".join(f"{name} {value}" for name, value in owner.items())


def _not_yet(given: Sequence[int], known: Sequence[int]) -> list[int]:
    """Those of a point's answers that it does not have, each as often as it is given more often."""
    left, new = Counter(known), []
    for label in given:
        if left[label]:
            left[label] -= 1
        else:
            new.append(label)
    return new


def _not_latest(given: Sequence[int], known: Sequence[int]) -> list[int]:
    """A point's answers, but for those that repeat the one before."""
    before = [*(known[-1:] or [None]), *given[:-1]]
    return [label for label, last in zip(given, before, strict=True) if label != last]


def settle(answers: Sequence[int], policy: str) -> int:
    """The label that contradicting answers amount to: the last one, or the last of the most frequent.

    >>> settle([3, 5, 5, 3, 7], "last"), settle([3, 5, 5, 3, 7], "majority"), settle([3, 5, 5, 7], "majority")
    (7, 3, 5)
    """
    if policy == "last":
        return answers[-1]
    votes = Counter(answers)
    most = max(votes.values())
    return next(answer for answer in reversed(answers) if votes[answer] == most)
