"""`report`: run directories, and CSV files of curves, as one HTML file, the same as Markdown, and its figures.

    OUT/report.html                      everything, figures too; opens anywhere
    OUT/report.md                        the same text and tables, with links to the figures
    OUT/figures/<name>.png .pdf .svg

It takes a run directory as it is: running, crashed or finished. Nothing in it is changed but OUT, and the same
directory gives the same bytes.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

from bdal import config
from bdal.environment import expanded
from bdal.errors import ConfigError
from bdal.report import sections
from bdal.report.document import Bullets, Document, Paragraph, Section, html, markdown
from bdal.report.gather import Group, gather
from bdal.store.durable import write_atomic


def report(
    workdirs: Sequence[str | Path], out: str | Path | None = None, *, load_data: bool = True,
    data_dir: str | Path | None = None,
) -> Path:  # fmt: skip
    """Write the report of run directories and of CSV files of curves, and return the path of its HTML file.

    Directories on the same data with the same labels to pay for, as the points of a sweep are, are read as one run;
    those of a loop of one's own (`bdal.store.write_round`), if they have the same name and data.

    Args:
      workdirs: run directories, finished or not, and files as `read_curves` takes them.
      out: the folder to write to; if None, `report` in the first directory, or `<name>-report` beside the first file.
      load_data: read the data set, where it lies on this machine, for the classes of the pool and the images.
      data_dir: where it lies, the folder of a named data set or the `.npz` or folder itself, if not where it was.

    Raises:
      ConfigError: a directory that is no run directory, a file that holds no curves, or a folder that cannot be written
        to.
      CorruptRunError: a file of a run that no interrupted write can explain.
    """
    paths = list(dict.fromkeys(expanded(workdir).resolve() for workdir in workdirs))
    if not paths:
        raise ConfigError("report: expected at least one run directory, found none")
    if out is not None and Path(out).suffix in (".html", ".md", ".pdf", ".png"):
        raise ConfigError(
            f"out: expected a folder, in which the report is report.html, got {out}; pass {Path(out).with_suffix('')}"
        )
    groups = [_with_data_at(group, data_dir) for group in gather(paths)]
    first = paths[0].with_name(f"{paths[0].stem}-report") if paths[0].is_file() else paths[0] / "report"
    out = first if out is None else expanded(out).resolve()
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be used for the report: {error.strerror or error}") from error

    with warnings.catch_warnings(record=True) as caught:  # letters that the figures' font does not have ...
        warnings.simplefilter("always")
        parts = [
            sections.of_group(group, out / "figures", f"{number}_" if len(groups) > 1 else "", load_data)
            for number, group in enumerate(groups, start=1)
        ]
    names = _names(groups)
    lead, body = parts[0]
    if len(groups) > 1:
        known = "" if not any(group.own for group in groups) else "that are not known to be "
        differ = "on the same data with the same labels to pay for" if known else ""
        differ = differ or "on different data or with different labels to pay for"
        text = f"{len(groups)} experiments {known}{differ}, each on its own."
        lead = [Paragraph(text)]
        body = []
        for name, part in zip(names, parts, strict=True):
            body.append(Section(name, part.lead))
            body += [section._replace(level=section.level + 1) for section in part.sections]
    noted = [" ".join(str(warning.message).split()) for warning in caught if warning.category is UserWarning]
    if noted:
        body = [*body, Section("Notes on the figures", [Bullets(sorted(set(noted)))])]
    for warning in caught:
        if warning.category is not UserWarning:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    document = Document(" and ".join(dict.fromkeys(map(sections.title_of, groups))), lead, body)
    write_atomic(out / "report.md", markdown(document))
    write_atomic(out / "report.html", html(document))
    return out / "report.html"


def _with_data_at(group: Group, data_dir: str | Path | None) -> Group:
    sources = [
        source._replace(experiment=config.moved(source.experiment, data_dir)) if source.experiment else source
        for source in group.sources
    ]
    return group._replace(sources=sources)


def _names(groups: Sequence[Group]) -> list[str]:
    """What the groups are called: by their experiments, and where these are the same, by what differs."""
    fields = [
        {f"{part}.{key}": value for part in ("data", "labels") for key, value in group.section(part).items()}
        for group in groups
    ]
    titles = [sections.title_of(group) for group in groups]
    names = []
    for title, own in zip(titles, fields, strict=True):
        namesakes = [other for name, other in zip(titles, fields, strict=True) if name == title]
        differing = [f"{path} {value}" for path, value in own.items() if any(each[path] != value for each in namesakes)]
        names.append(f"{title} ({', '.join(differing)})" if differing else title)
    sources = [group.sources[0].name for group in groups]
    again = [names.count(name) > 1 for name in names]
    return [f"{name} ({source})" if twice else name for name, source, twice in zip(names, sources, again, strict=True)]
