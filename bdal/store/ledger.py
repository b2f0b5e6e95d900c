"""One seed's ledger: its events, and what they say was labelled before a round.

An event is written once: recording it again returns the event that is there. The first event names the run, method and
seed, and the checksums of all later lines depend on it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdal.answers import GROUND_TRUTH
from bdal.errors import LabelError
from bdal.pool import ABSTAIN, LabelledSet, check_answers, extend
from bdal.store import durable
from bdal.store.durable import CorruptRunError
from bdal.store.lines import check_lines

START = -1  # the round of the labels to start with, where people answer


class Sets(NamedTuple):
    """What is known of the pool before a round; preallocated, so that shapes never change."""

    labelled: LabelledSet
    validation: LabelledSet
    excluded: np.ndarray  # [N], validation and abstained points: not to be queried
    abstained: int  # training labels that were asked for and not given


PAGE = "page"  # answers given on the labelling page


class _Answer(NamedTuple):
    label: int
    by: str | None  # PAGE, GROUND_TRUTH, or an annotation; None for a plain row of a file
    made: float | None = None  # when, in seconds, where the file says it
    file: str | None = None


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
        return {index: [answer.label for answer in given] for index, given in _answers(self.events, before).items()}

    def kept(self) -> dict[int, list[int]]:
        """Answers to points that were not queried yet, in order of arrival."""
        told = _answers(self.events, kinds=("known",))
        return {index: [answer.label for answer in given] for index, given in told.items()}

    def settled(self, policy: str, before: int | None = None) -> dict[int, int]:
        """The label that each point's answers amount to by `policy`; ABSTAIN where nobody gave a label."""
        return settled(self.events, policy, before)

    def tell(
        self, number: int, indices, labels, *, num_classes: int, source: dict[str, str] | None = None,
        by: Sequence[str | None] | None = None, made: Sequence[float | None] | None = None, keep: int | None = None,
    ) -> int:  # fmt: skip
        """Write answers to a round's open query, and corrections of earlier ones, in one event; gives how many are new.

        A point may have several answers, and what it has already is not written again: a file that is given a second
        time, filled in further, tells what is new in it and undoes no correction. A file may correct back: what it says
        last of a point is new where an earlier file of its name said something else, where no file of its name spoke of
        the point and the point's last label is another, or where it is a later word than all that are known. Without
        a source it is a person at work, whose answer counts unless it is the point's latest already.

        Args:
          number: the round.
          indices: `[A]` pool indices, those of a point in the order in which they were made.
          labels: `[A]` classes or ABSTAIN.
          num_classes: C.
          source: the file, `{"file": its name, "sha256": of its bytes}`; None: a person at work.
          by: for each answer the annotation that it is, or GROUND_TRUTH, or None.
          made: for each answer when it was made, in seconds, or None.
          keep: N, to keep what is told of points that were not queried for when they are (`recall`); None: refuse it.

        Raises:
          LabelError: a label that is no class and not ABSTAIN, or a point that was never queried; nothing is written.
        """
        indices = [int(index) for index in indices]
        labels = check_answers(labels, indices, num_classes).tolist()
        known, open_now = _answers(self.events), set(self.queried(number))
        unknown = sorted({index for index in indices if index not in open_now and index not in known})
        if unknown and not keep:
            raise LabelError(
                f"answers: expected points of the open query, found {unknown[:5]}{' ...' if len(unknown) > 5 else ''}, "
                "which were not asked for; nothing was written"
            )
        if wrong := [index for index in unknown if not 0 <= index < (keep or 0)]:
            raise LabelError(f"answers: expected pool points in [0, {keep}), found {wrong[:5]}; nothing was written")
        file, nothing = None if source is None else source["file"], [None] * len(indices)
        given: dict[int, list[_Answer]] = {}
        for index, label, who, time in zip(indices, labels, by or nothing, made or nothing, strict=True):
            given.setdefault(index, []).append(_Answer(label, who, time, file))
        kept = _answers(self.events, kinds=("known",))
        known = {
            index: known.get(index, kept.get(index, [])) if index in unknown else known.get(index, [])
            for index in given
        }
        news = _at_work if source is None else _of_a_file
        new = [(index, answer) for index in given for answer in news(given[index], known[index])]
        for kind in ("known", "labelled"):
            part = [(index, answer) for index, answer in new if (index in unknown) == (kind == "known")]
            if not part:
                continue
            event = {
                "event": kind, "round": number, "indices": [index for index, _ in part],
                "labels": [None if answer.label == ABSTAIN else answer.label for _, answer in part],
            }  # fmt: skip
            for field in ("by", "made"):
                if any(getattr(answer, field) is not None for _, answer in part):
                    event[field] = [getattr(answer, field) for _, answer in part]
            self.add(event if source is None else event | {"source": source})
        return len(new)

    def recall(self, number: int, *, num_classes: int) -> int:
        """Answer a round's query from the answers kept earlier. Returns how many there were."""
        wanted, count = set(self.unanswered(number)), 0
        for event in [event for event in self.events if event["event"] == "known"]:
            rows = [row for row, index in enumerate(event["indices"]) if index in wanted]
            if rows:
                picked: dict[str, Any] = {
                    key: [event[key][row] for row in rows]
                    for key in ("indices", "labels", "by", "made")
                    if key in event
                }
                picked["labels"] = [ABSTAIN if label is None else label for label in picked["labels"]]
                count += self.tell(number, num_classes=num_classes, source=event.get("source"), **picked)
        return count

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
    """Raise `CorruptRunError` if the first line of a file names another owner."""
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


def settled(events: Sequence[dict[str, Any]], policy: str, before: int | None = None) -> dict[int, int]:
    """The label that each point's answers in a ledger amount to by `policy`; ABSTAIN where nobody gave a label.

    Of a person at work, and of an annotation, the latest answer counts; of rows of files, every one.
    """
    labels = {}
    for index, given in _answers(events, before).items():
        given = given[max((n for n, answer in enumerate(given) if answer.by == GROUND_TRUTH), default=0) :]
        latest = {answer.by: n for n, answer in enumerate(given)}
        votes = [answer.label for n, answer in enumerate(given) if answer.by is None or latest[answer.by] == n]
        labels[index] = settle(votes, policy)
    return labels


def _answers(
    events: Sequence[dict[str, Any]],
    before: int | None = None,
    kinds: Sequence[str] = ("validation", "initial", "labelled"),
) -> dict[int, list[_Answer]]:
    """Each point's answers in the order they came; those of exports among each other by when they were made."""
    answers: dict[int, list[_Answer]] = {}
    for event in events:
        if before is not None and (event["event"], event.get("round")) == ("evaluated", before):
            break
        if event["event"] not in kinds:
            continue
        nobody = [None if "source" in event else PAGE] * len(event["indices"])
        by, made = event.get("by", nobody), event.get("made", [None] * len(nobody))
        file = event.get("source", {}).get("file")
        for index, label, who, time in zip(event["indices"], event["labels"], by, made, strict=True):
            found = answers.setdefault(index, [])
            if event["event"] in ("validation", "initial") and found:  # the start repeats what people answered
                continue
            later = [n for n, other in enumerate(found) if time and other.made and other.made > time]
            place = later[0] if later else len(found)
            found.insert(place, _Answer(ABSTAIN if label is None else label, who, time, file))
    return answers


def _of_a_file(given: Sequence[_Answer], known: Sequence[_Answer]) -> list[_Answer]:
    """The new answers of a file to one point: new or changed annotations, labels given more often, and a later
    correction.
    """
    words = {answer.by: answer for answer in known if answer.by is not None}
    left = Counter(answer.label for answer in known if answer.by in (None, PAGE))
    new = []
    for answer in given:
        if answer.by is not None and answer.by in words:
            before = words[answer.by]
            older = answer.made is not None and before.made is not None and answer.made < before.made
            if answer.label != before.label and not older:
                new.append(answer)
        elif answer.by != GROUND_TRUTH and left[answer.label]:
            left[answer.label] -= 1
        else:
            new.append(answer)
    return new or [answer for answer in given[-1:] if _is_later(answer, known)]


def _is_later(answer: _Answer, known: Sequence[_Answer]) -> bool:
    """Whether an answer goes back to an earlier label."""
    labels = [other.label for other in known if other.label != ABSTAIN]
    own = [other.label for other in known if other.file == answer.file]
    if answer.label == ABSTAIN or answer.by == GROUND_TRUTH:
        return False
    if answer.made is not None and (times := [other.made for other in known if other.made is not None]):
        return answer.made > max(times) and answer.label != labels[-1]
    return answer.label != (own[-1] if own else labels[-1])


def _at_work(given: Sequence[_Answer], known: Sequence[_Answer]) -> list[_Answer]:
    """A point's answers, but for those that repeat the one before."""
    before = [*(known[-1:] or [None]), *given[:-1]]
    return [answer for answer, last in zip(given, before, strict=True) if last is None or answer.label != last.label]


def settle(answers: Sequence[int], policy: str) -> int:
    """The label that contradicting answers amount to: the last one, or the last of the most frequent.

    A label outweighs an abstention, also a later one.

    >>> settle([3, 5, 5, 3, 7], "last"), settle([3, 5, 5, 3, 7], "majority"), settle([3, 5, 5, 7], "majority")
    (7, 3, 5)
    >>> settle([3, ABSTAIN, ABSTAIN], "last"), settle([ABSTAIN, 3], "majority")
    (3, 3)
    """
    answers = [answer for answer in answers if answer != ABSTAIN] or answers
    if policy == "last":
        return answers[-1]
    votes = Counter(answers)
    most = max(votes.values())
    return next(answer for answer in reversed(answers) if votes[answer] == most)
