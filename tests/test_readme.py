"""What the README shows runs, its commands are those of CI, its links lead somewhere, and its table is complete."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

import bdal
from bdal import config

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [path for pattern in ("*.md", "docs/*.md", "benchmarks/**/*.md") for path in sorted(ROOT.glob(pattern))]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def readers_own():
    """What a reader of the later blocks has: labels, which points are labelled, and a way to train."""
    labels = bdal.datasets.load("optdigits").labels
    own = {"labels": labels, "labelled": np.arange(len(labels)) < 20}
    own["train"] = lambda inputs, labels: own["params"]  # of the first block
    return own


def test_the_code_runs(readers_own, capsys):
    code = blocks("python")
    assert len(code) >= 5
    for block in code:
        exec(compile(block, "README.md", "exec"), readers_own)  # noqa: S102 (our own file)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 4  # a query, and three rounds
    assert [line.split()[:2] for line in printed[1:]] == [["0", "20"], ["1", "30"], ["2", "40"]]


def test_the_first_block_is_ten_lines():
    assert len([line for line in blocks("python")[0].splitlines() if line]) <= 10


def test_the_first_block_needs_nothing_before_it():
    alone = {}
    exec(compile(blocks("python")[0], "README.md", "exec"), alone)  # noqa: S102
    assert len(set(alone["query"].indices.tolist())) == 10


@pytest.mark.parametrize("environment", [".venv", ".venv-test"])
def test_its_commands_are_one_line_that_ci_runs(environment):
    lines = [line for line in README.splitlines() if line.startswith(f"python3 -m venv {environment} ")]
    assert len(lines) == 1
    assert lines[0] in [block.strip() for block in blocks("bash")]
    assert f"readme {environment}" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_strategy_is_in_its_table():
    named = set(re.findall(r"`(\w+)`", "".join(line for line in README.splitlines() if line.startswith("| `"))))
    assert named == set(bdal.STRATEGIES)


def test_its_table_cites_what_the_table_of_methods_cites():
    for line in README.splitlines():
        if line.startswith("| `"):
            names, papers = re.findall(r"`(\w+)`", line), line.split("|")[-2]
            known = "; ".join(bdal.STRATEGIES[name].paper for name in names).split("; ")
            assert set(papers.strip().split("; ")) <= {*known, ""}, names


def test_its_configs_load():
    found = re.findall(r"configs/\w+\.yaml", README)
    assert {"configs/quickstart.yaml", "configs/mnist.yaml"} <= set(found)
    for name in found:
        for comparison in config.load(ROOT / name).comparisons:
            for strategy in comparison.strategies:
                bdal.make_strategy(strategy.name, **strategy.options)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_one_version_everywhere_and_no_address_that_is_nobodys():
    assert PROJECT["version"] == bdal.__version__
    assert f"\nversion: {bdal.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {bdal.__version__} " in (ROOT / "CHANGELOG.md").read_text()
    files = [*PAGES, *(ROOT / name for name in ("CITATION.cff", "pyproject.toml")), *(ROOT / "notebooks").glob("*.*")]
    for file in files:
        assert not re.search(r"github(?:\.com)?/[\w.-]+/bdal\b", file.read_text()), file.name
