"""The sections of a report on a group of runs, in order, and the paragraph on what was run."""

import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bdal.config.data import GIVEN
from bdal.report import compared, conclusions, curves, progress, queried, seconds, settings, tables, training
from bdal.report.analysis import analyse_all
from bdal.report.document import Block, Paragraph, Picture, Section
from bdal.report.gather import FILE, OWN, Group
from bdal.report.queried import Draw, Pool
from bdal.report.words import both, capital, number, several, span, title

KINDS = ("png", "pdf", "svg")


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
        progress.section(group),
        curves.calibration(group, draw),
        *compared.sections(group, analyses),
        *queried.sections(group, pool, draw),
        seconds.section(group, draw),
        training.section(group),
        settings.warned(group),
        settings.configuration(group),
        settings.environment(group),
    ]
    sections = [
        section
        for section, after in zip(sections, [*sections[1:], None], strict=True)
        if section.blocks or (after is not None and after.level > section.level)
    ]
    verdicts = conclusions.leads(analyses.values(), partial(compared.so_far, group))
    lead = [
        *map(Paragraph, [progress.how_far(group), *verdicts]),
        curves.accuracy(group, draw),
        *map(Paragraph, filter(None, [_setting(group, pool)])),
    ]
    return Part(lead, sections)


def title_of(group: Group) -> str:
    """The names of the experiments in a group."""
    names = list(dict.fromkeys(str(source.tree.get("name", source.name)) for source in group.sources))
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} others"


def _drawer(folder: Path, prefix: str) -> Draw:
    """`draw(name, alt, caption, function of `figures`, its arguments ...)`: writes the files, gives the picture."""

    def draw(name: str, alt: str, caption: str, function: Callable[..., list[Path]], *data: Any) -> Picture:
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", prefix + name).strip("_")
        *_, svg = function(*data, path_stem=folder / name, kinds=KINDS)
        return Picture(name, svg.read_text(encoding="utf-8"), alt, caption)

    return draw


def _setting(group: Group, pool: Pool) -> str:
    """What was run, on what, in one paragraph."""
    if group.own:
        return _own_setting(group)
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
        f"({', '.join(strategies)}) under {both(under)}{_network(group)}, on {_data(group, pool)}, "
        f"over {_seeds(group)}. "
        f"A run starts from {labels['initial']} {first} labels, buys {query['size']} a round, and may pay for "
        f"{labels['budget']}: {labels['budget'] - validation} to train on and {validation} for validation."
        f"{' People answer.' if labels['oracle'] == 'people' else ''}"
    )


def _own_setting(group: Group) -> str:
    """What is known of runs without a config."""
    if not group.rows:
        return ""
    strategies = list(dict.fromkeys(strategy for _, strategy in group.planned))
    noun = "query strategy" if group.own == OWN else "method"
    noun = noun if len(strategies) == 1 else {"method": "methods"}.get(noun, "query strategies")
    members = {
        posterior: span([row.members for row in group.rows if row.posterior == posterior and row.members])
        for posterior in group.posteriors
    }
    named = [
        f"{title(name)}{f' ({members[name]} members)' if members[name] != '0' else ''}" for name in group.posteriors
    ]
    under = f" under {both(named)}" if any(group.posteriors) else ""
    data = f", on {group.section('data')['name']}" if "data" in group.sources[0].tree else ""
    how = f"read from {group.sources[0].name}" if group.own == FILE else "by a loop of its own"
    runs: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for row in group.rows:
        runs[row[:3]].append(row.labels)
    first, last = span([min(found) for found in runs.values()]), span([max(found) for found in runs.values()])
    validation = span([row.validation_labels for row in group.rows])
    besides = f", with {validation} more for validation" if validation != "0" else ""
    where = f"{len(group.sources)} run directories, read as one. " if len(group.sources) > 1 else ""
    what = f"{where}{capital(number(len(strategies)))} {noun} ({', '.join(strategies)}){under}{data}"
    return f"{what}, {how}, over {_seeds(group)}. Curves begin at {first} training labels and end at {last}{besides}."


def _seeds(group: Group) -> str:
    """How many seeds there are, and how many of them are paired: those that all strategies of a posterior have."""
    by_name = [[set(seeds) for key, seeds in group.planned.items() if key[0] == name] for name in group.posteriors]
    every = set().union(*(seeds for strategies in by_name for seeds in strategies))
    paired = [len(set.intersection(*strategies)) for strategies in by_name]
    if all(seeds == strategies[0] for strategies in by_name for seeds in strategies):
        return "1 seed" if len(every) == 1 else f"{span(paired)} paired seeds"
    shared = f"{span(paired)} of them" if any(paired) else "none of them"
    return f"{several(len(every), 'seed')}, {shared} paired, that is, with runs of all strategies"


def _network(group: Group) -> str:
    """The networks of a group, by the names of their configs; nothing where the posteriors need none."""
    named = [source.tree.get("model") for source in group.sources]
    found = dict.fromkeys(_builder(each) for each in named if each is not None)
    return f" of the network {both(found)}" if len(found) == 1 else f" of the networks {both(found)}" if found else ""


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
    name = "arrays given in Python" if data["name"] == GIVEN else Path(str(data["name"])).name
    return f"{name} ({known})" if known else name


def _builder(builder: Any) -> str:
    if not isinstance(builder, dict):
        return str(builder)
    options = ", ".join(f"{key} {value}" for key, value in builder.items() if key != "name")
    return f"{builder.get('name')} ({options})" if options else str(builder.get("name"))
