"""Kill runs, go on with them, and compare their ledgers with those of a run that nothing happened to.

    python tests/crash_campaign.py --kills 200 [--own-parts]

Runs with MC dropout and with a deep ensemble are ended by SIGKILL, at named points (before, inside and after every line
that is written, and around every file that is put in its place) and at random moments, several times each; then they
are left to finish. Every ledger must have the bytes of the run without a crash. Exit code 1 if one differs.

With `--own-parts` the network, the data set, a strategy and both posteriors, one in JAX and one in scikit-learn, are
those of `tests/experiment/mine.py`.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import NamedTuple

CONFIG = """\
name: crashes
seeds: 2
together: {together}
parameters: last
data: {{name: optdigits, pool: 300, test: 200}}
model: {{name: mlp, hidden: [16], dropout: 0.2}}
training: {{steps: 30, min_steps: 5, batch_size: 16, learning_rate: 1e-2, eval_every: 10, patience: 2}}
labels: {{budget: 40, initial: 8, validation: 0.2}}
query: {{size: 10, chunk_size: 64}}
evaluation: {{members: 3, points: 100}}
comparisons:
- {{posterior: {posterior}, members: 4, strategies: [random, power_bald]}}
"""
POSTERIORS = {"mc_dropout": "false", "deep_ensemble": "true"}  # whether its seeds run in one program
OWN_CONFIG = """\
name: crashes
seeds: 2
together: {together}
parameters: last
data: {{name: stripes}}
model: net
training: {{steps: 12, batch_size: 8, min_steps: 4, eval_every: 4}}
labels: {{budget: 28, initial: 6, validation: 0.25}}
query: {{size: 5, chunk_size: 32}}
evaluation: {{members: 3, points: 30}}
comparisons:
- {{posterior: {posterior}, members: 4, strategies: [random, {{name: ratio, power: 2}}]}}
"""
OWN_POSTERIORS = {"noisy_head": "false", "bagging": "false"}
OWN_PARTS = Path(__file__).parent / "experiment" / "mine.py"
EVENTS = ("validation", "initial", "evaluated", "queried", "metrics", "labelled", "finished")
PLACES = ("before", "torn", "after")
FILES = ("run.json", "config.yaml", "table.md", "curves.png")
NAMED = [
    *(f"{place}_{event}:{turn}" for event in EVENTS for place in PLACES for turn in (1, 3)),
    *(f"{place}_{file}" for file in FILES for place in ("before", "after")),
    *(f"parameters_{place}:{turn}" for place in ("written", "renamed") for turn in (1, 2)),
]
START_UP = 0.5  # seconds in which a process only imports


class Outcome(NamedTuple):
    """What a directory went through: the points where it was killed, and whether its ledgers are as they must be."""

    posterior: str
    kills: list[str]
    same: bool


def ledgers(workdir: Path) -> dict[str, bytes]:
    return {str(path.relative_to(workdir)): path.read_bytes() for path in sorted(workdir.glob("*/*/*/ledger.jsonl"))}


class Bench:
    """A folder with a config and an untouched run for each posterior, and a way to run them again.

    Each is run once to compile, and once more for the time that a kill may fall into.
    """

    def __init__(self, folder: Path, *, own_parts: bool = False):
        self.folder = folder
        self.config, self.posteriors = (OWN_CONFIG, OWN_POSTERIORS) if own_parts else (CONFIG, POSTERIORS)
        self.more = ["--parts", f"{OWN_PARTS.stem}:PARTS"] if own_parts else []
        if own_parts:
            shutil.copy(OWN_PARTS, folder)
        self.expected, self.seconds = {}, {}
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._reference, self.posteriors))

    def start(self, posterior: str, workdir: Path, failpoint: str = "", code: str = "") -> subprocess.Popen:
        """`bdal run` in a process of its own, or `code` with the same arguments."""
        how = ["-c", code] if code else ["-m", "bdal"]
        command = [sys.executable, *how, "run", str(self.folder / f"{posterior}.yaml"), "--workdir", str(workdir)]
        command += self.more
        environment = {
            **os.environ, "JAX_PLATFORMS": "cpu", "BDAL_CACHE_DIR": str(self.folder / "cache"),
            "BDAL_FAILPOINT": failpoint,
        }  # fmt: skip
        out = subprocess.PIPE if code else subprocess.DEVNULL
        return subprocess.Popen(
            command, env=environment, cwd=self.folder, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def finish(self, posterior: str, workdir: Path) -> None:
        process = self.start(posterior, workdir)
        _, errors = process.communicate(timeout=600)
        if process.returncode:
            raise RuntimeError(f"{posterior} in {workdir} ended with {process.returncode}: {errors[-2000:]}")

    def _reference(self, posterior: str) -> None:
        config = self.config.format(posterior=posterior, together=self.posteriors[posterior])
        (self.folder / f"{posterior}.yaml").write_text(config)
        for name in ("first", "again"):
            started = time.monotonic()
            self.finish(posterior, self.folder / f"{posterior}-{name}")
            self.seconds[posterior] = time.monotonic() - started
        found = [ledgers(self.folder / f"{posterior}-{name}") for name in ("first", "again")]
        if found[0] != found[1] or not found[0]:
            raise RuntimeError(f"{posterior}: two runs without a crash differ")
        self.expected[posterior] = found[0]

    def kill(self, posterior: str, workdir: Path, where: str | float) -> bool:
        """Start or go on, and kill at a named point or after so many seconds; whether it was still running."""
        if isinstance(where, str):
            process = self.start(posterior, workdir, failpoint=where)
            process.communicate(timeout=600)
        else:
            process = self.start(posterior, workdir)
            try:
                process.communicate(timeout=where)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        if process.returncode not in (0, -signal.SIGKILL):
            raise RuntimeError(f"{posterior} in {workdir} ended with {process.returncode} at {where}")
        return process.returncode == -signal.SIGKILL

    def trial(self, posterior: str, workdir: Path, places) -> Outcome:
        """Kill a run at each of the places that it comes to, let it finish, and compare."""
        kills = [str(where) for where in places if self.kill(posterior, workdir, where)]
        self.finish(posterior, workdir)
        return Outcome(posterior, kills, ledgers(workdir) == self.expected[posterior])


def campaign(bench: Bench, folder: Path, kills: int, *, workers: int = 2, seed: int = 0, line=print) -> list[Outcome]:
    """At least so many kills, named and at random, over both posteriors in turn."""
    rng = random.Random(seed)  # noqa: S311
    outcomes: list[Outcome] = []

    def places(posterior):
        named = rng.sample(NAMED, 3)
        moments = [rng.uniform(START_UP, bench.seconds[posterior]) for _ in range(3)]
        return rng.sample([*named, *moments], 6)

    with ThreadPoolExecutor(workers) as pool:
        for number in count():
            if sum(len(outcome.kills) for outcome in outcomes) >= kills:
                return outcomes
            plans = [
                (posterior, folder / f"{posterior}-{number}-{worker}", places(posterior))
                for worker, posterior in zip(range(workers), 2 * [*bench.posteriors], strict=False)
            ]
            for outcome in pool.map(lambda plan: bench.trial(*plan), plans):
                outcomes.append(outcome)
                verdict = "same" if outcome.same else "DIFFERENT"
                line(f"{outcome.posterior}: {len(outcome.kills)} kills ({', '.join(outcome.kills)}): {verdict}")
    raise AssertionError("unreachable")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--own-parts", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), own_parts=options.own_parts)
        for posterior, seconds in bench.seconds.items():
            print(f"{posterior}: {seconds:.1f} s without a crash")
        outcomes = campaign(bench, bench.folder, options.kills, workers=options.workers, seed=options.seed)
    kills = [kill for outcome in outcomes for kill in outcome.kills]
    named = [kill for kill in kills if not kill.replace(".", "").isdecimal()]
    different = [outcome for outcome in outcomes if not outcome.same]
    print(
        f"{len(kills)} kills ({len(named)} at {len(set(named))} named points, {len(kills) - len(named)} at random) in "
        f"{len(outcomes)} runs: {len(different)} with a ledger that differs"
    )
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
