"""What all figures share: colours, style, small panels, and files whose bytes depend on the data alone."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bdal.store.durable import write_atomic

# Okabe and Ito's palette, told apart with any colour vision, without its yellow; then again with other markers
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#777777"
INK, EDGE, GRID, PALE = "#222222", "#555555", "#e6e6e6", "#cccccc"
PHASES = {"fit": COLORS[0], "evaluate": COLORS[4], "query": COLORS[1]}

# what a dark page puts in the place of each colour
DARK = {
    INK: "#e6e6e6", EDGE: "#a6a6a6", GRID: "#3a3d42", PALE: "#55595f", GREY: "#a0a0a0", "#000000": "#ffffff",
    "#0072b2": "#4a90e2", "#d55e00": "#ff8c42", "#009e73": "#2fc79a", "#cc79a7": "#e39cc4", "#56b4e9": "#9bd8fa",
    "#e69f00": "#f0b73a",
}  # fmt: skip
KINDS = ("png", "pdf")
NO_DATES: Any = {  # in files of each ending
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}

STYLE: Any = {
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": EDGE,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a name is a $
    "pdf.fonttype": 42,
    "svg.hashsalt": "bdal",
}


@contextmanager
def figure_of(size: tuple[float, float]) -> Iterator[Any]:
    """A figure of our style, whatever the user's settings and backend are."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield Figure(figsize=size, layout="constrained")


def save_as(figure: Any, path_stem: str | Path, kinds: Sequence[str]) -> list[Path]:
    """Write `<path_stem>.<kind>` for each kind; returns a path each."""
    if isinstance(kinds, str):
        raise TypeError(f"kinds: expected a list of endings, got {kinds!r}; pass [{kinds.removeprefix('.')!r}]")
    for kind in kinds:
        check_ending(kind, "kinds")
    ending = Path(path_stem).suffix.removeprefix(".")
    if ending in NO_DATES:
        raise ValueError(f"path_stem: expected a path without its ending, got {path_stem}; pass kinds=[{ending!r}]")
    if figure.get_layout_engine() is not None:  # once for all kinds
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return [save(figure, Path(f"{path_stem}.{kind}")) for kind in kinds]


def check_ending(ending: str, name: str) -> None:
    """Refuse an ending that figures are not written in."""
    if ending.lower() not in NO_DATES:
        raise ValueError(f"{name}: expected an ending among {', '.join(NO_DATES)}, got {ending or 'none'!r}")


def save(figure: Any, path: Path) -> Path:
    """Write the figure in the format that the path ends in, without dates."""
    content = io.BytesIO()
    kind = path.suffix.removeprefix(".").lower()
    figure.savefig(content, format=kind, dpi=150, transparent=kind == "svg", metadata=NO_DATES[kind])
    write_atomic(path, content.getvalue())
    return path


@contextmanager
def small_multiples(names: Sequence[str], columns: int = 4) -> Iterator[tuple[Any, list[Any]]]:
    """A figure of small panels in lines, one a name, with the name as its title."""
    columns = min(columns, len(names))
    lines = math.ceil(len(names) / columns)
    with figure_of((max(3.2, 0.5 + 2.0 * columns), 0.6 + 1.55 * lines)) as figure:
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.06)
        panels = list(figure.subplots(lines, columns, squeeze=False).flat)
        for panel in panels[len(names) :]:
            panel.remove()
        for panel, name in zip(panels, names, strict=False):
            panel.set_title(name, fontsize=9)
            panel.tick_params(labelsize=7.5)
            panel.columns = columns
        yield figure, panels[: len(names)]


def outer_labels(panels: Sequence[Any], x: str, y: str) -> None:
    """Axis labels at the left and below the last panel of each column only."""
    for place, panel in enumerate(panels):
        if place % panel.columns == 0:
            panel.set_ylabel(y, fontsize=8)
        if place + panel.columns >= len(panels):
            panel.set_xlabel(x, fontsize=8)
