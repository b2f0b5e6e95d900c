import io

import pytest
from rich.console import Console

from bdal.experiment.progress import Progress

LINES = ["mc_dropout/bald seed 3 round 4: 60 labels, accuracy 0.912, 1.3 s", "[red]not markup[/red] " + "long " * 40]


def shown(**options) -> str:
    file = io.StringIO()
    with Progress(total=2, console=Console(file=file, width=80, **options)) as report:
        report.stage("compiling fit")
        for line in LINES:
            report.line(line)
            report.advance()
    report.line("after")
    return file.getvalue()


def test_plain_lines_without_a_terminal():
    assert shown() == "\n".join([*LINES, "after", ""])


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "unknown")])
def test_plain_lines_on_a_terminal_that_asks_for_them(monkeypatch, variable):
    monkeypatch.setenv(*variable)
    assert shown(force_terminal=True) == "\n".join([*LINES, "after", ""])


def test_a_live_display_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = shown(force_terminal=True)
    assert "\x1b[" in text
    assert "compiling fit" in text
    assert "1/2" in text or "2/2" in text or "0/2" in text
    assert all(line in text for line in LINES)  # whole, and with their brackets


def test_plain_lines_in_a_notebook_without_widgets(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert shown(force_jupyter=True, force_terminal=True) == "\n".join([*LINES, "after", ""])


def test_an_error_inside_stops_the_display(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = io.StringIO()
    progress = Progress(total=1, console=Console(file=file, force_terminal=True))
    with pytest.raises(RuntimeError, match="inside"), progress:
        raise RuntimeError("inside")
    assert file.getvalue().endswith(("\x1b[?25h", "\x1b[2K", "\x1b[1A\x1b[2K"))  # the cursor is back
    progress.advance()
    progress.stage("later")


def test_an_output_that_has_no_plus_minus(monkeypatch):
    """ASCII, as in a container without a locale: what it has no letter for ends no run."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with Progress(total=1, console=Console(file=file)) as report:
        report.line("accuracy 0.5 ± 0.1")
    assert file.buffer.getvalue() == b"accuracy 0.5 \\xb1 0.1\n"
