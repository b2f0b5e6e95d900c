"""A person labels twenty digits of a real run by keyboard alone, stops, comes back, and the accuracy rises."""

import os
import re
import subprocess
import sys

import pytest

from bdal import config
from bdal.config import data
from bdal.store import durable

pytestmark = pytest.mark.browser

CONFIG = """\
name: digits
seeds: 1
data: {name: optdigits, pool: 400}
model: {name: mlp, hidden: [64], dropout: 0.2}
training: {steps: 150, batch_size: 32, learning_rate: 2e-3, eval_every: 25, patience: 4}
labels: {budget: 20, initial: 6, validation: 0.2, oracle: people}
query: {size: 10}
comparisons:
- {posterior: mc_dropout, members: 10, strategies: [margin]}
"""
START, QUERY = 10, 10  # 4 for validation and 6 to start with; then one query


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "digits.yaml").write_text(CONFIG)
    subprocess.run(**bdal(tmp_path, "run", "digits.yaml", "--workdir", "run"), check=True, timeout=300)
    return tmp_path / "run"


@pytest.fixture
def sit(browser, workdir):
    """Starts sittings, and ends what a failed test leaves running."""
    started = []

    def start(answers):
        started.append(Sitting(browser, workdir, answers))
        return started[-1]

    yield start
    for sitting in started:
        sitting.stop()


def bdal(folder, *arguments):
    """How to start the command."""
    own = {"JAX_PLATFORMS": "cpu", "BDAL_CACHE_DIR": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "bdal", *arguments]
    return {"args": command, "cwd": folder, "env": {**os.environ, **own}, "text": True, "stdout": subprocess.PIPE}


class Sitting:
    """One start of `bdal label`, and the browser at its page; what a person sees is the digit, not its label."""

    def __init__(self, browser, workdir, answers):
        self.browser, self.answers = browser, answers
        self.process = subprocess.Popen(**bdal(workdir.parent, "label", "run", "--no-browser"))
        address = next(found[0] for line in self.process.stdout if (found := re.search(r"http://127\S+", line)))
        browser.get(address)

    def wait(self, condition):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, 180, poll_frequency=0.05).until(lambda _: condition())

    def text(self, selector):
        return "".join(found.text for found in self.browser.find_elements("css selector", selector))

    def shown(self):
        item = self.browser.find_element("css selector", "#item")
        return item.get_attribute("data-shown") if item.is_displayed() else ""

    def press(self, key):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(key).perform()

    def label(self, count):
        """Answer so many points, each when it is shown, and wait until what is shown has moved on."""
        for _ in range(count):
            index = self.wait(self.shown)
            self.press(str(self.answers[int(index)]))
            self.wait(lambda index=index: self.shown() != index)

    def stop(self):
        if self.process.returncode is None:
            self.process.terminate()
            self.process.communicate(timeout=60)
        return self.process.returncode


def test_twenty_digits_in_three_sittings(sit, workdir):
    digits = data.load(config.load(workdir / "config.yaml"))
    ledger = workdir / "mc_dropout" / "margin" / "seed_0" / "ledger.jsonl"

    first = sit(digits.pool_labels)
    first.label(7)
    assert first.stop() == 0
    assert sum(len(event["indices"]) for event in durable.read(ledger) if event["event"] == "labelled") == 7

    second = sit(digits.pool_labels)  # where the first one stopped
    second.label(START - 7)
    second.wait(lambda: second.text("#in-query") == f"0 of {QUERY} in this query")  # it has trained, and asks again
    assert second.text("#in-all") == "10 of 20 answers"
    assert re.fullmatch(r"Accuracy 0\.\d{3} with 6 training labels", second.text("#curve-caption"))
    second.label(6)
    assert second.stop() == 0

    third = sit(digits.pool_labels)
    third.label(QUERY - 6)
    third.wait(lambda: durable.read(ledger)[-1]["event"] == "finished")
    assert third.stop() == 0

    events = durable.read(ledger)
    labelled = [event for event in events if event["event"] == "labelled"]
    answered = [pair for event in labelled for pair in zip(event["indices"], event["labels"], strict=True)]
    assert len(dict(answered)) == len(answered) == START + QUERY
    assert all(digits.pool_labels[index] == label for index, label in answered)
    before, after = (event["accuracy"] for event in events if event["event"] == "evaluated")
    assert after > before + 0.05
