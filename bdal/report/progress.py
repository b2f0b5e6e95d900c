"""How far the runs of a group are, and why they ended."""

import shlex
from collections import Counter
from typing import NamedTuple

from bdal.report import queried
from bdal.report.document import Block, Paragraph, Section, Table
from bdal.report.gather import FILE, Group, Key
from bdal.report.words import both, several, span, title

REASONS = {
    "budget": "budget spent",
    "exhausted": "pool exhausted",
    "ceiling": "joint information at its ceiling, log K",
    "stabilised": "predictions stabilised",
    "no_gain": "no expected gain",
}


def how_far(group: Group) -> str:
    """How many of the runs are finished, and how far the others are."""
    states = [_state(group, key, seed) for key, seeds in group.planned.items() for seed in seeds]
    if group.own == FILE:
        return f"{several(len(states), 'learning curve')} from {group.sources[0].name}."
    still_open = [state.rounds for state in states if state.reason is None]
    far = _of_planned(group, span(still_open))
    rounds = f"{far} round{'' if far == '1' else 's'}, not finished"
    if not any(state.started for state in states):
        return "Nothing has been run yet."
    if not still_open:
        why = both(REASONS.get(reason, reason) for reason in sorted({str(state.reason) for state in states}))
        every = {1: "The run is", 2: "Both runs are"}.get(len(states), f"All {len(states)} runs are")
        return f"{every} finished: {why}."
    if waits := _waits(group):
        return f"{waits} {far} rounds are done."
    if len(states) == 1:
        return f"The run has come to {rounds}."
    if len(still_open) == len(states):
        return f"None of {len(states)} runs is finished; they have come to {rounds}."
    others = "the other has" if len(still_open) == 1 else "the others have"
    return f"{len(states) - len(still_open)} of {len(states)} runs are finished; {others} come to {rounds}."


def section(group: Group) -> Section:
    if group.own == FILE:
        return Section("Progress", [])
    lines, unfinished = [], 0
    for key, seeds in group.planned.items():
        states = [_state(group, key, seed) for seed in seeds]
        unfinished += sum(state.reason is None for state in states)
        reasons = Counter(state.reason for state in states if state.reason is not None)
        some = len(reasons) > 1 or sum(reasons.values()) < len(seeds)
        ends = [
            f"{count} of {len(seeds)}: {REASONS.get(reason, reason)}" if some else REASONS.get(reason, reason)
            for reason, count in reasons.items()
        ]
        if not ends:
            ends = ["not finished" if any(state.started for state in states) else "not started"]
        far = _of_planned(group, span([state.rounds for state in states]))
        labels = span([state.labels for state in states])
        lines.append([title(key[0]), key[1], "; ".join(ends), f"{sum(reasons.values())} of {len(seeds)}", far, labels])
    caption = (
        "How far each strategy is. A round is one fit and its evaluation; the first has the labels to start with. "
        "A strategy that stops early has fewer rounds than planned."
    )
    heads = ["posterior", "strategy", "ended by", "seeds finished", "rounds", "training labels"]
    alike = not unfinished and all(line[2:] == lines[0][2:] for line in lines)  # then the head says it all
    blocks: list[Block] = [Table(caption, heads, lines, left=3)] if lines and not alike else []
    for source in group.sources:
        where = f"{source.name}: " if len(group.sources) > 1 else ""
        blocks += [
            Paragraph(f"{where}{text}; what stands before it is in this report.", note=True) for text in source.torn
        ]
    blocks += [Paragraph(text, note=True) for text in group.twice]
    return Section("Progress", blocks)


class _State(NamedTuple):
    started: bool
    rounds: int  # evaluated
    labels: int
    reason: str | None


def _state(group: Group, key: Key, seed: int) -> _State:
    run = next((run for run in group.runs_of(key) if run.seed == seed), None)
    if run is None:
        return _State(False, 0, 0, None)
    evaluated = {event.get("round"): event for event in run.events if event.get("event") == "evaluated"}
    labels = max((event.get("labels", 0) for event in evaluated.values()), default=0)
    return _State(bool(run.events), len(evaluated), labels, run.reason)


def _of_planned(group: Group, rounds: str) -> str:
    """Rounds, of those with which the budget is spent; abstentions that cost nothing make more of them."""
    labels, query = group.section("labels"), group.section("query")
    if group.training_labels is None or not labels["abstain_cost"]:
        return rounds
    return f"{rounds} of {1 + max(0, -(-(group.training_labels - labels['initial']) // query['size']))}"


def _waits(group: Group) -> str:
    """For how many labels of people a run waits, and how they are given; "" where it waits for none."""
    if group.section("labels")["oracle"] != "people":
        return ""
    wanted = sum(queried.unanswered(run) for run in group.runs if not run.reason)
    how = f": bdal label {shlex.quote(group.sources[0].name)}" if len(group.sources) == 1 else ""
    return f"The run waits for {several(wanted, 'label')}{how}." if wanted else ""
