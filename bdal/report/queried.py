"""What a report says of the queries: classes, scores, images, and how the oracle answered.

Axis letters: N pool points, C classes, S seeds.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bdal import config
from bdal.environment import expanded
from bdal.pool import ABSTAIN
from bdal.report import figures
from bdal.report.document import Block, Bullets, Paragraph, Picture, Pictures, Section, Table
from bdal.report.gather import Group, Key, Source
from bdal.report.words import both, by_posterior, several, span, title
from bdal.store.directory import SeedRun
from bdal.store.ledger import settled
from bdal.strategy import STRATEGIES, top

COLUMNS, LINES = 10, 12  # of a contact sheet: points of a round, rounds
DRAWN_BY_SCORE = ("power_bald", "softmax_bald", "softrank_bald")  # at random; the gain is the score
SAME_UNIT = ("mutual_information_penalty", "batchbald")  # the gain is information in nats, and so is the score, BALD

Draw = Callable[..., Picture]


class Pool(NamedTuple):
    """What is known of the pool beyond the ledgers."""

    classes: list[str]
    certain: bool  # whether these are all classes, and not only those that were met
    shares: np.ndarray | None  # [C]
    inputs: Any  # [N, ...] or None
    missing: str  # why there are no shares or inputs


def pool_of(group: Group, load_data: bool) -> Pool:
    """The pool that the runs saw, if it lies here and is the same; else what run.json and the ledgers say."""
    source = next((source for source in group.sources if source.experiment is not None), None)
    if not load_data:
        data, missing = None, "the data was not read, as was asked"
    elif source is None:
        data, missing = None, "this version does not read the config, which says what the data is"
    else:
        data, missing = _load(source)
    if data is not None:
        shares = None
        if data.pool_labels is not None:
            known = data.pool_labels[data.pool_labels >= 0]
            shares = np.bincount(known, minlength=data.num_classes) / max(1, len(known))
        return Pool(list(data.class_names), True, shares, data.source.inputs, "the pool has no labels")
    if names := group.facts.get("classes"):
        return Pool([str(name) for name in names], True, None, None, missing)
    met = [label for run in group.runs for label in _answers(run, "validation", "initial").values()]
    most = max((label for label in met if label is not None), default=-1)
    return Pool([str(label) for label in range(most + 1)], False, None, None, missing)


def sections(group: Group, pool: Pool, draw: Draw) -> list[Section]:
    """What was queried, and the answers."""
    if group.own:  # which points they are is not known, nor their labels
        gains = any(line.get("gains") for run in group.runs for line in run.metrics)
        scores = Section("Scores", _scores(group, draw), level=3) if gains else None
        return [Section("What was queried", []), scores] if scores else []
    if not any(_queries(run) for run in group.runs):
        text = "Nothing has been queried yet."
        return [Section("What was queried", [Paragraph(text)]), _labels(group, pool)] if group.runs else []
    found = [
        Section("Classes", _classes(group, pool, draw), level=3),
        Section("Scores", _scores(group, draw), level=3),
        Section("Images", _sheets(group, pool, draw), level=3),
    ]
    return [Section("What was queried", []), *found, _labels(group, pool)]


# -- data ------------------------------------------------------------------------------------------------------------


def _load(source: Source) -> tuple[Any, str]:
    """The data of a run, or why there is none."""
    from bdal.config.data import load

    assert source.experiment
    if absent := _absent(source.experiment.data):
        return None, absent
    try:
        data = load(source.experiment)
    except (ValueError, OSError) as error:
        return None, f"the data cannot be read ({' '.join(str(error).split())})"
    if source.identity.get("data") not in (None, data.fingerprint):
        return None, "the data that lies here is not the data of the run, as its fingerprint differs"
    return data, ""


def _absent(data: config.Data) -> str:
    """Why a data set that would have to be downloaded is not read: a report downloads nothing."""
    from bdal.datasets.mnist import FILES, cache_dir

    if data.name not in ("mnist", "fashion_mnist") or (cache_dir() / data.name / "arrays.npz").exists():
        return ""
    chosen = data.data_dir or os.environ.get("BDAL_DATA_DIR")
    folders = [expanded(chosen) / data.name, expanded(chosen)] if chosen else []
    folders.append(cache_dir() / data.name)
    if all(any((folder / file).is_file() for folder in folders) for file in FILES.values()):
        return ""
    return f"the files of {data.name} are not on this machine (BDAL_DATA_DIR says where they are)"


# -- what the ledgers say --------------------------------------------------------------------------------------------


def _queries(run: SeedRun) -> dict[int, list[int]]:
    """Round to the pool indices that it queried; the labels to start with are no round."""
    return {
        event["round"]: event["indices"]
        for event in run.events
        if event.get("event") == "queried" and event.get("round", -1) >= 0 and event.get("indices")
    }


def _given(run: SeedRun) -> dict[int, list[int | None]]:
    """Pool index to all answers for it in the order they came, None where the oracle abstained."""
    given: dict[int, list[int | None]] = defaultdict(list)
    for event in run.events:
        kind = event.get("event")
        if kind in ("validation", "initial", "labelled"):
            for index, label in zip(event["indices"], event["labels"], strict=True):
                if kind == "labelled" or not given[index]:  # the start repeats what people answered
                    given[index].append(label)
    return given


def _answers(run: SeedRun, *kinds: str) -> dict[int, int | None]:
    """Pool index to what its answers amount to, None without a label: of queries, and of the start if it is named."""
    asked = {index for query in _queries(run).values() for index in query}
    asked |= {index for event in run.events if event.get("event") in kinds for index in event["indices"]}
    labels = settled(run.events, "last")
    return {index: None if label == ABSTAIN else label for index, label in labels.items() if index in asked}


def unanswered(run: SeedRun) -> int:
    """Points that were queried, those to start with too, and have no answer yet."""
    asked = {index for event in run.events if event.get("event") == "queried" for index in event["indices"]}
    return len(asked - _given(run).keys())


def _contradictions(run: SeedRun) -> int:
    """Answers for a point that has another, different one already."""
    every = [(given[:place], label) for given in _given(run).values() for place, label in enumerate(given)]
    return sum(any(other != label for other in before) for before, label in every)


# -- classes ---------------------------------------------------------------------------------------------------------


def _classes(group: Group, pool: Pool, draw: Draw) -> list[Block]:
    shares: dict[Key, np.ndarray] = {}
    for key in group.planned:
        counts = [
            np.bincount([label for label in _answers(run).values() if label is not None], minlength=len(pool.classes))
            for run in group.runs_of(key)
        ]
        counts = [found for found in counts if found.sum()]
        if counts:
            shares[key] = np.array([found / found.sum() for found in counts])
    blocks: list[Block] = []
    for suffix, about, some in by_posterior(shares):
        seeds = max(map(len, some.values()))
        bars = "Bars are means over seeds, whiskers 95 % Student t intervals of them" if seeds > 1 else "One seed"
        marks = "marks are shares in the pool" if pool.shares is not None else f"no shares in the pool: {pool.missing}"
        caption = (
            f"{about}Classes of the queried points in %, without the labels to start with and those for validation. "
            f"{bars}; {marks}."
        )
        most = []
        for name, found in some.items():
            mean = found.mean(0)
            most.append(f"{' '.join(name.split())} class {pool.classes[int(mean.argmax())]}, {100 * mean.max():.0f} %")
        alt = f"Classes queried by strategy. Most often: {'; '.join(most)}."
        blocks.append(draw(f"classes{suffix}", alt, caption, figures.class_histograms, some, pool.classes, pool.shares))
    return blocks or [Paragraph("No query has been answered yet.")]


# -- scores ----------------------------------------------------------------------------------------------------------


def _scores(group: Group, draw: Draw) -> list[Block]:
    scores: dict[Key, figures.Scores] = {}
    seeds, other = set(), []
    for key in group.planned:
        runs = [run for run in group.runs_of(key) if any(line.get("gains") for line in run.metrics)]
        if key[1] == "random" or not runs:
            continue
        seeds.add(runs[0].seed)
        lines = [line for line in runs[0].metrics if line.get("gains") and isinstance(line.get("labels"), int)]
        quantiles = [line.get("score_quantiles") or [] for line in lines]
        known = all(len(found) == 5 for found in quantiles)
        labels, gains = [line["labels"] for line in lines], [line["gains"] for line in lines]
        other += [key[1]] if known and not gains_are_scores(key[1]) else []
        known = known and gains_are_scores(key[1])
        scores[key] = figures.Scores(labels, np.array(quantiles, float) if known else None, gains)
    if not scores:
        return [Paragraph("No scores are on record.")]
    blocks: list[Block] = []
    for suffix, about, some in by_posterior(scores):
        alone = list(dict.fromkeys(name.split()[0] for name, found in some.items() if found.quantiles is None))
        absent = [name for name in alone if name not in other]
        caption = (
            f"{about}Scores by round, seed {both(map(str, sorted(seeds)))}: the gain with which each point was chosen, "
            "on the strategy's own scale (higher is better), and where it has one score a point, the distribution over "
            "all candidates. Random has no score."
        )
        if rules := [name for name in alone if name in other]:
            caption += f" Gains of {both(rules)} are on another scale than scores, and stand alone."
        if absent:
            caption += f" No distribution is on record for {both(absent)}."
        alt = f"Scores by round for {', '.join(' '.join(name.split()) for name in some)}."
        blocks.append(draw(f"scores{suffix}", alt, caption, figures.score_distributions, some))
    return blocks


def gains_are_scores(strategy: str) -> bool:
    """Whether a strategy's gains are on the scale of its scores, as those of a batch rule are not.

    >>> [gains_are_scores(name) for name in ("entropy", "power_bald-beta-4", "bald_diverse", "weighted_coverage")]
    [True, True, False, False]
    """
    name = strategy.split("-")[0]
    highest = name in STRATEGIES and STRATEGIES[name].make().select is top
    return highest or name in (*DRAWN_BY_SCORE, *SAME_UNIT)


# -- images ----------------------------------------------------------------------------------------------------------


def _sheets(group: Group, pool: Pool, draw: Draw) -> list[Block]:
    if pool.inputs is None:
        return [Paragraph(f"No contact sheets: {pool.missing}.", note=True)]
    shape = tuple(map(int, pool.inputs.shape[1:]))
    if len(shape) != 3 or shape[-1] not in (1, 3):
        return [Paragraph(f"No contact sheets: points of shape {shape} are no images of (height, width, 1 or 3).")]
    pictures, seeds, cut = [], set(), False
    for key in group.planned:
        run = next((run for run in group.runs_of(key) if _queries(run)), None)
        if run is None:
            continue
        seeds.add(run.seed)
        queries, answers = _queries(run), _answers(run)
        turns = sorted(queries)
        if len(turns) > LINES:
            turns = [turns[round(place)] for place in np.linspace(0, len(turns) - 1, LINES)]
        cut = cut or len(turns) < len(queries) or max(map(len, queries.values())) > COLUMNS
        lines = [(f"round {turn}", _tiles(queries[turn][:COLUMNS], answers, pool)) for turn in turns]
        about = f"{key[1]}, {title(key[0])}"
        alt = f"Images that {about} queried with seed {run.seed}, rounds {turns[0]} to {turns[-1]}."
        pictures.append(draw(f"queried_{key[0]}_{key[1]}", alt, about, figures.contact_sheet, lines))
    caption = (
        f"What each strategy queried, seed {both(map(str, sorted(seeds)))}: a line a round, in the order of choosing, "
        "below each image the answer (– where the oracle abstained, ? where there is none yet)."
    )
    if cut:
        caption += f" At most {COLUMNS} points of a round are shown, and {LINES} rounds, evenly spaced."
    return [Pictures(pictures, caption)]


def _tiles(indices: Sequence[int], answers: Mapping[int, int | None], pool: Pool) -> list[tuple[np.ndarray, str]]:
    """An image and the answer to it for each index."""
    tiles = []
    for index in indices:
        if not 0 <= index < len(pool.inputs):  # the ledger of another pool
            continue
        image = np.asarray(pool.inputs[index], np.float32)
        low, high = min(0.0, float(image.min())), max(1.0, float(image.max()))
        label = answers.get(index, -1)
        name = "–" if label is None else "?" if label < 0 else _class_name(label, pool.classes)
        tiles.append(((image - low) / (high - low), name))
    return tiles


def _class_name(label: int, classes: Sequence[str]) -> str:
    return classes[label][:8] if label < len(classes) else str(label)


# -- answers ---------------------------------------------------------------------------------------------------------


def _labels(group: Group, pool: Pool) -> Section:
    lines, lacking, trained = [], [], []
    for key in group.planned:
        runs = group.runs_of(key)
        if not runs:
            continue
        queried = [_labelled(_answers(run)) for run in runs]
        every = [{index: given[-1] for index, given in _given(run).items()} for run in runs]
        start = [_labelled(found) - later for found, later in zip(every, queried, strict=True)]
        abstained = [len(found) - _labelled(found) for found in every]
        counts = (start, queried, abstained, list(map(_contradictions, runs)))
        lines.append([title(key[0]), key[1], *map(span, counts)])
        seen = {run.seed: {label for label in _answers(run, "initial").values() if label is not None} for run in runs}
        trained += [bool(labels) for labels in seen.values()]
        lacking += _lacking(key, seen, pool)
    if not lines:
        return Section("Answers", [])
    blocks: list[Block] = []
    if noise := group.facts.get("label_noise"):
        text = f"The simulated oracle is wrong on purpose: {100 * noise:.3g} % of the pool's labels were flipped."
        blocks.append(Paragraph(text))
    if any(line[4:] != ["0", "0"] for line in lines):
        caption = (
            "Labels of a seed, to start with (for validation, too) and by its queries, the points of both for which "
            "there is none as the oracle abstained, and answers that contradict an earlier one, which are kept beside "
            "it."
        )
        heads = ["posterior", "strategy", "to start with", "by query", "abstentions", "contradictions"]
        blocks.append(Table(caption, heads, lines, left=2))
    elif any(line[2:4] != ["0", "0"] for line in lines):
        blocks.append(Paragraph("No label was withheld, and no answer contradicted an earlier one."))
    if not any(trained):
        blocks.append(Paragraph("There are no labels to train on yet."))
    elif lacking:
        blocks += [Paragraph("Classes that have no training label yet:", note=True), Bullets(lacking)]
    elif pool.certain:
        begun = "" if all(trained) else " that has begun to train"
        blocks.append(Paragraph(f"Every class has a training label in every run{begun}."))
    else:
        text = "Whether a class has no label yet cannot be said: which classes there are is not on record."
        blocks.append(Paragraph(text))
    return Section("Answers", blocks)


def _labelled(answers: Mapping[int, int | None]) -> int:
    return sum(label is not None for label in answers.values())


def _lacking(key: Key, seen: Mapping[int, set[int]], pool: Pool) -> list[str]:
    """A sentence for each set of classes that some seeds have no training label of; `seen` are those of each seed."""
    seeds: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for seed, labels in seen.items():
        if labels:
            seeds[tuple(name for label, name in enumerate(pool.classes) if label not in labels)].append(seed)
    return [
        f"{title(key[0])}, {key[1]}, seed {both(map(str, found))}: "
        f"no label of {several(len(names), 'class', 'classes')}, {both(names)}"
        for names, found in sorted(seeds.items())
        if names
    ]
