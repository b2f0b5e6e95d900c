"""A ledger says what was asked and answered, in whatever parts, and what a round is trained on."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bdal.answers import GROUND_TRUTH
from bdal.errors import LabelError
from bdal.pool import ABSTAIN
from bdal.store import durable
from bdal.store.durable import CorruptRunError
from bdal.store.ledger import START, Ledger, settle

N, C = 20, 4


@pytest.fixture
def folder(tmp_path):
    return tmp_path


@pytest.fixture
def ledger(folder):
    """Two rounds: the first answered, the second asked."""
    ledger = Ledger(3, folder)
    ledger.record({"event": "validation", "indices": [0, 1], "labels": [2, 3]})
    ledger.record({"event": "initial", "indices": [2, 3], "labels": [0, 1]})
    ledger.record({"event": "evaluated", "round": 0, "accuracy": 0.5})
    ledger.record({"event": "queried", "round": 0, "indices": [4, 5]})
    ledger.tell(0, [4, 5], [1, 1], num_classes=C)
    ledger.record({"event": "evaluated", "round": 1, "accuracy": 0.75})
    ledger.record({"event": "queried", "round": 1, "indices": [8, 6, 7]})
    return ledger


def again(ledger):
    """The same ledger, as the next process finds it."""
    found = Ledger(ledger.seed, ledger.folder)
    assert found.events == ledger.events
    return found


def sets(ledger, number, policy="last", capacity=10):
    return ledger.sets(number, capacity=capacity, policy=policy, num_points=N, num_classes=C)


def trained_on(ledger, number, policy="last"):
    labelled = sets(ledger, number, policy).labelled
    count = int(labelled.count)
    return dict(zip(labelled.indices[:count].tolist(), labelled.labels[:count].tolist(), strict=True))


def tell(ledger, number, indices, labels, **more):
    return ledger.tell(number, indices, labels, num_classes=C, **more)


# -- events -----------------------------------------------------------------------------------------------------------


def test_an_event_is_written_once(ledger):
    before = (ledger.folder / "ledger.jsonl").read_bytes()
    other = {"event": "queried", "round": 1, "indices": [9, 10, 11]}
    assert ledger.record(other) == {"event": "queried", "round": 1, "indices": [8, 6, 7]}
    assert again(ledger).record(other) == {"event": "queried", "round": 1, "indices": [8, 6, 7]}
    assert (ledger.folder / "ledger.jsonl").read_bytes() == before
    assert ledger.find("queried", 0) == {"event": "queried", "round": 0, "indices": [4, 5]}
    assert ledger.find("queried", 2) is None
    assert ledger.find("validation")["labels"] == [2, 3]


def test_arrays_are_in_memory_what_they_are_on_disk(folder):
    ledger = Ledger(0, folder)
    event = ledger.record({"event": "queried", "round": np.int32(0), "indices": np.array([3, 1], np.int32)})
    assert event == {"event": "queried", "round": 0, "indices": [3, 1]}
    assert ledger.find("queried", 0) is event
    again(ledger)


def test_metrics_have_a_line_a_round(ledger):
    ledger.measure({"round": 0, "seconds": {"fit": 1.5}})
    ledger.measure({"round": 0, "seconds": {"fit": 2.5}})
    again(ledger).measure({"round": 0, "seconds": {"fit": 3.5}})
    again(ledger).measure({"round": 1, "seconds": {"fit": 4.5}})
    found = durable.read(ledger.folder / "metrics.jsonl")
    assert found == [{"round": 0, "seconds": {"fit": 1.5}}, {"round": 1, "seconds": {"fit": 4.5}}]


def test_it_is_finished_once_it_says_so(ledger):
    assert not ledger.finished
    assert not Ledger(0, ledger.folder / "nowhere").finished
    ledger.record({"event": "finished", "round": 2, "reason": "budget"})
    assert again(ledger).finished


# -- answers ----------------------------------------------------------------------------------------------------------


def test_answers_may_come_in_parts_and_in_any_order(ledger):
    assert (ledger.completed_rounds(), ledger.unanswered(1)) == (1, [8, 6, 7])
    assert tell(ledger, 1, [7], [3]) == 1
    assert (again(ledger).completed_rounds(), again(ledger).unanswered(1)) == (1, [8, 6])
    assert tell(again(ledger), 1, [6, 8], [ABSTAIN, 2]) == 2
    ledger = again(Ledger(3, ledger.folder))
    assert (ledger.completed_rounds(), ledger.unanswered(1)) == (2, [])
    assert ledger.events[-1] == {"event": "labelled", "round": 1, "indices": [6, 8], "labels": [None, 2]}
    assert list(trained_on(ledger, 2).items()) == [(2, 0), (3, 1), (4, 1), (5, 1), (8, 2), (7, 3)]  # as asked for


@pytest.mark.parametrize("order", itertools.permutations([8, 6, 7]))
def test_the_same_answers_in_other_parts_train_on_the_same(folder, order):
    answer = {8: 2, 6: 1, 7: 3}
    for number, cuts in enumerate(itertools.combinations_with_replacement(range(4), 2)):
        ledger = Ledger(0, folder / str(number))
        ledger.folder.mkdir()
        ledger.record({"event": "queried", "round": 0, "indices": [8, 6, 7]})
        for part in (order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] :]):
            tell(ledger, 0, part, [answer[index] for index in part])
        assert sets(ledger, 1).labelled.indices[:3].tolist() == [8, 6, 7]
        assert sets(ledger, 1).labelled.labels[:3].tolist() == [2, 1, 3]


@pytest.mark.parametrize(
    ("indices", "labels", "message"),
    [
        ([8, 9], [0, 0], r"expected points of the open query, found \[9\], which were not asked for; nothing was"),
        ([19, 8, 9, 10, 11, 12, 13], [0] * 7, r"found \[9, 10, 11, 12, 13\] \.\.\., which were not asked for"),
        ([-1], [0], r"found \[-1\]"),
        ([8, 6], [0, C], rf"expected a class in \[0, {C}\), got {C} for pool point 6"),
        ([8, 6], [0, -1], rf"expected a class in \[0, {C}\), got -1 for pool point 6"),
        ([8, 6], [0, 1.5], "expected integer classes, got 1.5 for pool point 6"),
        ([8, 6], [0, None], "expected integer classes, got None for pool point 6"),
        ([8, 6], [0], r"expected one for each of the 2 queried points 8, 6, got shape \(1,\)"),
        ([8], [0, 1], r"expected one for each of the 1 queried points 8, got shape \(2,\)"),
    ],
)
def test_what_was_not_asked_for_or_is_no_class_is_refused_as_a_whole(ledger, indices, labels, message):
    before = (ledger.folder / "ledger.jsonl").read_bytes()
    with pytest.raises(LabelError, match=message):
        tell(ledger, 1, indices, labels)
    assert (ledger.folder / "ledger.jsonl").read_bytes() == before
    assert ledger.unanswered(1) == again(ledger).unanswered(1) == [8, 6, 7]


def test_the_same_answers_again_tell_nothing_new(ledger):
    source = {"file": "answers.csv", "sha256": "77"}
    assert tell(ledger, 1, [8, 6], [2, 1], source=source) == 2
    assert ledger.events[-1]["source"] == source
    before = (ledger.folder / "ledger.jsonl").read_bytes()
    assert tell(ledger, 1, [8, 6], [2, 1], source=source) == 0
    assert tell(ledger, 1, [8, 6], [2, 1], source={"file": "other.csv", "sha256": "78"}) == 0  # by what it says
    assert tell(ledger, 1, [], []) == 0
    assert (ledger.folder / "ledger.jsonl").read_bytes() == before


def test_a_correction_leaves_both_answers_and_counts_from_the_next_training_on(ledger):
    before = [sets(ledger, number) for number in (0, 1)]
    assert tell(ledger, 1, [8, 6, 7, 5, 0], [2, 2, 2, 3, 1]) == 5  # 5 is of round 0, 0 is for validation
    ledger = again(ledger)
    assert ledger.answers()[5] == [1, 3]
    assert ledger.answers()[0] == [2, 1]
    for number, known in zip((0, 1), before, strict=True):  # what has been trained stays what it was
        for one, other in zip(sets(ledger, number)[:2], known[:2], strict=True):
            np.testing.assert_array_equal(one.labels, other.labels)
            np.testing.assert_array_equal(one.indices, other.indices)
    assert trained_on(ledger, 2) == {2: 0, 3: 1, 4: 1, 5: 3, 8: 2, 6: 2, 7: 2}
    assert sets(ledger, 2).validation.labels.tolist() == [1, 3]


def test_a_single_answer_that_changes_ones_mind_back_is_news(ledger):
    for label in (1, 2, 1):
        assert tell(ledger, 1, [8], [label]) == 1
    assert tell(ledger, 1, [8], [1]) == 0
    assert ledger.answers()[8] == [1, 2, 1]
    export = {"file": "export.json", "sha256": "79"}
    assert tell(ledger, 1, [8, 8, 8], [1, 2, 1], source=export) == 0  # all that was said so far
    assert tell(ledger, 1, [8, 8, 8, 8], [1, 2, 1, 0], source=export) == 1  # and one more


def test_a_person_who_corrects_has_one_vote_and_every_file_has_its_own(ledger):
    for label in (0, 1, 0):
        tell(ledger, 1, [8], [label])
    assert again(ledger).settled("majority")[8] == 0
    tell(ledger, 1, [8], [2])  # the page shows what was pressed
    assert ledger.settled("majority")[8] == ledger.settled("last")[8] == 2
    tell(ledger, 1, [8, 8], [1, 1], source={"file": "a.csv", "sha256": "80"})
    assert ledger.settled("majority")[8] == 1  # 1 to 1, the last
    assert ledger.answers()[8] == [0, 1, 0, 2, 1]
    tell(ledger, 1, [8], [2])
    assert ledger.settled("majority")[8] == ledger.settled("last")[8] == 2  # 1 to 1, the last


def file(name, text=""):
    return {"file": name, "sha256": text or name}


@pytest.mark.parametrize("policy", ["last", "majority"])
@pytest.mark.parametrize("by", [None, "9"])
def test_a_skip_of_another_annotator_erases_no_label(ledger, policy, by):
    tell(ledger, 1, [8, 6, 7], [2, 1, 0], source=file("one.json"), by=by and ["1", "2", "3"])
    skips = [[by] * 3, [101.0, 102.0, 103.0]] if by else [None, None]
    tell(ledger, 1, [8, 6, 4], [ABSTAIN] * 3, source=file("other.json"), by=skips[0], made=skips[1])
    ledger = again(ledger)
    assert ledger.settled(policy) == {0: 2, 1: 3, 2: 0, 3: 1, 4: 1, 5: 1, 8: 2, 6: 1, 7: 0}
    assert sets(ledger, 2, policy).abstained == 0


def test_a_file_corrects_and_corrects_back(ledger):
    for name, label, new, counts in [
        ("a.csv", 1, 1, 1),
        ("b.csv", 2, 1, 2),
        ("a.csv", 1, 0, 2),  # what it said before the correction
        ("c.csv", 1, 1, 1),  # and a word of its own
        ("b.csv", 1, 1, 1),
        ("b.csv", 2, 1, 2),
        ("a.csv", 2, 1, 2),
        ("a.csv", 1, 1, 1),
        ("a.csv", 1, 0, 1),
    ]:
        assert tell(ledger, 1, [8], [label], source=file(name)) == new
        assert again(ledger).settled("last")[8] == counts


def test_an_annotation_has_one_vote_and_a_ground_truth_outweighs_those_before(ledger):
    def export(labels, by, made, name="e.json"):
        return tell(ledger, 1, [8] * len(labels), labels, source=file(name), by=by, made=made)

    export([1, 1, 1], ["1", "2", "3"], [1.0, 2.0, 3.0])
    assert export([1, 1, 1], ["1", "2", "3"], [1.0, 2.0, 3.0]) == 0
    assert export([2, 2, 3], ["1", "2", "3"], [4.0, 5.0, 6.0]) == 3
    assert again(ledger).settled("majority")[8] == 2
    assert again(ledger).settled("last")[8] == 3
    assert export([1], ["4"], [7.0], "other.json") == export([1], ["5"], [7.0], "another.json") == 1
    assert export([0], [GROUND_TRUTH], [None]) == 1
    assert export([0], [GROUND_TRUTH], [None]) == 0
    assert again(ledger).settled("majority")[8] == again(ledger).settled("last")[8] == 0


def test_of_an_annotation_the_latest_word_counts_by_when_it_was_made(ledger):
    def export(name, label, made, which="7"):
        return tell(ledger, 1, [8], [label], source=file(name), by=[which], made=[made])

    assert export("1.json", 1, 10.0) == 1
    assert export("2.json", 2, 20.0) == 1  # updated
    assert export("3.json", 1, 30.0) == 1  # and back
    assert again(ledger).settled("last")[8] == 1
    assert export("2.json", 2, 20.0) == export("old copy.json", 2, 20.0) == 0
    assert export("4.json", 3, 25.0, which="8") == 1  # of somebody else, earlier: the file came later
    assert again(ledger).settled("last")[8] == 1
    assert ledger.events[-1]["by"] == ["8"]
    assert ledger.events[-1]["made"] == [25.0]
    tell(ledger, 1, [8], [0])  # on the page
    assert export("5.json", 1, 30.0) == 0  # an export that holds the old annotation still
    assert ledger.settled("last")[8] == 0
    assert export("6.json", 1, 40.0) == 1  # said again, later
    assert ledger.settled("last")[8] == 1


def test_lines_that_are_missing_at_the_end_are_noticed_by_the_metrics(ledger):
    path = ledger.folder / "ledger.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    ledger.measure({"round": 0, "seconds": {"fit": 1.0}})
    again(ledger)
    end = next(place for place, line in enumerate(whole) if b'"evaluated", "round": 0' in line)
    path.write_bytes(b"".join(whole[:end]))
    with pytest.raises(CorruptRunError, match=r"ledger\.jsonl: ends before round 0, which metrics\.jsonl has"):
        again(ledger)


def test_a_file_that_is_filled_in_further_undoes_no_correction(ledger):
    first, further = ({"file": "answers.csv", "sha256": digest} for digest in ("80", "81"))
    assert tell(ledger, 1, [8], [1], source=first) == 1
    assert tell(ledger, 1, [8], [2]) == 1  # corrected on the page
    assert tell(ledger, 1, [8, 6], [1, 0], source=further) == 1  # only what is new in it
    assert ledger.answers()[8] == [1, 2]
    assert ledger.answers()[6] == [0]


def test_the_start_repeats_what_people_answered_without_a_vote_of_its_own(folder):
    ledger = Ledger(0, folder)
    ledger.record({"event": "queried", "round": START, "indices": [4, 9, 1]})
    tell(ledger, START, [9, 4, 1, 9], [3, ABSTAIN, 2, 1])
    tell(ledger, START, [9], [3])
    ledger.record({"event": "validation", "indices": [1], "labels": [2]})
    ledger.record({"event": "initial", "indices": [9, 4], "labels": [3, None]})
    assert again(ledger).answers() == {9: [3, 1, 3], 4: [ABSTAIN], 1: [2]}
    assert trained_on(ledger, 0) == {9: 3}
    tell(ledger, START, [9], [1])
    assert again(ledger).answers()[9] == [3, 1, 3, 1]
    assert trained_on(ledger, 0) == trained_on(ledger, 0, "majority") == {9: 1}  # 2 to 2, the last


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2, ABSTAIN]), min_size=1, max_size=7))
def test_settled_by_the_last_or_the_majority(answers):
    last, winner = settle(answers, "last"), settle(answers, "majority")
    answers = [answer for answer in answers if answer != ABSTAIN] or answers  # a label outweighs an abstention
    assert last == answers[-1]
    most = max(answers.count(answer) for answer in answers)
    assert answers.count(winner) == most
    later = answers[len(answers) - answers[::-1].index(winner) :]
    assert all(answers.count(answer) < most for answer in later)  # of the most frequent, the last said


# -- what is labelled -------------------------------------------------------------------------------------------------


def test_abstained_points_are_closed_and_counted(ledger):
    tell(ledger, 1, [8, 6, 7], [ABSTAIN, 1, ABSTAIN])
    known = sets(ledger, 2)
    assert known.abstained == 2
    assert np.flatnonzero(known.excluded).tolist() == [0, 1, 7, 8]
    assert trained_on(ledger, 2) == {2: 0, 3: 1, 4: 1, 5: 1, 6: 1}
    assert sets(ledger, 1).abstained == 0
    assert np.flatnonzero(sets(ledger, 1).excluded).tolist() == [0, 1]


def test_an_abstention_may_become_a_label_and_a_label_an_abstention(ledger):
    tell(ledger, 1, [8, 6, 7], [ABSTAIN, 1, 2])
    tell(ledger, 1, [8, 6], [3, ABSTAIN])
    known = sets(ledger, 2)
    assert (known.abstained, np.flatnonzero(known.excluded).tolist()) == (1, [0, 1, 6])
    assert trained_on(ledger, 2) == {2: 0, 3: 1, 4: 1, 5: 1, 8: 3, 7: 2}


@pytest.mark.parametrize("given", itertools.product([True, False], repeat=3))
def test_validation_always_has_as_many_rows_and_none_without_a_label(folder, given):
    ledger = Ledger(0, folder)
    labels = [label if there else None for label, there in zip([3, 1, 2], given, strict=True)]
    ledger.record({"event": "validation", "indices": [5, 6, 7], "labels": labels})
    ledger.record({"event": "initial", "indices": [], "labels": []})
    if not any(given):
        with pytest.raises(LabelError, match="at least one of 3 points for validation, found abstentions only"):
            sets(ledger, 0)
        return
    held_out = sets(ledger, 0).validation
    expected = {(i, label) for i, label, there in zip([5, 6, 7], [3, 1, 2], given, strict=True) if there}
    rows = list(zip(held_out.indices.tolist(), held_out.labels.tolist(), strict=True))
    assert len(rows) == int(held_out.count) == 3
    assert set(rows) == expected
    assert max(rows.count(row) for row in rows) <= -(-3 // len(expected))  # spread evenly
    assert np.flatnonzero(sets(ledger, 0).excluded).tolist() == [5, 6, 7]


def test_shapes_do_not_depend_on_how_much_is_labelled(ledger):
    shapes = {
        tuple(part.shape for part in (known.labelled.indices, known.validation.indices, known.excluded))
        for known in (sets(ledger, 0), sets(ledger, 1))
    }
    assert shapes == {((10,), (2,), (N,))}
