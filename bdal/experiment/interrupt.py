"""Ctrl-C and SIGTERM as one exception."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop.

    A class of its own, because Python remembers a `KeyboardInterrupt` that came inside an `exec` (where `dataclass` and
    `namedtuple` make their methods) even when it was caught, and `python -m bdal` would then end by SIGINT in the place
    of its exit code.
    """


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGTERM, by which a cluster's scheduler takes a machine away, and Ctrl-C raise `Interrupted`.

    A signal that is ignored stays so (`nohup`), and outside of the main thread, the only one that may set them, none
    is touched.
    """

    def interrupt(*_):
        raise Interrupted

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
