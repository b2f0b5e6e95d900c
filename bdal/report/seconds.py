"""How long the runs of a group took, by phase."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from bdal.report import figures
from bdal.report.document import Block, Paragraph, Section, Table
from bdal.report.gather import Group, Key
from bdal.report.queried import Draw
from bdal.report.words import by_posterior, title


def section(group: Group, draw: Draw) -> Section:
    by_round: dict[Key, dict[int, dict[str, float]]] = {}
    shared = 1
    for key in group.planned:
        found: dict[int, list[dict[str, float]]] = defaultdict(list)
        for run in group.runs_of(key):
            for line in run.metrics:
                if isinstance(line.get("seconds"), dict) and isinstance(line.get("round"), int):
                    seeds = max(1, line.get("seeds", 1))
                    shared = max(shared, seeds)
                    found[line["round"]].append({phase: value / seeds for phase, value in line["seconds"].items()})
        if found:
            by_round[key] = {
                turn: {phase: float(np.mean([one.get(phase, 0.0) for one in found[turn]])) for phase in figures.PHASES}
                for turn in sorted(found)
            }
    if not by_round:
        text = "No seconds are on record yet (metrics.jsonl)."
        return Section("Time", [Paragraph(text)] if group.runs and not group.own else [])

    usual = {key: {phase: _usual(rounds, phase) for phase in figures.PHASES} for key, rounds in by_round.items()}
    digits = 3 if max(sum(phases.values()) for phases in usual.values()) < 1 else 2
    lines = [
        [
            title(key[0]),
            key[1],
            *(f"{usual[key][phase]:.{digits}f}" for phase in figures.PHASES),
            f"{sum(rounds[min(rounds)].values()):.{digits}f}",
            f"{len(group.runs_of(key)) * sum(sum(phases.values()) for phases in rounds.values()):,.1f}",
        ]
        for key, rounds in by_round.items()
    ]
    blocks: list[Block] = []
    for suffix, about, some in by_posterior(by_round):
        caption = f"{about}Seconds of each round, a seed's share. A bar that is cut off has its total beside it."
        alt = f"Seconds of each round, stacked by phase, for {', '.join(' '.join(name.split()) for name in some)}."
        blocks.append(draw(f"rounds{suffix}", alt, caption, figures.seconds_by_round, some))
    share = f" Up to {shared} seeds run in one program; what is shown is the share of one." if shared > 1 else ""
    caption = (
        "Seconds a round and seed by phase: medians over the rounds after the first, which also compiles; the whole of "
        f"the first round; and all rounds and seeds together.{share}"
    )
    heads = ["posterior", "strategy", *figures.PHASES, "first round", "in all"]
    blocks.append(Table(caption, heads, lines, left=2))
    return Section("Time", blocks)


def _usual(rounds: Mapping[int, Mapping[str, float]], phase: str) -> float:
    """The median over the rounds after the first; the last round has no query."""
    later = [phases[phase] for turn, phases in rounds.items() if turn > min(rounds)] or [rounds[min(rounds)][phase]]
    return float(np.median([value for value in later if value] or later))
