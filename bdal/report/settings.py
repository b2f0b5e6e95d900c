"""With what the runs of a group were made: warnings, configuration, versions and devices."""

from typing import Any

from bdal import config
from bdal.report.document import SHORT, Block, Bullets, Folded, Paragraph, Section, Table
from bdal.report.gather import Group, Source, merge
from bdal.report.progress import how_far
from bdal.report.words import span


def warned(group: Group) -> Section:
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
    elif not group.own:
        blocks.append(Paragraph("No warning is on record."))
    return Section("Warnings", blocks)


def configuration(group: Group) -> Section:
    first, *others = group.sources
    blocks: list[Block] = []
    if others:
        lines = [[source.name, _what(source), how_far(merge([source]))] for source in group.sources]
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
    if group.own:
        return Section("Configuration" if not blocks else "Directories", blocks)
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


def environment(group: Group) -> Section:
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
    if not found and group.own:
        return Section("Versions and devices", [])
    if not found:
        return Section("Versions and devices", [Paragraph("There is no run.json yet.")])
    names = list(dict.fromkeys(name for facts in found.values() for name in facts))
    heads = ["", *(found if len(found) > 1 else ["value"])]
    lines = [[name.replace("_", " "), *(facts.get(name, "–") for facts in found.values())] for name in names]
    data = sorted({str(source.identity["data"]) for source in group.sources if "data" in source.identity})
    note = f"Fingerprint of the data (SHA-256): {', '.join(data)}." if data else ""
    caption = "Versions and devices of the runs, as run.json has them."
    return Section("Versions and devices", [Table(caption, heads, lines, left=len(heads), note=note)])
