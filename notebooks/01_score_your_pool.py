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
# # Score your own model's pool, and pick a diverse batch
#
# You have a trained network, a pool of unlabelled inputs, and money for ten more labels. Which ten?
#
# This notebook turns a network into a committee, scores the pool, looks at what the scores mean, and picks a batch
# whose points do not repeat each other. It needs a minute on a laptop and runs unchanged on a GPU or a TPU.

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
# ## Your model
#
# Here it is a small flax network with dropout, trained in the plainest way on 100 labelled digits. Yours may be
# anything: bdal only needs `apply(params, key, x)`, the logits of one input, with dropout when there is a key.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

from bdal.datasets import load

data = load("optdigits")  # 3,823 digits of 8 x 8, inside the package
pool, answers = data.inputs, data.labels
labelled = np.zeros(len(pool), bool)
labelled[np.random.default_rng(0).choice(len(pool), 100, replace=False)] = True


class Network(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.head = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):  # [B, 8, 8, 1]
        h = nnx.relu(self.hidden(x.reshape(x.shape[0], -1)))
        h = self.dropout(h)
        return self.head(h), h  # logits [B, C], and features [B, D] for the scores that look at them


model = Network(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)


@nnx.jit
def step(model, optimizer, x, y):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x)[0], y).mean()

    optimizer.update(model, nnx.grad(loss)(model))


for _ in range(300):
    step(model, optimizer, pool[labelled], answers[labelled])

model.eval()
print(f"test accuracy with 100 labels: {(model(data.test_inputs)[0].argmax(-1) == data.test_labels).mean():.3f}")

# %% [markdown]
# ## A committee
#
# Fifty dropout masks make fifty voters. Each keeps its mask for the whole pool, so a member is one function, and the
# scores do not depend on how the pool is cut into chunks. `log_probs` is all that the mathematics wants to see.

# %%
apply, params = bdal.from_nnx(model)
committee = bdal.mc_dropout(apply, params, jax.random.split(jax.random.key(0), 50))

log_probs = committee.log_probs(pool)
print("log_probs [N, K, C]:", log_probs.shape)

scores = {
    "BALD": bdal.bald(log_probs),  # what the members disagree about: I(label; member), nats
    "entropy": bdal.predictive_entropy(log_probs),  # all uncertainty, noise included, nats
    "margin": bdal.margin(log_probs),  # the two best classes of the mean, close together
}

# %% [markdown]
# ## What the scores see
#
# Above, the twelve pool points that each score would label first; below, the twelve it would label last. The small
# number is the committee's guess, red where it is wrong (which nobody knows at this point).

# %%
guesses = np.asarray(jax.nn.logsumexp(log_probs, axis=1).argmax(-1))  # of the mean prediction


def show(rows):
    """A row of images for each (name, indices)."""
    columns = max(len(indices) for _, indices in rows)
    figure, panels = plt.subplots(len(rows), columns, figsize=(0.62 * columns, 0.82 * len(rows)), squeeze=False)
    for line, (name, indices) in zip(panels, rows, strict=True):
        for panel, index in zip(line, indices, strict=True):
            panel.imshow(pool[index, :, :, 0], cmap="gray_r", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
            wrong = guesses[index] != answers[index]
            panel.set_title(guesses[index], fontsize=8, pad=2, color="tab:red" if wrong else "0.4")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    plt.show()


def ranked(values):
    """Points without a label, the highest score first."""
    order = np.argsort(-np.asarray(values))
    return order[~labelled[order]]


show([(f"{name}\nfirst", ranked(values)[:12]) for name, values in scores.items()])
show([(f"{name}\nlast", ranked(values)[-12:]) for name, values in scores.items()])

# %% [markdown]
# A score is useful if mistakes are where it is high. Left: every pool point, its entropy split in two, what the members
# agree to be unsure about and what they disagree about (their sum is the entropy). Right: the share of all mistakes
# that are found among the highest-scored points.

# %%
wrong = guesses != answers
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))

agreed = np.asarray(bdal.expected_entropy(log_probs))
for mask, color, name in ((~wrong, "0.75", "right"), (wrong, "tab:red", "wrong")):
    left.scatter(agreed[mask], np.asarray(scores["BALD"])[mask], s=4, color=color, label=name, linewidths=0)
left.set(xlabel="expected entropy (nats)", ylabel="BALD (nats)")
left.legend(title="guess", frameon=False, markerscale=3)

for name, values in scores.items():
    order = ranked(values)
    right.plot(np.linspace(0, 1, len(order)), np.cumsum(wrong[order]) / wrong[order].sum(), label=name)
right.plot([0, 1], [0, 1], color="0.6", ls="--", lw=1, label="random order")
right.set(xlabel="share of the pool, highest score first", ylabel="share of all mistakes")
right.legend(frameon=False)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Ten labels that do not repeat each other
#
# Real pools repeat themselves: frames of a video, scans of one patient, texts that were copied. So here every digit
# comes four times, with a little noise. The ten highest scores are now copies of a few questions. Three ways out: draw
# in proportion to a power of the score (`power`), subtract the similarity to what the batch already holds (`diverse`),
# or subtract the information that a point's label shares with the labels before it (`mutual_information_penalty`).

# %%
noise = np.random.default_rng(0).normal(0, 0.02, (4 * len(pool), *pool.shape[1:])).astype(np.float32)
repeated = np.repeat(pool, 4, axis=0) + noise  # point i shows digit i // 4
rule = {"available": np.repeat(~labelled, 4), "query_size": 10}

repeated_log_probs = committee.log_probs(repeated)
embeddings = committee.embedding(repeated)  # [N, D]
bald = bdal.bald(repeated_log_probs)

batches = {
    "top_k": bdal.top_k(bald, **rule),
    "power": bdal.power(jax.random.key(1), bald, beta=8.0, **rule),
    "diverse": bdal.diverse(bald, embeddings, weight=10.0, **rule),
    "information\npenalty": bdal.mutual_information_penalty(repeated_log_probs, reduce="max", **rule),
}
batches = {name: np.asarray(query.indices) for name, query in batches.items()}
show([(name, indices // 4) for name, indices in batches.items()])

for name, indices in batches.items():
    different, mean = len(set(indices // 4)), np.asarray(bald)[indices].mean()
    print(f"{' '.join(name.split()):20s}  {different:2d} different digits   mean BALD {mean:.3f} nats")

# %% [markdown]
# The same in one call, for any named strategy: committee, map over the pool, fold into a batch.

# %%
for name in ("random", "margin", "power_bald", "expected_model_change", "k_center"):
    query = bdal.query(
        jax.random.key(2), bdal.make_strategy(name), committee, pool, available=~labelled, query_size=10,
        labelled_inputs=pool[labelled], labels=answers[labelled],
    )  # fmt: skip
    print(f"{name:22s}", np.asarray(query.indices).tolist())

# %% [markdown]
# ## Arrays from elsewhere
#
# No flax network? The mathematics takes any array of log-probabilities `[N, K, C]`, NumPy's too. From PyTorch:
# `torch.stack([net(x) for _ in range(20)], dim=1).log_softmax(-1).numpy()`. What cannot be right is refused.

# %%
logits = np.random.default_rng(1).normal(size=(1000, 20, 5)).astype(np.float32)  # from anywhere
theirs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
print(bdal.top_k(bdal.bald(theirs), available=np.ones(1000, bool), query_size=5).indices)

try:
    bdal.bald(np.exp(theirs))  # probabilities, by mistake
except ValueError as error:
    print("ValueError:", error)

# %% [markdown]
# Next: [active learning from scratch](02_active_learning_from_scratch.ipynb), the loop around all this.
