"""Is a score that is weighed by coverage worth its place? Paired learning curves of strategies on six tasks.

Usage, from the repository's root, with BDAL_DATA_DIR the folder that holds `fashion_mnist/`, `mnist/`, `wdbc/` and
`pneumoniamnist/`:

    python benchmarks/coverage.py [--tasks optdigits wdbc] [--seeds 10] [--workdir benchmarks/results/coverage]
                                  [--strategies random '{name: prob_cover, rule: paper}']
    python benchmarks/coverage.py --report [--workdir benchmarks/results/coverage]

Each task is a run directory as `bdal run` writes it, and goes on where it was stopped. At the end, or with `--report`
alone, `summary.md` is written: for each task the area under accuracy against random, over the low budget (the first 40
training labels after the start) and over all; and for `weighted_coverage` the differences from random, from its plain
score and from margin, whose exact signed-rank tests are one family over the whole study (Holm).
"""

import argparse
import os
from pathlib import Path

import numpy as np
import yaml

from bdal import config
from bdal.experiment import run
from bdal.statistics import area, compare, judge, student_t
from bdal.store.directory import results

HEADLINE, PLAIN = "weighted_coverage", ("random", "entropy", "margin")
LOW = 40  # labels after the start
STRATEGIES = [
    "random", "margin", "entropy", "bald", "expected_model_change", "power_bald", {"name": "power_bald", "beta": 1},
    "bald_diverse", "typiclust", "prob_cover", "max_herding", "uncertainty_herding", "weighted_coverage",
    *({"name": "weighted_coverage", "score": score} for score in ("bald", "margin", "expected_model_change")),
]  # fmt: skip
FEW = ["random", "margin", "entropy", "weighted_coverage"]
MLP = {
    "model": {"name": "mlp", "hidden": [128, 64], "dropout": 0.25},
    "training": {"steps": 400, "batch_size": 32, "learning_rate": 2e-3, "eval_every": 25, "patience": 6},
    "labels": {"budget": 150, "initial": 20, "validation": 0.2},
    "query": {"size": 10},
}
TASKS = {
    "optdigits": {"data": {"name": "optdigits"}},
    "repeated_optdigits": {
        "data": {"name": "optdigits", "pool": 1000, "builders": [{"name": "repeated", "repeats": 4, "noise": 0.1}]}
    },
    "fashion_mnist": {"data": {"name": "fashion_mnist", "pool": 4000, "test": 2000}},
    "wdbc": {
        "data": {"name": "wdbc.npz"},
        "labels": {"budget": 75, "initial": 10, "validation": 0.2},
        "query": {"size": 5},
    },
    "pneumonia": {"data": {"name": "pneumonia.npz"}, "together": True},
    "mnist_cnn": {
        "data": {"name": "mnist", "pool": 2000, "test": 2000},
        "model": {"name": "cnn"},
        "together": False,
        "training": {"steps": 400, "batch_size": 32, "learning_rate": 1e-3, "eval_every": 25, "patience": 6},
        "labels": {"budget": 125, "initial": 20, "validation": 0.2},
        "query": {"size": 20, "chunk_size": 100},
        "strategies": FEW,
    },
}


def experiment(task: str, seeds: int, strategies: list | None) -> config.Experiment:
    """The experiment of a task: MC dropout with 20 members."""
    tree = {**MLP, **TASKS[task]}
    own = tree.pop("strategies", STRATEGIES)
    strategies = own if strategies is None else strategies
    comparisons = [{"posterior": "mc_dropout", "members": 20, "strategies": strategies}]
    return config.typed({"name": task, "seeds": seeds, **tree, "comparisons": comparisons}, task)


def write_data(source: Path, folder: Path) -> None:
    """WDBC and PneumoniaMNIST as `.npz` files: columns standardised on the pool, bytes divided by 255."""
    rows = [line.split(",") for line in (source / "wdbc/wdbc.data").read_text().split()]
    inputs = np.array([[float(value) for value in row[2:]] for row in rows])
    labels = np.array([row[1] == "M" for row in rows], np.int32)
    order = np.random.default_rng(0).permutation(len(rows))
    pool, test = order[: int(0.6 * len(rows))], order[int(0.6 * len(rows)) :]
    inputs = ((inputs - inputs[pool].mean(0)) / inputs[pool].std(0)).astype(np.float32)
    np.savez(
        folder / "wdbc.npz",
        inputs=inputs[pool], labels=labels[pool], test_inputs=inputs[test], test_labels=labels[test],
    )  # fmt: skip
    arrays = np.load(source / "pneumoniamnist/pneumoniamnist_reassembled.npz", allow_pickle=False)
    parts = {"": "train", "test_": "test"}
    np.savez(
        folder / "pneumonia.npz",
        **{f"{part}inputs": arrays[f"{name}_images"].astype(np.float32) / 255 for part, name in parts.items()},
        **{f"{part}labels": arrays[f"{name}_labels"][:, 0].astype(np.int32) for part, name in parts.items()},
    )


def curves_of(workdir: Path) -> dict[str, dict[int, dict[int, float]]]:
    """Strategy to seed to labels to accuracy, of the seeds that are finished."""
    curves: dict[str, dict[int, dict[int, float]]] = {}
    for row in results(workdir):
        curves.setdefault(row.strategy, {}).setdefault(row.seed, {})[row.labels] = row.accuracy
    longest = max(max(curve) for seeds in curves.values() for curve in seeds.values())
    return {
        name: {seed: curve for seed, curve in seeds.items() if max(curve) == longest} for name, seeds in curves.items()
    }


def summary(workdir: Path, tasks: list[str]) -> str:
    """The tables as Markdown."""
    lines, family = [], []
    for task in tasks:
        curves = curves_of(workdir / task)
        start, end = min(next(iter(curves["random"].values()))), max(next(iter(curves["random"].values())))
        ranges = {f"{start}–{start + LOW}": (start, start + LOW), f"{start}–{end}": (start, end)}
        areas = {
            name: {n: {s: 100 * area(c, *ends) for s, c in seeds.items()} for n, seeds in curves.items()}
            for name, ends in ranges.items()
        }
        whole = areas[f"{start}–{end}"]
        lines += [f"### {task}, {len(whole['random'])} seeds", ""]
        lines += [f"| strategy | area | {' | '.join(f'− random, {name} labels' for name in ranges)} | − margin |"]
        lines += ["|---|---|---|---|---|"]
        for name in sorted(whole, key=lambda name: -np.mean(list(whole[name].values()))):
            cells = [_difference(of, name, "random") for of in areas.values()]
            mean = np.mean(list(whole[name].values()))
            lines += [f"| {name} | {mean:.1f} | {' | '.join(cells)} | {_difference(whole, name, 'margin')} |"]
        lines += [""]
        for plain in PLAIN:
            found = compare({name: whole[name] for name in (HEADLINE, plain)}, reference=plain, resamples=0)
            family += [(task, found[0])]
    judged = judge([found for _, found in family])
    lines += [f"### {HEADLINE} over the whole study", ""]
    lines += [
        "| task | against | difference of areas | better on | p | p, Holm | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for (task, _), found in zip(family, judged, strict=True):
        mean, half = found.difference
        lines += [
            f"| {task} | {found.reference} | {mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}] | "
            f"{found.better} of {found.pairs} | {found.p:.3f} | {found.adjusted:.3f} | {found.verdict} |"
        ]
    return "\n".join(lines) + "\n"


def _difference(values, name: str, reference: str) -> str:
    if name == reference:
        return "–"
    seeds = sorted(values[name].keys() & values[reference].keys())
    mean, half = student_t([values[name][seed] - values[reference][seed] for seed in seeds])
    return f"{mean:+.1f} ± {half:.1f}"


def main() -> None:
    """Run what is not finished, then write the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workdir", type=Path, default=Path("benchmarks/results/coverage"))
    parser.add_argument("--scratch", type=Path, default=Path("runs/data"), help="where the two .npz files are written")
    parser.add_argument("--strategies", nargs="+", type=yaml.safe_load, help="in the place of the study's, as YAML")
    parser.add_argument("--report", action="store_true", help="run nothing")
    args = parser.parse_args()
    workdir = args.workdir.resolve()
    if not args.report:
        args.scratch.mkdir(parents=True, exist_ok=True)
        source = Path(os.environ["BDAL_DATA_DIR"]).resolve()
        os.environ["BDAL_DATA_DIR"] = str(source)
        write_data(source, args.scratch)
        os.chdir(args.scratch)  # so that a run directory holds names of files, and no folder of this machine
        for task in args.tasks:
            run.run(experiment(task, args.seeds, args.strategies), workdir / task)
    if args.strategies is not None:
        return
    done = [task for task in TASKS if (workdir / task / "table.md").exists()]  # written at the end of a run
    text = summary(workdir, done)
    (workdir / "summary.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
