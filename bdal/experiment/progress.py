"""What a run is doing, as it does it: a live display on a terminal or in a notebook, plain lines everywhere else."""

import importlib.util
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


class Progress:
    """A context manager with `line` for what is finished, `stage` for what goes on, and `advance` for the bar.

    Lines stay on the screen, the stage is shown beside the bar only. The bar is drawn on a terminal that can (not with
    NO_COLOR or TERM=dumb) and in a notebook with ipywidgets; otherwise each line is printed as it is, without control
    codes, and flushed.

    >>> import sys
    >>> with Progress(total=1, console=Console(file=sys.stdout, force_terminal=False)) as report:
    ...     report.stage("compiling fit")
    ...     report.line("mc_dropout/bald seed 3 round 4: 60 labels, accuracy 0.912, 1.3 s")
    ...     report.advance()
    mc_dropout/bald seed 3 round 4: 60 labels, accuracy 0.912, 1.3 s
    """

    def __init__(self, total: int, console: Console | None = None):
        self._console = console or Console()
        self._total = total
        self._bar = self._task = None

    def __enter__(self) -> "Progress":
        if _can_draw(self._console):
            self._bar = Bar(
                SpinnerColumn(),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}", markup=False),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def line(self, text: str) -> None:
        """Something is finished: one line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            encoding = getattr(self._console.file, "encoding", None) or "utf-8"  # an ASCII one has no ±
            print(text.encode(encoding, "backslashreplace").decode(encoding), file=self._console.file, flush=True)

    def stage(self, text: str) -> None:
        """What goes on now; shown beside the bar until the next stage."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text)

    def advance(self, steps: int = 1) -> None:
        """Move the bar on."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, steps)


def _can_draw(console: Console) -> bool:
    if console.is_jupyter:
        return importlib.util.find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal and not console.no_color


def short(path: Path) -> Path:
    """A path as a person would say it: from here, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
