"""A signal ends a command with its own exit code, wherever it comes."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bdal.experiment.interrupt import Interrupted, interruptible

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def own_handlers():
    before = {number: signal.signal(number, signal.default_int_handler) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_both_are_one_exception_and_handlers_come_back(number):
    with pytest.raises(Interrupted), interruptible(), interruptible():
        signal.raise_signal(number)
    assert {signal.getsignal(each) for each in SIGNALS} == {signal.default_int_handler}


class Awkward:
    """Is sent a signal where an exception goes nowhere."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        signal.raise_signal(self.number)


@pytest.mark.parametrize("number", SIGNALS)
def test_one_that_could_not_be_raised_comes_again(number):
    def work():
        Awkward(number)
        time.sleep(60)

    with pytest.raises(Interrupted), interruptible():
        work()


def test_what_else_could_not_be_raised_is_reported_as_ever(monkeypatch):
    class Broken:
        def __del__(self):
            raise ValueError("broken")

    found = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: found.append(str(what.exc_value)))
    hook = sys.unraisablehook
    with interruptible():
        Broken()
    assert (found, sys.unraisablehook) == (["broken"], hook)


def test_once_it_is_over_nothing_is_sent_any_more():
    with interruptible():
        Awkward(signal.SIGTERM)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()


@pytest.mark.parametrize("number", SIGNALS)
def test_one_that_is_ignored_stays_so(number):
    signal.signal(number, signal.SIG_IGN)
    with interruptible():
        signal.raise_signal(number)
        assert signal.getsignal(number) == signal.SIG_IGN


def test_outside_of_the_main_thread_nothing_is_touched():
    handlers = []

    def elsewhere():
        with interruptible():
            handlers.extend(signal.getsignal(number) for number in SIGNALS)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler] * 2


IN_THE_MAKING = """
import signal, sys
from bdal.experiment.interrupt import interruptible
try:
    with interruptible():
        exec(f"import signal; signal.raise_signal({number})")
except KeyboardInterrupt:
    sys.exit(7)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_the_exit_code_is_ours_though_it_came_while_a_class_was_made(tmp_path, number):
    """`namedtuple` and `dataclass` run text by `exec`; a lazy import makes many of them."""
    (tmp_path / "module.py").write_text(IN_THE_MAKING.replace("{number}", str(int(number))))
    done = subprocess.run(
        [sys.executable, "-m", "module"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (7, "")
