"""What a report says of runs: how far, how good, how sure, how dear, and with what settings.

Plain functions of a `Group`, each a section. What the strategies asked for is in `bdal.experiment.report.queried`.
"""

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdal.experiment import conclusions, config, figures, tables
from bdal.experiment.analysis import analyse_all
from bdal.experiment.directory import Row
from bdal.experiment.report import compared, queried
from bdal.experiment.report.document import (
    SHORT,
    Block,
    Bullets,
    Folded,
    Paragraph,
    Picture,
    Pictures,
    Section,
    Table,
)
from bdal.experiment.report.gather import Group, Key, Source, merge
from bdal.experiment.report.queried import Draw, Pool
from bdal.experiment.words import both, by_posterior, capital, number, several, span, title

KINDS = ("png", "pdf", "svg")
REASONS = {
    "budget": "budget spent",
    "exhausted": "pool exhausted",
    "ceiling": "joint information at its ceiling, log K",
    "stabilised": "predictions stabilised",
    "no_gain": "no expected gain",
}


class Part(NamedTuple):
    """A group's head of the report, and its sections."""

    lead: list[Block]
    sections: list[Section]


def of_group(group: Group, folder: Path, prefix: str, load_data: bool) -> Part:
    """Everything that is said of one group of run directories; its figures are `folder/<prefix>*`."""
    pool = queried.pool_of(group, load_data)
    draw = _drawer(folder, prefix)
    analyses = analyse_all(group.rows, group.about)
    analyses = {posterior: analyses[posterior] for posterior in group.posteriors if posterior in analyses}
    sections = [
        _progress(group),
        _calibration(group, draw),
        *compared.sections(group, analyses),
        *queried.sections(group, pool, draw),
        _seconds(group, draw),
        _warnings(group),
        _configuration(group),
        _environment(group),
    ]
    sections = [
        section
        for section, after in zip(sections, [*sections[1:], None], strict=True)
        if section.blocks or (after is not None and after.level > section.level)
    ]
    lead = [
        *map(Paragraph, [_how_far(group), *conclusions.leads(analyses.values(), partial(compared.so_far, group))]),
        _curves(group, draw),
        Paragraph(_setting(group, pool)),
    ]
    return Part(lead, sections)


def title_of(group: Group) -> str:
    """The names of the experiments in a group."""
    names = list(dict.fromkeys(str(source.tree.get("name", source.name)) for source in group.sources))
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} others"


def _drawer(folder: Path, prefix: str) -> Draw:
    """`draw(name, alt, caption, function of figures.py, its arguments ...)`: writes the files, gives the picture."""

    def draw(name: str, alt: str, caption: str, function: Callable[..., list[Path]], *data: Any) -> Picture:
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", prefix + name).strip("_")
        *_, svg = function(*data, path_stem=folder / name, kinds=KINDS)
        return Picture(name, svg.read_text(encoding="utf-8"), alt, caption)

    return draw


# -- the head --------------------------------------------------------------------------------------------------------


def _setting(group: Group, pool: Pool) -> str:
    """What was run, on what, in one paragraph."""
    labels, query = group.section("labels"), group.section("query")
    strategies = list(
        dict.fromkeys(strategy for _, strategy in sorted(group.planned, key=lambda key: key[1] == "random"))
    )
    members = {
        str(entry.get("posterior")): entry.get("members")
        for source in group.sources
        for entry in source.tree.get("comparisons", [])
    }
    under = []
    for name in group.posteriors:
        own = [strategy for posterior, strategy in group.planned if posterior == name]
        about = [f"{members[name]} members"] if name in members else []
        about += [f"{both(own)} only"] if len(own) < len(strategies) else []
        under.append(f"{title(name)} ({'; '.join(about)})" if about else title(name))
    validation = round(labels["validation"] * labels["budget"])
    first = "class-balanced" if labels["balanced"] else "random"
    where = f"{several(len(group.sources), 'run directory', 'run directories')} on the same data, read as one. "
    return (
        f"{where if len(group.sources) > 1 else ''}"
        f"{capital(number(len(strategies)))} query {'strategy' if len(strategies) == 1 else 'strategies'} "
        f"({', '.join(strategies)}) under {both(under)}, on {_data(group, pool)}, over {_seeds(group)}. "
        f"A run starts from {labels['initial']} {first} labels, buys {query['size']} a round, and may pay for "
        f"{labels['budget']}: {labels['budget'] - validation} to train on and {validation} for validation."
        f"{' People answer.' if labels['oracle'] == 'people' else ''}"
    )


def _seeds(group: Group) -> str:
    """How many seeds there are, and how many of them are paired: those that all strategies of a posterior have."""
    by_name = [[set(seeds) for key, seeds in group.planned.items() if key[0] == name] for name in group.posteriors]
    every = set().union(*(seeds for strategies in by_name for seeds in strategies))
    paired = [len(set.intersection(*strategies)) for strategies in by_name]
    if all(seeds == strategies[0] for strategies in by_name for seeds in strategies):
        return "1 seed" if len(every) == 1 else f"{span(paired)} paired seeds"
    shared = f"{span(paired)} of them" if any(paired) else "none of them"
    return f"{several(len(every), 'seed')}, {shared} paired, that is, with runs of all strategies"


def _data(group: Group, pool: Pool) -> str:
    data, facts = group.section("data"), group.facts
    held_out = tables.measured_on(group.about) or "the validation labels"
    size = facts.get("points") or (len(pool.inputs) if pool.inputs is not None else None)
    distinct = facts.get("distinct_points")
    builders = [_builder(builder) for builder in data["builders"]]
    known = [
        f"{size:,} points in the pool" if size else f"{data['pool']:,} points in the pool" if data["pool"] else "",
        f"{distinct:,} of them distinct" if distinct and distinct != size else "",
        f"{len(pool.classes)} classes" if pool.certain else "",
        f"changed by {both(builders)}" if builders else "",
        f"no test set: what is measured is measured on {held_out}" if facts.get("test_points") == 0 else "",
    ]
    known = ", ".join(filter(None, known))
    name = Path(str(data["name"])).name
    return f"{name} ({known})" if known else name


def _builder(builder: Any) -> str:
    if not isinstance(builder, dict):
        return str(builder)
    options = ", ".join(f"{key} {value}" for key, value in builder.items() if key != "name")
    return f"{builder.get('name')} ({options})" if options else str(builder.get("name"))


def _how_far(group: Group) -> str:
    """How many of the runs are finished, and how far the others are."""
    states = [_state(group, key, seed) for key, seeds in group.planned.items() for seed in seeds]
    still_open = [state.rounds for state in states if state.reason is None]
    rounds = f"{_of_planned(group, span(still_open))} rounds, not finished"
    if not any(state.started for state in states):
        return "Nothing has been run yet."
    if not still_open:
        why = both(REASONS.get(reason, reason) for reason in sorted({str(state.reason) for state in states}))
        every = {1: "The run is", 2: "Both runs are"}.get(len(states), f"All {len(states)} runs are")
        return f"{every} finished: {why}."
    if waits := _waits(group):
        return f"{waits} {_of_planned(group, span(still_open))} rounds are done."
    if len(states) == 1:
        return f"The run has come to {rounds}."
    if len(still_open) == len(states):
        return f"None of {len(states)} runs is finished; they have come to {rounds}."
    others = "the other has" if len(still_open) == 1 else "the others have"
    return f"{len(states) - len(still_open)} of {len(states)} runs are finished; {others} come to {rounds}."


def _finished(group: Group) -> bool:
    return all(_state(group, key, seed).reason for key, seeds in group.planned.items() for seed in seeds)


def _waits(group: Group) -> str:
    """For how many labels of people a run waits, and how they are given; "" where it waits for none."""
    if group.section("labels")["oracle"] != "people":
        return ""
    wanted = sum(queried.unanswered(run) for run in group.runs if not run.reason)
    how = f": bdal label {shlex.quote(group.sources[0].name)}" if len(group.sources) == 1 else ""
    return f"The run waits for {several(wanted, 'label')}{how}." if wanted else ""


# -- how far ---------------------------------------------------------------------------------------------------------


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
    if not labels["abstain_cost"]:
        return rounds
    return f"{rounds} of {1 + max(0, -(-(group.training_labels - labels['initial']) // query['size']))}"


def _progress(group: Group) -> Section:
    lines = []
    for key, seeds in group.planned.items():
        states = [_state(group, key, seed) for seed in seeds]
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
    alike = all(line[2:] == lines[0][2:] for line in lines) and _finished(group)  # then the head says it all
    blocks: list[Block] = [Table(caption, heads, lines, left=3)] if lines and not alike else []
    for source in group.sources:
        where = f"{source.name}: " if len(group.sources) > 1 else ""
        blocks += [
            Paragraph(f"{where}{text}; what stands before it is in this report.", note=True) for text in source.torn
        ]
    blocks += [Paragraph(text, note=True) for text in group.twice]
    return Section("Progress", blocks)


# -- how good --------------------------------------------------------------------------------------------------------


def _curves(group: Group, draw: Draw) -> Block:
    """Accuracy along the curve, a figure a posterior."""
    if not group.rows:
        return Paragraph("No round has been evaluated yet.")
    bands = [name for posterior in _evaluated(group) for name in figures.banded(group.rows, posterior)]
    every = len({row.strategy for row in group.rows}) == len(set(bands))
    what = f"Accuracy on {_measured_on(group)} against {tables.axis(group.rows)}"
    seeds = _seeds_drawn(group)
    caption = (
        f"{what}: means over {span(seeds)} seeds, as far as all seeds of a strategy have come. Shaded: 95 % Student t "
        f"intervals of {'these means' if every else 'the means of random and the best others'}, not corrected for the "
        "number of strategies or label counts."
        if max(seeds) > 1
        else f"{what}, of one seed: no intervals."
    )
    return _drawn(group, draw, "curves", ["accuracy"], caption)


def _calibration(group: Group, draw: Draw) -> Section:
    """NLL and ECE along the curve."""
    caption = (
        "Negative log-likelihood (NLL, nats) and expected calibration error (ECE, 15 bins), measured and drawn as the "
        "accuracy above; lower is better."
    )
    blocks = [_drawn(group, draw, "nll_ece", ["nll", "ece"], caption)] if group.rows else []
    return Section("NLL and ECE", blocks)


def _drawn(group: Group, draw: Draw, name: str, metrics: list[str], caption: str) -> Pictures:
    """Learning curves, a figure a posterior."""
    posteriors, on = _evaluated(group), group.about.on
    pictures = []
    for posterior in posteriors:
        alt = f"Learning curves. {_ends(group.rows, posterior, metrics, on)}"
        function = partial(figures.learning_curves, on=on, metrics=metrics, posterior=posterior)
        own = f"{name}_{posterior}" if len(posteriors) > 1 else name
        pictures.append(draw(own, alt, "", function, group.rows))
    return Pictures(pictures, caption, wide=len(metrics) > 1)


def _evaluated(group: Group) -> list[str]:
    return [posterior for posterior in group.posteriors if any(row.posterior == posterior for row in group.rows)]


def _seeds_drawn(group: Group) -> list[int]:
    return [len({row.seed for row in group.rows if row[:2] == key}) for key in {row[:2] for row in group.rows}]


def _measured_on(group: Group) -> str:
    on = tables.measured_on(group.about)
    part = tables.curve_measure(group.rows, group.about)
    return (f"{on}, as there is no test set," if on else "the test set") + (f" ({part})" if part else "")


def _ends(rows: Sequence[Row], posterior: str, metrics: Sequence[str], on: str) -> str:
    """Where each strategy's line ends, in words."""
    said = []
    for metric in metrics:
        scale, digits, unit = (100, 1, " %") if metric == "accuracy" else (1, 3, "")
        ends = []
        for strategy in dict.fromkeys(row.strategy for row in rows if row.posterior == posterior):
            if line := figures.curve(rows, posterior, strategy, metric):
                labels, value = line[-1]
                ends.append(f"{title(posterior)} {strategy} {scale * value.mean:.{digits}f}{unit} at {labels}")
        name = conclusions.NAMES[metric]
        said.append(f"{capital(on)} {name} at the end of each line, in {tables.axis(rows)}: {'; '.join(ends)}.")
    return " ".join(said)


# -- how dear --------------------------------------------------------------------------------------------------------


def _seconds(group: Group, draw: Draw) -> Section:
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
        return Section("Time", [Paragraph(text)] if group.runs else [])

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


# -- settings --------------------------------------------------------------------------------------------------------


def _warnings(group: Group) -> Section:
    def where(source: Source, text: Any) -> str:
        return f"{source.name}: {text}" if len(group.sources) > 1 else str(text)

    mismatches = [where(source, text) for source in group.sources for text in source.identity.get("mismatches", [])]
    lines = [
        [where(source, warning.get("where", "")), str(warning.get("category", "")), str(warning.get("message", ""))]
        for source in group.sources
        for warning in source.warnings
    ]
    blocks: list[Block] = []
    if mismatches:
        text = (
            "Went on with --allow-mismatch although these differed (there != then); the rounds before and after it may "
            "not be comparable:"
        )
        blocks += [Paragraph(text, note=True), Bullets(mismatches)]
    if lines:
        blocks.append(Table("What the run warned of, each warning once.", ["where", "kind", "message"], lines, left=3))
    else:
        blocks.append(Paragraph("No warning is on record."))
    return Section("Warnings", blocks)


def _configuration(group: Group) -> Section:
    first, *others = group.sources
    blocks: list[Block] = []
    if others:
        lines = [[source.name, _what(source), _how_far(merge([source]))] for source in group.sources]
        blocks.append(
            Table("The run directories.", ["directory", "what", "how far"], lines, left=3, folded=len(lines) > SHORT)
        )
    blocks += [
        Paragraph(
            f"{source.name}: {source.problem}; it is shown as it is.",
            note=True,
        )
        for source in group.sources
        if source.problem
    ]
    for source in group.sources:
        if source.edited:
            text = (
                f"{f'{source.name}/' if others else ''}config.yaml was edited after the run had begun, in what follows "
                "(as the run began != in the file); this report is of the run as it began:"
            )
            blocks += [Paragraph(text, note=True), Bullets(source.edited)]
    blocks.append(Folded(f"{first.name}/config.yaml" if others else "config.yaml", first.text))
    for source in others:
        if source.experiment is None or first.experiment is None:
            blocks.append(Folded(f"{source.name}/config.yaml", source.text))
        elif differing := config.differences(first.experiment, source.experiment):
            name = f"{source.name}/config.yaml: where it differs ({first.name} != {source.name})"
            blocks.append(Folded(name, "\n".join(differing)))
    return Section("Configuration", blocks)


def _what(source: Source) -> str:
    """Which runs a directory holds."""
    posteriors = list(dict.fromkeys(posterior for posterior, _ in source.planned))
    strategies = list(dict.fromkeys(strategy for _, strategy in source.planned))
    seeds = [seed for every in source.planned.values() for seed in every]
    return f"{', '.join(posteriors)}; {', '.join(strategies)}; seed {span(seeds)}" if seeds else "nothing"


def _environment(group: Group) -> Section:
    found: dict[str, dict[str, str]] = {}
    for source in group.sources:
        environments = [source.identity, *source.identity.get("later", [])] if source.identity else []
        for turn, environment in enumerate(environments):
            facts = {name: environment.get(name) for name in ("backend", "device_kind", "devices", "chunk_size")}
            facts |= environment.get("versions") or {}
            facts = {name: str(value) for name, value in facts.items() if value is not None}
            place = [source.name] if len(group.sources) > 1 else []
            when = "later" if turn else "at first" if len(environments) > 1 else ""
            name = ", ".join(filter(None, [*place, f"{when} ({turn})" if turn > 1 else when]))
            if facts not in found.values():
                found[name or "value"] = facts
    if not found:
        return Section("Versions and devices", [Paragraph("There is no run.json yet.")])
    names = list(dict.fromkeys(name for facts in found.values() for name in facts))
    heads = ["", *(found if len(found) > 1 else ["value"])]
    lines = [[name.replace("_", " "), *(facts.get(name, "–") for facts in found.values())] for name in names]
    data = sorted({str(source.identity["data"]) for source in group.sources if "data" in source.identity})
    note = f"Fingerprint of the data (SHA-256): {', '.join(data)}." if data else ""
    caption = "Versions and devices of the runs, as run.json has them."
    return Section("Versions and devices", [Table(caption, heads, lines, left=len(heads), note=note)])
