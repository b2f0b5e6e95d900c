"""Ctrl-C and SIGTERM as one exception, which is not lost."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN = 0.05  # seconds


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop; its only argument is the signal's number.

    A class of its own, because Python remembers a `KeyboardInterrupt` that came inside an `exec` (where `dataclass` and
    `namedtuple` make their methods) even when it was caught, and `python -m bdal` would then end by SIGINT in the place
    of its exit code.
    """


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGTERM, by which a cluster's scheduler takes a machine away, and Ctrl-C raise `Interrupted`.

    Where it cannot be raised, as in a callback of the garbage collector (jax has one) or in a `__del__`, Python would
    report it and go on: the signal is sent again a moment later. A signal that is ignored stays so (`nohup`), and
    outside of the main thread, the only one that may set them, none is touched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    report, again = sys.unraisablehook, []

    def interrupt(number, _):
        raise Interrupted(number)

    def unraisable(found):
        if not isinstance(found.exc_value, Interrupted):
            report(found)
            return
        main, (number,) = threading.main_thread().ident, found.exc_value.args
        again.append(threading.Timer(AGAIN, signal.pthread_kill, (main, number)))
        again[-1].start()

    for number in handlers:
        signal.signal(number, interrupt)
    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        sys.unraisablehook = report
        for timer in again:
            timer.cancel()
        for number, handler in handlers.items():
            signal.signal(number, handler)
