"""A document as data, and the same document as one HTML file and as Markdown.

A document is a title, a lead, and sections of blocks. Text is plain text wherever it comes from: the HTML template
escapes it, and `markdown` does too.
"""

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from bdal.report.figures import DARK

SHORT = 12  # lines of a table that is not folded


class Paragraph(NamedTuple):
    """One paragraph; a `note` is set apart."""

    text: str
    note: bool = False
    kind: str = "paragraph"


class Bullets(NamedTuple):
    """A list of short texts."""

    items: Sequence[str]
    kind: str = "bullets"


class Table(NamedTuple):
    """Heads and lines of text; the first `left` columns are names, the others numbers."""

    caption: str
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]
    left: int = 1
    note: str = ""  # below the table
    shade: bool = False  # cells that are numbers from 0 to 1 get a colour
    folded: bool = False  # a long one, which a reader opens
    kind: str = "table"


class Picture(NamedTuple):
    """A figure that lies as `figures/<name>.png` and `.pdf` beside the document, its drawing as SVG for the HTML."""

    name: str
    svg: str
    alt: str
    caption: str
    kind: str = "picture"


class Pictures(NamedTuple):
    """Figures under one caption, the small ones side by side."""

    pictures: Sequence[Picture]
    caption: str
    wide: bool = False  # one below the other
    kind: str = "pictures"


class Folded(NamedTuple):
    """A long text as it is, such as a config file, which a reader opens."""

    title: str
    text: str
    kind: str = "folded"


Block = Paragraph | Bullets | Table | Picture | Pictures | Folded


class Section(NamedTuple):
    """A heading and what stands under it; a section of `level` 3 belongs to the one of level 2 before it."""

    title: str
    blocks: Sequence[Block]
    level: int = 2


class Document(NamedTuple):
    """Title, lead, and sections in the order of reading."""

    title: str
    lead: Sequence[Block]
    sections: Sequence[Section]


def html(document: Document) -> str:
    """The document as one HTML file that needs no other: style and figures are inside, and there is no script.

    >>> page = html(Document("A <title>", [Paragraph("Lead.")], [Section("One", [Paragraph("Text")])]))
    >>> "<title>A &lt;title&gt;</title>" in page, "<script" in page
    (True, False)
    """
    numbers = iter(range(1, 1 << 30))
    slugs = _slugs([section.title for section in document.sections])
    drawing = {
        id(picture): _inline(picture.svg, f"f{next(numbers)}-", picture.alt)
        for block in [*document.lead, *(block for section in document.sections for block in section.blocks)]
        for picture in _pictures(block)
    }
    return _template().render(
        document=document, sections=list(zip(slugs, document.sections, strict=True)), drawing=drawing, id=id,
        colors=[(_variable(light), light, dark) for light, dark in DARK.items()],
    )  # fmt: skip


def markdown(document: Document) -> str:
    """The document as Markdown, its figures as links to `figures/*.png`.

    >>> print(markdown(Document("Title", [Paragraph("Lead.")], [Section("One", [Paragraph("a < b")])])), end="")
    # Title
    <BLANKLINE>
    Lead.
    <BLANKLINE>
    ## One
    <BLANKLINE>
    a &lt; b
    """
    parts = [f"# {_plain(document.title)}", *map(_block, document.lead)]
    for section in document.sections:
        parts.append(f"{'#' * section.level} {_plain(section.title)}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _minus(text: str) -> str:
    """Numbers with a minus as wide as a plus."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def _units(text: str) -> str:
    """Numbers that the end of a line does not part from their %."""
    return re.sub(r"(?<=\d) (?=%)", "\u00a0", text)


# -- Markdown --------------------------------------------------------------------------------------------------------


def _block(block: Block) -> str:
    match block:
        case Paragraph():
            return f"> {_plain(block.text)}" if block.note else _plain(block.text)
        case Bullets():
            return "\n".join(f"- {_plain(item)}" for item in block.items)
        case Table():
            return "\n\n".join(filter(None, [f"**{_plain(block.caption)}**", _table(block), _plain(block.note)]))
        case Picture():
            return f"{_image(block)}\n\n*{_plain(block.caption)}*"
        case Pictures():
            images = [part for picture in block.pictures for part in (_plain(picture.caption), _image(picture)) if part]
            return "\n\n".join([*images, f"*{_plain(block.caption)}*"])
        case Folded():
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block.text)), default=0))
            return f"{_plain(block.title)}:\n\n{fence}\n{block.text.rstrip()}\n{fence}"


def _table(table: Table) -> str:
    heads = [_plain(head) for head in table.heads]
    lines = [
        [_plain(cell) if place < table.left else _plain(_minus(cell)) for place, cell in enumerate(line)]
        for line in table.lines
    ]
    widths = [max(3, *(len(line[column]) for line in [heads, *lines])) for column in range(len(heads))]

    def row(cells: Sequence[str]) -> str:
        padded = [
            f"{cell:<{width}}" if place < table.left else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if place < table.left else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    return "\n".join([row(heads), row(rule), *map(row, lines)])


def _image(picture: Picture) -> str:
    return f"![{_plain(picture.alt)}](figures/{picture.name}.png)"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*|~])", r"\\\1", text)
    return re.sub(r"\](?=[(\[])", r"\\]", re.sub(r"^(?=[#+-]\s)", r"\\", text))


# -- HTML ------------------------------------------------------------------------------------------------------------


def _pictures(block: Block) -> Sequence[Picture]:
    match block:
        case Picture():
            return [block]
        case Pictures():
            return block.pictures
        case _:
            return []


def _inline(svg: str, prefix: str, alt: str) -> Any:
    """A drawing of matplotlib's as markup for the page: its colours are variables of the page, its ids its own."""
    from markupsafe import Markup, escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>|<!--.*?-->\n?", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
    svg = re.sub("|".join(DARK), lambda found: f"var({_variable(found[0])})", svg, flags=re.IGNORECASE)
    head, rest = svg.split(">", 1)
    width, height = (round(float(points) * 96 / 72) for points in re.findall(r'(?:width|height)="([\d.]+)pt"', head))
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head).removeprefix("<svg")
    size = f'width="{width}" height="{height}" style="--w:{width}px"'
    return Markup(f'<svg role="img" aria-label="{escape(alt)}" {size}{head}>{rest}')  # noqa: S704


def _variable(color: str) -> str:
    return f"--c-{color[1:].lower()}"


def _slugs(titles: Sequence[str]) -> list[str]:
    """An anchor a title, each once."""
    slugs: list[str] = []
    for title in titles:
        slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        same = sum(slug == re.sub(r"\.\d+$", "", other) for other in slugs)
        slugs.append(f"{slug}.{same}" if same else slug)
    return slugs


@cache
def _template():
    from jinja2 import Environment, StrictUndefined

    text = resources.files("bdal.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"minus": _minus, "units": _units}
    return environment.from_string(text)
