"""The data of an experiment: a pool without its labels, subsets that stay together, parts that fit."""

import dataclasses

import jax
import numpy as np
import pytest

from bdal import config, datasets
from bdal.config import Comparison, Experiment, Labels, Named, data
from bdal.config.data import facts, load
from bdal.errors import ConfigError, DataNotFoundError

RNG = np.random.default_rng(0)
POINTS, TESTS = 80, 40


@pytest.fixture
def arrays(tmp_path):
    """Writes an `.npz` of two blobs, less what is left out."""

    def write(*without, **changes):
        labels, test_labels = RNG.integers(0, 3, POINTS), RNG.integers(0, 3, TESTS)
        parts = {
            "inputs": RNG.normal(size=(POINTS, 2)).astype(np.float32), "labels": labels,
            "test_inputs": RNG.normal(size=(TESTS, 2)).astype(np.float32), "test_labels": test_labels,
        }  # fmt: skip
        path = tmp_path / "blobs.npz"
        np.savez(path, **{name: part for name, part in (parts | changes).items() if name not in without})
        return path

    return write


def experiment(path="optdigits", *, labels=None, seed=0, points=None, **more):
    return Experiment(
        "small", (Comparison("mc_dropout", 2, (Named("random"),)),), seed=seed, seeds=1,
        data=config.Data(name=str(path), **more), labels=labels or Labels(budget=20, initial=4),
        evaluation=config.Evaluation(points=points),
    )  # fmt: skip


def test_a_random_pool_keeps_inputs_and_labels_together():
    source = datasets.load("optdigits")
    rows = {row.tobytes(): label for row, label in zip(source.inputs, source.labels, strict=True)}
    tests = {row.tobytes(): label for row, label in zip(source.test_inputs, source.test_labels, strict=True)}
    loaded = load(experiment(pool=60, test=30, points=10))
    assert loaded.pool.shape == (60, 8, 8, 1)
    assert isinstance(loaded.pool, jax.Array)
    assert [rows[row.tobytes()] for row in np.asarray(loaded.pool)] == loaded.pool_labels.tolist()
    assert [tests[row.tobytes()] for row in np.asarray(loaded.test[0])] == loaded.test[1].tolist()
    assert (len(loaded.test[1]), len(loaded.quick_test[1])) == (30, 10)
    whole = {row.tobytes() for row in np.asarray(loaded.test[0])}
    assert {row.tobytes() for row in np.asarray(loaded.quick_test[0])} < whole
    assert (loaded.num_points, loaded.num_classes, loaded.class_names[3]) == (60, 10, "3")
    np.testing.assert_array_equal(loaded.source.inputs, loaded.pool)
    other = load(experiment(pool=60, test=30, seed=1))
    assert not np.array_equal(loaded.pool, other.pool)
    assert len(other.quick_test[1]) == 30
    np.testing.assert_array_equal(load(experiment(pool=60)).pool, loaded.pool)  # by the seed, not by the rest


def test_a_pool_larger_than_a_device_stays_on_the_host(arrays, monkeypatch):
    monkeypatch.setattr(data, "ON_DEVICE_BYTES", POINTS * 2 * 4 - 1)
    assert isinstance(load(experiment(arrays())).pool, np.ndarray)
    monkeypatch.setattr(data, "ON_DEVICE_BYTES", POINTS * 2 * 4)
    assert isinstance(load(experiment(arrays())).pool, jax.Array)


def test_what_scores_see_has_no_labels():
    fields = {field: getattr(load(experiment()), field) for field in ("pool", "pool_labels")}
    assert [leaf.shape for leaf in jax.tree.leaves(fields["pool"])] == [(fields["pool"].shape[0], 8, 8, 1)]
    assert not isinstance(fields["pool"], tuple | dict)


def test_builders_change_the_pool_one_after_the_other_and_not_the_test_set(arrays):
    path = arrays()
    plain = load(experiment(path))
    copies = Named("repeated", {"repeats": 3, "noise": 0.0})
    built = load(experiment(path, builders=(copies,)))
    assert built.num_points == 3 * POINTS
    np.testing.assert_array_equal(built.test[0], plain.test[0])
    assert {row.tobytes() for row in np.asarray(built.pool)} == {row.tobytes() for row in np.asarray(plain.pool)}
    rows = {row.tobytes(): label for row, label in zip(np.asarray(plain.pool), plain.pool_labels, strict=True)}
    assert [rows[row.tobytes()] for row in np.asarray(built.pool)] == built.pool_labels.tolist()
    assert load(experiment(path, builders=(copies, copies))).num_points == 9 * POINTS
    seen = facts(built)
    assert (seen["points"], seen["distinct_points"], seen["test_points"]) == (3 * POINTS, POINTS, TESTS)
    assert (seen["classes"], seen["shape"], seen["label_noise"]) == (["0", "1", "2"], [2], 0.0)


def test_the_fingerprint_is_the_pools(arrays):
    path = arrays()
    fingerprint = load(experiment(path)).fingerprint
    assert fingerprint == load(experiment(path)).fingerprint == datasets.fingerprint(datasets.load(str(path)))
    others = [experiment(path, pool=30), experiment(path, builders=(Named("repeated", {"repeats": 2}),))]
    others += [experiment(arrays())]
    assert len({fingerprint, *(load(other).fingerprint for other in others)}) == 4


@pytest.mark.parametrize(
    "without", [("test_inputs", "test_labels"), ("labels",), ("labels", "test_inputs", "test_labels")]
)
def test_pools_without_labels_and_without_a_test_set(arrays, without):
    path = arrays(*without)
    people = Labels(budget=20, initial=4, oracle="people")
    loaded = load(experiment(path, labels=people, classes=("cat", "dog", "owl")))
    assert loaded.class_names == ("cat", "dog", "owl")
    assert (loaded.pool_labels is None) == ("labels" in without)
    assert (loaded.test is None) == (loaded.quick_test is None) == ("test_labels" in without)
    assert facts(loaded)["test_points"] == (0 if "test_labels" in without else TESTS)


@pytest.mark.parametrize(
    ("without", "labels", "more", "message"),
    [
        ((), Labels(budget=100, initial=80), {}, "labels: expected at most 80 labels to start with, .* found 100"),
        (
            ("labels", "test_inputs", "test_labels"), Labels(budget=20, initial=4, oracle="people"), {},
            r"data\.classes: expected the names of at least two classes for .*blobs\.npz, found \[\]",
        ),
        (
            ("test_inputs", "test_labels"), Labels(budget=20, initial=4, validation=0.0), {},
            r"labels\.validation: expected above 0 for .*blobs\.npz, which has no test set to evaluate on, found 0",
        ),
        ((), None, {"builders": (Named("repeeted"),)}, r"data\.builders\.0: .*repeeted"),
        (
            (), None, {"builders": (Named("repeated", {"repeats": 2}), Named("repeated", {"repeats": 0}))},
            r"data\.builders\.1: .*repeats",
        ),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(arrays, without, labels, more, message):
    with pytest.raises(ConfigError, match=message):
        load(experiment(arrays(*without), labels=labels, **more))


@pytest.mark.parametrize("name", ["?", "abstain", " cat"])
@pytest.mark.parametrize("by", ["config", "file"])
def test_names_that_people_could_not_answer_with_are_refused(arrays, name, by):
    path = arrays("labels", "test_inputs", "test_labels")
    people = Labels(budget=20, initial=4, oracle="people")
    if by == "file" and name == name.strip():  # others are refused by the data set
        np.savez(path, **dict(np.load(path)), class_names=["dog", name])
        refused = experiment(path, labels=people)
    else:
        refused = experiment(path, labels=people, classes=("dog", name))
    with pytest.raises(
        (ConfigError, ValueError), match=r"class(es|_names): expected .* got ' cat'|which are answers of"
    ):
        load(refused)


def test_missing_data_says_which(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"nowhere\.npz: no such file"):
        load(experiment(tmp_path / "nowhere.npz"))


def test_data_named_by_a_relative_path_is_the_same_from_everywhere(arrays, tmp_path, monkeypatch):
    arrays()
    text = config.dump(dataclasses.replace(experiment("./blobs.npz"), name="relative"))
    (tmp_path / "small.yaml").write_text(text.replace("data_dir: null", "data_dir: here"))
    monkeypatch.chdir(tmp_path)
    found = config.load("small.yaml")
    assert found.data.name == str(tmp_path / "blobs.npz")
    assert found.data.data_dir == str(tmp_path / "here")
    assert config.load("small.yaml", ["--data.name", "optdigits"]).data.name == "optdigits"
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert load(found).num_points == POINTS
    again = tmp_path / "again.yaml"
    again.write_text(config.dump(found))
    assert config.load(again) == found


def test_a_query_larger_than_the_pool_is_refused(arrays):
    plain = experiment(arrays())
    with pytest.raises(ConfigError, match=rf"query\.size: expected at most {POINTS}, the points of the pool, found"):
        load(dataclasses.replace(plain, query=config.Query(size=POINTS + 1)))
    assert load(dataclasses.replace(plain, query=config.Query(size=POINTS))).num_points == POINTS
