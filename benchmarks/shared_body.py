"""Time and memory of many heads on one shared body: log-probabilities of 10,000 points, against one member and copies.

Usage, from the repository's root:

    python benchmarks/shared_body.py [--points 10000] [--hidden 1024 1024 64] [--members 100] [--copies 100]
                                     [--repeats 5] [--chunk-size 1000] [--out FILE.jsonl]

The body is 784-1024-1024-64, so that it dominates, and a head 64-10; weights are random, for the time does not depend
on them. `shared` is a committee of 100 heads that hold the body once, `one` has a single head, `copies` a body for
each head (--copies fewer where memory is short, 0 for none; their seconds are then also told for as many as there are
members). The three are alternated and take turns in going first; `ratio` is the median over the repeats of the ratios
to `one`, and the largest difference of `shared` and `copies` in log-probability is told. Chunks are of 1,000 points:
with 1,024, a layer of 1,024 units after another one takes 15 times as long in jax 0.10.2 on a CPU, on any side.
A line of JSON is printed, and appended to --out.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bdal.committee import Committee, deep_ensemble

INPUTS, CLASSES = 784, 10
LIMIT = 1.5  # shared / one

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--points", type=int, default=10_000)
parser.add_argument("--hidden", type=int, nargs="+", default=[1024, 1024, 64])
parser.add_argument("--members", type=int, default=100)
parser.add_argument("--copies", type=int, default=100)
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--chunk-size", type=int, default=1000)
parser.add_argument("--out", type=Path)


def member(body, head, noise, x):
    """Logits and features of one input."""
    del noise
    for weights in body:
        x = jax.nn.relu(x @ weights)
    return x @ head, x


def whole(both, noise, x):
    """A member that has a body of its own."""
    return member(*both, noise, x)


def weights(key, rows: int, columns: int) -> jax.Array:
    """Of one layer."""
    return jax.random.normal(key, (rows, columns)) * (2 / rows) ** 0.5


def committees(hidden: list[int], members: int, copies: int) -> dict[str, Committee]:
    """`shared`, `one` and `copies`, whose members are the same."""
    sizes = [INPUTS, *hidden]
    keys = jax.random.split(jax.random.key(0), len(hidden) + members)
    body = [weights(key, *size) for key, size in zip(keys, zip(sizes, hidden, strict=False), strict=False)]
    heads = jax.vmap(lambda key: weights(key, hidden[-1], CLASSES))(keys[len(hidden) :])
    found = {"shared": Committee(member, body, heads), "one": Committee(member, body, heads[:1])}
    if copies:
        bodies = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], copies, axis=0), body)
        found["copies"] = deep_ensemble(whole, (bodies, heads[:copies]))
    return found


def seconds(fn) -> float:
    """Of one call, finished."""
    start = time.perf_counter()
    jax.block_until_ready(fn())
    return time.perf_counter() - start


def main():
    """Alternate, print, compare."""
    args = parser.parse_args()
    args.copies = min(args.copies, args.members)
    sides = committees(args.hidden, args.members, args.copies)
    points = jnp.asarray(np.random.default_rng(0).random((args.points, INPUTS), np.float32))

    def score(name):
        return sides[name].log_probs(points, chunk_size=args.chunk_size)

    first = {name: round(seconds(lambda name=name: score(name)), 2) for name in sides}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(args.repeats):
        order = list(sides)
        for name in order[repeat % len(order) :] + order[: repeat % len(order)]:
            times[name].append(seconds(lambda name=name: score(name)))
        print(json.dumps({"repeat": repeat, **{name: round(t[-1], 3) for name, t in times.items()}}), flush=True)

    def ratio(name):
        return round(statistics.median(a / b for a, b in zip(times[name], times["one"], strict=True)), 3)

    line = {
        "points": args.points, "hidden": args.hidden, "members": args.members, "copies": args.copies,
        "device": jax.devices()[0].device_kind, "jax": jax.__version__,
        "seconds": {name: round(statistics.median(t), 4) for name, t in times.items()},
        "ratio to one": {name: ratio(name) for name in sides if name != "one"},
        "bytes": {name: sum(leaf.nbytes for leaf in jax.tree.leaves(side)) for name, side in sides.items()},
        "first calls, compilation included": first,
        "repeats": args.repeats,
    }  # fmt: skip
    if args.copies:
        few = points[: args.chunk_size]
        votes = [sides[name].log_probs(few)[:, : args.copies] for name in ("shared", "copies")]
        line["largest difference in log-probability"] = float(jnp.abs(votes[0] - votes[1]).max())
        if args.copies < args.members:
            line["seconds"]["as many copies as members"] = round(
                line["seconds"]["copies"] * args.members / args.copies, 4
            )
    print(json.dumps(line))
    if args.out:
        with args.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
    over = line["ratio to one"]["shared"]
    print(f"{args.members} heads take {over:.2f} of one member's time; {'above' if over > LIMIT else 'within'} {LIMIT}")


if __name__ == "__main__":
    main()
