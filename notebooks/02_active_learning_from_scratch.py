# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Active learning from scratch
#
# Start with 20 labelled digits. Train, ask for ten more labels where the network is unsure, train again, until 100 are
# bought. Does asking beat choosing at random, and can the probabilities be trusted at the end? Two minutes on two CPU
# cores; nothing changes on a GPU or a TPU.

# %% [markdown]
# The next cell installs bdal from the checkout that this notebook lies in. On Colab: run `pip wheel --no-deps .` in the
# checkout, open the notebook by *File > Upload notebook*, and upload `bdal-*.whl` beside it (the folder on the left).

# %%
from pathlib import Path

try:
    import bdal
except ImportError:  # a few small packages; the jax that is there stays
    checkout = Path("..") if Path("../pyproject.toml").exists() else Path()
    source = str(next(Path().glob("bdal-*.whl"), checkout))
    # %pip install -q {source}
    import bdal

facts = bdal.doctor()

# %% [markdown]
# ## What there is at the start
#
# A pool without labels, on the device; an oracle that answers for them (here it looks the labels up, it may ask a
# person); and a test set that nothing but the curves will ever see.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from bdal import datasets
from bdal.models import MLP
from bdal.report.figures import reliability_diagram

data = datasets.load("optdigits")
pool, test_inputs, test_labels = map(jnp.asarray, (data.inputs, data.test_inputs, data.test_labels))
oracle = datasets.oracle(data.labels)
print(f"{len(pool)} digits of 8 x 8 in the pool, {len(test_inputs)} for testing")

# %% [markdown]
# ## A network and a way to train it
#
# A `Model` is a network as functions: `init(key)` makes fresh variables, `apply(variables, key, x)` gives the logits of
# one input. `fit_mc_dropout` turns it into a `fit`: labels in, committee out. It trains from scratch every round, stops
# early on a few validation labels, and compiles once, whatever the number of labels.

# %%


def make(rngs):
    return MLP(64, data.num_classes, hidden=(128, 64), dropout=0.25, rngs=rngs)


model = bdal.model_from_nnx(make, batched=False)  # this network takes one input
training = bdal.Training(steps=600, batch_size=64)
fit = bdal.fit_mc_dropout(model, training=training, members=20)

# %% [markdown]
# ## One run
#
# The loop is a generator: each round holds the committee, what it was trained on, and what it asked for. Labels for
# early stopping are bought as well, 20 of them at the start, and counted.

# %%


def start(seed, training_labels=20, validation_labels=20, capacity=100):
    """The labelled set and the validation set that a seed begins with: both bought at random."""
    rows = np.random.default_rng(seed).choice(len(pool), training_labels + validation_labels, replace=False)
    first, held_out = rows[:training_labels], rows[training_labels:]
    empty = bdal.LabelledSet.empty
    return (
        bdal.extend(empty(capacity), first, oracle(first), num_points=len(pool)),
        bdal.extend(empty(validation_labels), held_out, oracle(held_out), num_points=len(pool)),
    )


def mean_prediction(committee):
    """The members' mean on the test set, [T, C]."""
    log_probs = committee.log_probs(test_inputs, chunk_size=512)
    return jnp.exp(log_probs).mean(1)


def run(name, seed, fit=fit):
    """Every round of one run, with its test accuracy."""
    labelled, validation = start(seed)
    rounds = bdal.active_learning(
        jax.random.key(seed), fit=fit, strategy=bdal.make_strategy(name), inputs=pool, oracle=oracle, labelled=labelled,
        validation=validation, query_size=10, rounds=8, num_classes=data.num_classes,
    )  # fmt: skip
    for round in rounds:
        yield round, float(bdal.accuracy(mean_prediction(round.committee), test_labels))


for round, accuracy in run("margin", seed=0):
    print(f"round {round.number}  {round.labelled.count:3d} labels  accuracy {accuracy:.3f}  buys", round.labels)

# %% [markdown]
# ## Does it beat random?
#
# Random, margin, and BALD sampled in proportion to its power (a batch of the ten highest BALD scores would ask the same
# question ten times). All start from the same labels, seed by seed; the thin lines are the seeds.

# %%
strategies = {"random": "0.5", "margin": "tab:blue", "power_bald": "tab:orange"}
seeds = range(3)
runs = {(name, seed): list(run(name, seed)) for name in strategies for seed in seeds}

counts = [int(round.labelled.count) for round, _ in runs["random", 0]]
curves = {name: np.array([[accuracy for _, accuracy in runs[name, seed]] for seed in seeds]) for name in strategies}

figure, panel = plt.subplots(figsize=(5.5, 3.6))
for name, color in strategies.items():
    panel.plot(counts, curves[name].T, color=color, lw=0.7, alpha=0.5)
    panel.plot(counts, curves[name].mean(0), color=color, lw=2.2, marker="o", ms=4, label=name)
panel.set(xlabel="training labels (+20 validation)", ylabel="test accuracy")
panel.grid(alpha=0.3)
panel.legend(frameon=False)
plt.show()

for name in strategies:
    gain = (curves[name] - curves["random"]).mean(1)  # a number a seed: the mean over the curve
    print(f"{name:11s} at {counts[-1]} labels {curves[name][:, -1].mean():.3f}", end="   ")
    print("mean gain over random, seed by seed:", " ".join(f"{value:+.3f}" for value in gain))

# %% [markdown]
# Three seeds show the shape, not a result. For a comparison with intervals over more seeds and strategies, all of them
# in one table: `bdal run configs/quickstart.yaml`.
#
# ## What was asked
#
# The first twenty digits that random and margin bought after the same start.

# %%
figure, panels = plt.subplots(2, 20, figsize=(11, 1.35))
for line, name in zip(panels, ("random", "margin"), strict=True):
    asked = np.concatenate([round.query.indices for round, _ in runs[name, 0][:2]])
    for panel, index in zip(line, asked, strict=True):
        panel.imshow(data.inputs[index, :, :, 0], cmap="gray_r", vmin=0, vmax=1)
        panel.set(xticks=[], yticks=[])
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()

# %% [markdown]
# ## Can the probabilities be trusted?
#
# A reliability diagram: among the points that the committee is 80 % sure of, are 80 % right? Above the diagonal it is
# too modest, below it too sure. Grey bars: how many points there are. Averaging masks makes a prediction more modest:
# compare the committee with one of its own members.

# %%
figure, panels = plt.subplots(1, 3, figsize=(10.5, 3.5))
last = runs["margin", 0][-1][0].committee
shown = {
    "20 labels": runs["margin", 0][0][0].committee,
    "100 labels": last,
    "100 labels, one mask": last.take(1),
}
for panel, (name, committee) in zip(panels, shown.items(), strict=True):
    probs = mean_prediction(committee)
    reliability_diagram(bdal.calibration.reliability(probs, test_labels), panel)
    panel.set_title(f"{name}: ECE {float(bdal.ece(probs, test_labels)):.3f}", fontsize=10)
    print(f"{name:21s} accuracy {bdal.accuracy(probs, test_labels):.3f}   NLL {bdal.nll(probs, test_labels):.3f}")
for panel in panels[1:]:
    panel.get_legend().remove()
figure.tight_layout()
plt.show()

# %% [markdown]
# ## A deep ensemble instead
#
# Another posterior is another `fit`; nothing else changes.

# %%
ensemble = bdal.fit_deep_ensemble(model, training=training, members=5)

for round, accuracy in run("margin", seed=0, fit=ensemble):
    if round.number % 4 == 0:
        print(f"round {round.number}  {round.labelled.count:3d} labels  accuracy {accuracy:.3f}")

# %% [markdown]
# ## On a TPU or a GPU
#
# Run the same cells. Arrays live where JAX puts them, training and scoring are the same compiled programs, and
# `bdal.doctor()` in the first cell raises if an accelerator is attached but JAX has silently fallen back to the CPU.
