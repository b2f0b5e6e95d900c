"""Lines whose seals fit and which make no sense are named, with file, line and field."""

import pytest

from bdal.store import durable
from bdal.store.directory import seed_runs
from bdal.store.durable import CorruptRunError
from bdal.store.ledger import Ledger
from bdal.store.lines import check_lines
from tests.store.test_durable import EVENTS

NONSENSE = [
    ({}, "nothing: event: expected text, found nothing"),
    ({"event": ["queried"]}, "event: expected text, found ['queried']"),
    ({"event": "validation"}, "'validation': indices: expected a list of pool points, found nothing"),
    ({"event": "initial", "indices": [1], "labels": [1, 2]}, "labels: expected 1, one a point, found [1, 2]"),
    ({"event": "initial", "indices": [-1], "labels": [1]}, "indices: expected a list of pool points, found [-1]"),
    ({"event": "initial", "indices": [1], "labels": ["cat"]}, "labels: expected a list of labels, found ['cat']"),
    ({"event": "queried", "round": 0, "indices": "abc"}, "indices: expected a list of pool points, found 'abc'"),
    ({"event": "queried", "indices": [1]}, "round: expected a round's number, found nothing"),
    ({"event": "queried", "round": True, "indices": [1]}, "round: expected a round's number, found true"),
    ({"event": "labelled", "round": 0, "indices": [1.5], "labels": [0]}, "found [1.5]"),
    ({"event": "evaluated", "round": 0, "accuracy": "high"}, "accuracy: expected a number, found 'high'"),
    ({"event": "evaluated", "round": 0, "labels": [3]}, "labels: expected a number of at least 0, found [3]"),
    ({"event": "evaluated", "round": 0, "final": [0.5]}, "final: expected numbers by their names, found [0.5]"),
    ({"event": "finished", "round": 0}, "reason: expected text, found nothing"),
    ({"event": "finished", "reason": "budget"}, "round: expected a round's number, found nothing"),
]


@pytest.mark.parametrize(("event", "says"), NONSENSE)
def test_a_sealed_line_of_a_ledger_that_makes_no_sense(tmp_path, event, says):
    folder = tmp_path / "mc_dropout" / "random" / "seed_0"
    folder.mkdir(parents=True)
    for each in (EVENTS[0], event):
        durable.append(folder / "ledger.jsonl", each)
    for read in (lambda: Ledger(0, folder), lambda: seed_runs(tmp_path)):
        with pytest.raises(CorruptRunError) as caught:
            read()
        assert str(caught.value).startswith(f"{folder / 'ledger.jsonl'}: line 2: ")
        assert says in str(caught.value)


@pytest.mark.parametrize(
    "line", [{}, {"round": "0"}, {"round": 0, "seconds": 3}, {"round": 0, "gains": [[1]]}, {"round": 0, "seeds": "x"}]
)
def test_a_sealed_line_of_metrics_that_makes_no_sense(tmp_path, line):
    folder = tmp_path / "mc_dropout" / "random" / "seed_0"
    folder.mkdir(parents=True)
    durable.append(folder / "ledger.jsonl", EVENTS[0])
    durable.append(folder / "metrics.jsonl", line)
    for read in (lambda: Ledger(0, folder), lambda: seed_runs(tmp_path)):
        with pytest.raises(CorruptRunError, match=r"metrics\.jsonl: line 1: 'metrics': "):
            read()


@pytest.mark.parametrize("line", [{}, {"where": "", "category": [], "message": ""}])
def test_a_warning_that_is_none(line):
    with pytest.raises(CorruptRunError, match=r"warnings\.jsonl: line 1: 'warning': "):
        check_lines("warnings.jsonl", [line], "warning")


def test_a_point_that_the_pool_does_not_have(tmp_path):
    ledger = Ledger(0, tmp_path)
    for event in EVENTS[:3]:
        ledger.add(event)
    ledger.add({"event": "queried", "round": 0, "indices": [99]})
    ledger.add({"event": "labelled", "round": 0, "indices": [99], "labels": [None]})
    with pytest.raises(CorruptRunError, match="'queried': expected pool points below 20, found 99"):
        ledger.sets(1, capacity=5, policy="last", num_points=20, num_classes=2)


def test_what_is_written_makes_sense(tmp_path):
    for event in EVENTS:
        durable.append(tmp_path / "ledger.jsonl", event)
    assert Ledger(0, tmp_path).events == EVENTS
