"""What a run warned of, each warning once, in its directory.

WORKDIR/warnings.jsonl               where it came up, of what category, and the message
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from bdal.store import durable
from bdal.store.lines import check_lines

where = ContextVar("where", default="")  # what the runner is at


@contextmanager
def kept_warnings(workdir: Path) -> Iterator[None]:
    """Write each distinct warning to `warnings.jsonl`, and show it as before."""
    path = workdir / "warnings.jsonl"
    where.set("")
    lines = durable.read(path)
    check_lines(path, lines, "warning")
    known = {(line["category"], line["message"]) for line in lines}
    show_before = warnings.showwarning

    def show(message, category, *args, **kwargs):
        line = {"where": where.get(), "category": category.__name__, "message": " ".join(str(message).split())}
        if (line["category"], line["message"]) not in known:
            known.add((line["category"], line["message"]))
            durable.append(path, line)
        show_before(message, category, *args, **kwargs)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
