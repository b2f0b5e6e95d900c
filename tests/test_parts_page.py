"""What README and docs/parts.md show of parts of one's own runs as it stands, from Python and from the shell."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    name: body
    for page in ("README.md", "docs/parts.md")
    for name, body in re.findall(r"<!-- ([\w.]+) -->\n```\w+\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
}
FOREST = """name: forest
seeds: 2
model: null
labels: {budget: 40, initial: 20, validation: 0.2}
query: {size: 10}
comparisons:
- posterior: {name: forest, num_classes: 10}
  members: 5
  strategies: [random, bald]
"""


def test_it_is_fewer_than_40_lines():
    assert len([line for line in FILES["mine.py"].splitlines() if line.strip()]) < 40


def run(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env=environment, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for name, body in FILES.items():
        (folder / name).write_text(body)
    (folder / "forest.yaml").write_text(FOREST)
    return folder


@pytest.mark.slow
def test_the_readme_runs_from_python(folder):
    run(folder, "mine.py")
    ledgers = sorted((folder / "runs" / "mine").glob("noisy_head-scale-0.2/*/seed_*/ledger.jsonl"))
    assert len(ledgers) == 4 * 5
    assert all('"event": "finished"' in ledger.read_text() for ledger in ledgers)
    run(folder, "-m", "bdal", "report", "runs/mine")
    page = (folder / "runs" / "mine" / "report" / "report.md").read_text()
    assert "power_bald-beta-4" in page
    assert "5 paired seeds" in page
    before = [ledger.read_bytes() for ledger in ledgers]
    run(folder, "mine.py")
    assert [ledger.read_bytes() for ledger in ledgers] == before


@pytest.mark.slow
def test_the_readme_runs_from_the_shell(folder):
    images = np.random.default_rng(0).normal(size=(120, 32, 32, 3)).astype(np.float32)
    labels = np.arange(120) % 4
    np.savez(
        folder / "images.npz", inputs=images[:80], labels=labels[:80], test_inputs=images[80:], test_labels=labels[80:]
    )
    run(
        folder, "-m", "bdal", "run", "mine.yaml", "--parts", "mine:PARTS", "--data.name", "images.npz", "--seeds", "1",
        "--labels.budget", "28", "--workdir", "runs/shell",
    )  # fmt: skip
    assert (folder / "runs" / "shell" / "table.md").exists()


@pytest.mark.slow
def test_the_page_runs_a_fit_of_scikit_learn(folder):
    printed = run(folder, "-m", "bdal", "run", "forest.yaml", "--parts", "forest:PARTS")
    assert "forest-num_classes-10/bald" in printed
