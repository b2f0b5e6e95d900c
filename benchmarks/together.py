"""Time of a query for five seeds together, in one program, against the same seeds apart, for every named strategy.

Usage, from the repository's root:

    python benchmarks/together.py [--settings quickstart wide] [--only NAME ...] [--skip NAME ...] [--out FILE.jsonl]
                                  [--pool N] [--members K] [--posterior NAME] [--labelled 60] [--query-size 10]
                                  [--targets 200] [--seeds 5] [--repeats 7] [--seconds 20]

The settings have the network and training of configs/quickstart.yaml, and committees fitted to 60 of its digits: by
MC dropout with N = 3,800 and K = 20 (`quickstart`), with N = 4,000, every digit twice with noise, and K = 50 (`wide`),
and by a deep ensemble with N = 3,800 and K = 5 (`ensemble`). --pool, --members and --posterior overrule them. Both
sides are the runner's own programs, with `together` and without; without, one program is called once for each seed.

The two are alternated and take turns in going first. A strategy has at least so many --repeats, and more if it is
quick; fewer, but three, if it has had so many --seconds. `ratio` is the median over the repeats of together / apart,
in seconds, and in seconds of CPU time too, which other work on the machine disturbs less.
A line of JSON a strategy is printed, and appended to --out: what stands there already is not measured again. At the
end a table of all, the slowest together first.
"""

import argparse
import dataclasses
import json
import statistics
import time
import warnings
from pathlib import Path

import jax
import numpy as np

from bdal import config
from bdal.config.parts import OURS
from bdal.experiment.prepare import prepare
from bdal.experiment.programs import programs_of
from bdal.pool import LabelledSet
from bdal.strategy import make_strategy

TABLE = OURS["strategies"]
SETTINGS = {
    "quickstart": ("mc_dropout", 3_800, 20),
    "wide": ("mc_dropout", 4_000, 50),
    "ensemble": ("deep_ensemble", 3_800, 5),
}
DIGITS = 3_823  # of the training set
LIMIT = 1.10  # together / apart
QUICK = 1.0  # seconds for which a strategy is repeated at least

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["quickstart", "wide"])
parser.add_argument("--only", nargs="+", choices=TABLE, default=list(TABLE), metavar="NAME")
parser.add_argument("--skip", nargs="+", choices=TABLE, default=[], metavar="NAME")
parser.add_argument("--out", type=Path)
parser.add_argument("--pool", type=int)
parser.add_argument("--members", type=int)
parser.add_argument("--posterior", choices=("mc_dropout", "deep_ensemble", "snapshots"))
parser.add_argument("--labelled", type=int, default=60)
parser.add_argument("--query-size", type=int, default=10)
parser.add_argument("--targets", type=int, default=200)
parser.add_argument("--seeds", type=int, default=5)
parser.add_argument("--repeats", type=int, default=7)
parser.add_argument("--seconds", type=float, default=20)


def experiment_of(args, posterior: str, pool: int, members: int) -> config.Experiment:
    """The quickstart with these sizes."""
    repeats = -(-pool // DIGITS)
    copies = (config.Named("repeated", {"repeats": repeats, "noise": 0.1}),) if repeats > 1 else ()
    quickstart = config.load("configs/quickstart.yaml")
    return dataclasses.replace(
        quickstart,
        seeds=args.seeds,
        data=config.Data(pool=pool // repeats, builders=copies),
        query=config.Query(size=args.query_size, targets=args.targets),
        comparisons=(config.Comparison(posterior, members, (config.Named("random"),)),),
    )


class Sides:
    """A round of some seeds: committees fitted to random labels, and the two ways to query by them."""

    def __init__(self, args, experiment: config.Experiment):
        prepared = prepare(experiment)
        loaded, (fit,), (comparison,) = prepared.data, prepared.fits, experiment.comparisons
        self.pool, self.seeds = loaded.pool, range(args.seeds)
        self.together, self.apart = (programs_of(experiment, comparison, fit, way) for way in (True, False))

        labels, room = loaded.pool_labels, experiment.labels.training_labels
        assert labels is not None
        self.labelled, self.validation, self.excluded = [], [], []
        for seed in self.seeds:
            order = np.random.default_rng(seed).permutation(len(labels)).astype(np.int32)
            known, held_out = np.split(order, [args.labelled])
            held_out = held_out[: experiment.labels.validation_labels]
            padding = max(0, room - len(known))
            self.labelled.append(
                LabelledSet(
                    np.pad(known, (0, padding), constant_values=-1),
                    np.pad(labels[known], (0, padding)),
                    np.int32(len(known)),
                )
            )
            self.validation.append(LabelledSet(held_out, labels[held_out], np.int32(len(held_out))))
            self.excluded.append(np.isin(np.arange(len(labels)), held_out))
        keys = list(jax.random.split(jax.random.key(0), args.seeds))
        self.committee = jax.block_until_ready(self.together.fit(keys, self.labelled, self.validation, self.pool))
        self.committees = [self.together.of_seed(self.committee, s) for s in self.seeds]

    def query_together(self, strategy, keys):
        """Picks of each seed, by one call."""
        labels = self.labelled, self.validation, self.excluded
        queries, _ = self.together.query(strategy, keys, self.committee, *labels, self.pool)
        return [query.indices.tolist() for query in queries]

    def query_apart(self, strategy, keys):
        """Picks of each seed, by a call for each."""
        found = [
            self.apart.query(
                strategy, keys[s : s + 1], self.committees[s], self.labelled[s : s + 1], self.validation[s : s + 1],
                self.excluded[s : s + 1], self.pool,
            )[0]
            for s in self.seeds
        ]  # fmt: skip
        return [query.indices.tolist() for (query,) in found]


def timed(fn, *args) -> tuple[list, float, float]:
    """What a call gives, its seconds, and those of this process's CPU time; programs give finished NumPy arrays."""
    start, used = time.perf_counter(), time.process_time()
    result = fn(*args)
    return result, time.perf_counter() - start, time.process_time() - used


def measure(args, sides: Sides, name: str) -> dict:
    """Both sides of a strategy, alternated."""
    strategy, ways = make_strategy(name, table=TABLE), (sides.query_together, sides.query_apart)
    first = [timed(way, strategy, list(jax.random.split(jax.random.key(1), args.seeds)))[1] for way in ways]
    seconds: list[list[float]] = [[], []]
    used: list[list[float]] = [[], []]
    same, start = 0, time.perf_counter()
    for repeat in range(100):
        spent = time.perf_counter() - start
        if (repeat >= 3 and spent > args.seconds) or (repeat >= args.repeats and spent > QUICK):
            break
        keys, picks = list(jax.random.split(jax.random.key(2 + repeat), args.seeds)), {}
        for side in (0, 1) if repeat % 2 else (1, 0):
            picks[side], took, cpu = timed(ways[side], strategy, keys)
            seconds[side].append(took)
            used[side].append(cpu)
        same += sum(map(list.__eq__, picks[0], picks[1]))
    return {
        "together": round(statistics.median(seconds[0]), 5),
        "apart": round(statistics.median(seconds[1]), 5),
        "ratio": median_ratio(*seconds),
        "ratio of CPU time": median_ratio(*used),
        "repeats": len(seconds[0]),
        "queries with the same picks": f"{same} of {args.seeds * len(seconds[0])}",
        "first calls, compilation included": [round(took, 2) for took in first],
    }


def median_ratio(some: list[float], others: list[float]) -> float:
    """The median of the ratios of pairs."""
    return round(statistics.median(a / b for a, b in zip(some, others, strict=True)), 3)


def table(lines: list[dict]) -> str:
    """Markdown, the slowest together first."""
    rows = ["| setting | strategy | together, s | apart, s | ratio | of CPU time | same picks |", f"|{'---|' * 7}"]
    rows += [
        f"| {line['setting']} | {line['strategy']} | {line['together']:.3f} | {line['apart']:.3f} "
        f"| {line['ratio']:.2f} | {line['ratio of CPU time']:.2f} | {line['queries with the same picks']} |"
        for line in sorted(lines, key=lambda line: -line["ratio"])
    ]
    over = [f"{line['strategy']} ({line['setting']})" for line in lines if line["ratio"] > LIMIT]
    return "\n".join([*rows, "", f"{len(over)} of {len(lines)} above {LIMIT:.2f}: {', '.join(over) or 'none'}"])


def main():
    """Measure what is not in --out yet, print, compare."""
    args = parser.parse_args()
    kept = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out and args.out.exists() else []
    lines = []
    for setting in args.settings:
        posterior, pool, members = SETTINGS[setting]
        posterior, pool, members = args.posterior or posterior, args.pool or pool, args.members or members
        sizes = {
            "setting": setting, "posterior": posterior, "pool": pool, "members": members, "labelled": args.labelled,
            "query size": args.query_size, "targets": args.targets, "seeds": args.seeds,
            "device": jax.devices()[0].device_kind, "jax": jax.__version__,
        }  # fmt: skip
        sides = None
        for name in [name for name in args.only if name not in args.skip]:
            what = {"strategy": name, **sizes}
            line = next((line for line in kept if what.items() <= line.items()), None)
            if line is None:
                sides = sides or Sides(args, experiment_of(args, posterior, pool, members))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # such as of few members: only the time counts here
                    line = what | measure(args, sides, name)
                print(json.dumps(line), flush=True)
                if args.out:
                    with args.out.open("a") as file:
                        file.write(json.dumps(line) + "\n")
            lines.append(line)
    print(table(lines))


if __name__ == "__main__":
    main()
