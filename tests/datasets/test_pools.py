import re
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import yaml

from bdal.datasets import (
    POOLS,
    Dataset,
    build_pool,
    check_pool,
    contaminated,
    fingerprint,
    from_arrays,
    imbalanced,
    load,
    long_tailed,
    noisy_labels,
    redundant,
    repeated,
)
from bdal.errors import DataNotFoundError
from bdal.pool import ABSTAIN

DATA = from_arrays(
    np.random.default_rng(0).normal(size=(500, 4)), np.arange(500) % 3, np.ones((5, 4)), np.arange(5) % 3
)
DIGITS = load("optdigits")
SIZES = np.array([376, 389, 380, 389, 387, 376, 377, 387, 380, 382])  # of its ten classes
PEOPLE = from_arrays(DATA.inputs, class_names=["a", "b", "c"])  # nobody has labelled it


def sizes(data: Dataset) -> list[int]:
    return np.bincount(data.labels[data.labels != ABSTAIN], minlength=data.num_classes).tolist()


def rows(data: Dataset, of: Dataset = DIGITS) -> np.ndarray:
    """Which pool point of `of` each point is; they have no duplicates."""
    place = {point.tobytes(): index for index, point in enumerate(of.inputs)}
    return np.array([place[point.tobytes()] for point in data.inputs])


def same_test_set(data: Dataset, other: Dataset) -> bool:
    return np.array_equal(data.test_inputs, other.test_inputs) and np.array_equal(data.test_labels, other.test_labels)


# -- repeated ----------------------------------------------------------------------------------------------------------


def test_every_point_is_there_so_many_times_with_noise_of_its_own():
    data = repeated(DATA, 4, noise=0.1)
    copies = data.inputs.reshape(4, 500, 4)
    np.testing.assert_array_equal(data.labels.reshape(4, 500), np.broadcast_to(DATA.labels, (4, 500)))
    noise = copies - DATA.inputs
    assert abs(noise.std() - 0.1) < 0.003
    assert abs(noise.mean()) < 0.003
    assert abs((noise[0] * noise[1]).mean()) < 0.001
    np.testing.assert_array_equal(data.test_inputs, DATA.test_inputs)
    assert data.inputs.dtype == np.float32


def test_the_seed_fixes_the_noise():
    assert fingerprint(repeated(DATA, 2, noise=0.1)) == fingerprint(repeated(DATA, 2, noise=0.1))
    assert fingerprint(repeated(DATA, 2, noise=0.1)) != fingerprint(repeated(DATA, 2, noise=0.1, seed=1))
    np.testing.assert_array_equal(repeated(DATA, 2).inputs[500:], DATA.inputs)


def test_repeated_points_are_those_of_the_runs_made_before():
    """Run directories hold results on this pool: the random numbers of the seed itself, added to the tiled points."""
    noise = np.random.default_rng(7).standard_normal((2 * 3823, 8, 8, 1), np.float32)
    expected = np.concatenate([DIGITS.inputs, DIGITS.inputs]) + np.float32(0.1) * noise
    np.testing.assert_array_equal(repeated(DIGITS, 2, noise=0.1, seed=7).inputs, expected)


def test_a_pool_without_labels_is_repeated_with_its_files():
    data = repeated(PEOPLE._replace(files=tuple(range(500))), 2)
    assert data.labels is None
    assert data.files == (*range(500), *range(500))


# -- imbalanced --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "rare"), [(0.1, [38, 39, 38, 39, 39]), (0.001, [1, 1, 1, 1, 1]), (1, SIZES[:5])])
def test_minority_classes_keep_the_given_ratio(ratio, rare):
    data = imbalanced(DIGITS, classes=range(5), ratio=ratio)
    assert sizes(data) == [*rare, *SIZES[5:]]
    assert same_test_set(data, DIGITS)
    kept = rows(data)
    assert (np.diff(kept) > 0).all()  # each at most once, in the order they had
    np.testing.assert_array_equal(data.labels, DIGITS.labels[kept])


def test_exact_counts_and_a_class_that_vanishes():
    """EPIG's unbalanced pool has 400 of the digits 0 to 4 and 4,000 of the others; here a tenth less of each."""
    data = imbalanced(DIGITS, counts=[35] * 5 + [350] * 5)
    assert sizes(data) == [35] * 5 + [350] * 5
    data = imbalanced(DIGITS, counts=[0, 10, 20] + [0] * 7)
    assert sizes(data) == [0, 10, 20] + [0] * 7
    assert data.num_classes == 10  # labels still mean what they meant
    assert len(data.inputs) == len(data.labels) == 30


def test_which_points_of_a_class_stay_is_random_and_fixed_by_the_seed():
    half = {"classes": [3], "ratio": 0.5}
    kept = [rows(imbalanced(DIGITS, **half, seed=seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(kept[0], kept[1])
    of_class = [set(k[DIGITS.labels[k] == 3]) for k in kept]
    assert len(of_class[0]) == len(of_class[2]) == 194
    assert 60 < len(of_class[0] & of_class[2]) < 140  # 97 expected, 5 standard deviations of 7


# -- long-tailed -------------------------------------------------------------------------------------------------------


def balanced(num_classes, size):
    labels = np.tile(np.arange(num_classes), size)
    return from_arrays(np.arange(len(labels))[:, None], labels, [[0.0]], [0])


CIFAR10_LT_100 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]  # as every paper on it prints them


def test_the_long_tail_of_cifar10_is_the_published_one():
    assert sizes(long_tailed(balanced(10, 5000), factor=100)) == CIFAR10_LT_100


@pytest.mark.parametrize(
    ("num_classes", "size", "factor", "total"),
    [(10, 5000, 100, 12_406), (10, 5000, 10, 20_431), (100, 500, 100, 10_847), (100, 500, 10, 19_573)],
)
def test_the_long_tails_have_the_published_number_of_images(num_classes, size, factor, total):
    assert len(long_tailed(balanced(num_classes, size), factor=factor).inputs) == total


def test_an_unbalanced_set_gives_the_largest_exact_profile():
    for order in (None, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0], [1, 0, 2, 3, 4, 5, 6, 7, 8, 9]):
        data = long_tailed(DIGITS, factor=50, order=order)
        ranked = np.array(sizes(data))[list(order or range(10))]
        most = ranked[0]
        assert ranked.tolist() == [int(most * 50 ** (-i / 9) + 1e-9) for i in range(10)]
        larger = [int((most + 1) * 50 ** (-i / 9) + 1e-9) for i in range(10)]
        assert (np.array(larger) > SIZES[list(order or range(10))]).any()  # one point more would be too many
        assert same_test_set(data, DIGITS)
        np.testing.assert_array_equal(data.labels, DIGITS.labels[rows(data)])


def test_a_factor_of_one_is_balanced():
    assert sizes(long_tailed(DIGITS, factor=1)) == [376] * 10


def test_the_seed_says_which_points_of_the_tail_stay():
    kept = [set(rows(long_tailed(DIGITS, factor=10, seed=seed))) for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]
    assert len(kept[0]) == len(kept[2])


# -- redundant ---------------------------------------------------------------------------------------------------------


def test_the_task_is_few_classes_against_the_rest_and_only_they_are_tested():
    data = redundant(DIGITS, classes=[7, 1])
    assert sizes(data) == [387, 389, 3823 - 387 - 389]
    np.testing.assert_array_equal(data.inputs, DIGITS.inputs)
    for old, new in ((7, 0), (1, 1), (0, 2), (9, 2)):
        assert set(data.labels[DIGITS.labels == old]) == {new}
    of_task = (DIGITS.test_labels == 1) | (DIGITS.test_labels == 7)
    np.testing.assert_array_equal(data.test_inputs, DIGITS.test_inputs[of_task])
    np.testing.assert_array_equal(data.test_labels, np.where(DIGITS.test_labels[of_task] == 7, 0, 1))
    assert (data.num_classes, data.class_names) == (3, ("7", "1", "rest"))


def test_names_of_the_classes_go_with_the_task():
    named = DATA._replace(class_names=("cat", "dog", "cow"))
    assert redundant(named, classes=[2]).class_names == ("cow", "rest")
    assert redundant(named._replace(class_names=("cat", "dog", "rest")), classes=[2]).class_names is None
    without = redundant(DATA._replace(test_inputs=None, test_labels=None), classes=[2])
    assert (without.test_inputs, without.num_classes) == (None, 2)


# -- noisy labels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0, 0.1, 0.25, 1])
def test_exactly_the_given_share_of_labels_is_wrong(rate):
    data = noisy_labels(DIGITS, rate=rate)
    wrong = data.labels != DIGITS.labels
    assert wrong.sum() == round(rate * 3823)
    assert data.label_noise == wrong.sum() / 3823
    assert data.labels.min() >= 0
    assert data.labels.max() <= 9
    np.testing.assert_array_equal(data.inputs, DIGITS.inputs)
    assert same_test_set(data, DIGITS)


def test_wrong_labels_are_uniform_over_the_other_classes_and_over_the_pool():
    data = noisy_labels(balanced(5, 8000), rate=0.5)
    clean, wrong = balanced(5, 8000).labels, data.labels != balanced(5, 8000).labels
    counts = np.zeros((5, 5), int)
    np.add.at(counts, (clean[wrong], data.labels[wrong]), 1)
    assert (counts.diagonal() == 0).all()
    off = counts[~np.eye(5, dtype=bool)]
    assert abs(off - 1000).max() < 5 * 31  # five standard deviations
    assert abs(wrong[:20_000].sum() - 10_000) < 5 * 71


def test_which_labels_are_wrong_is_fixed_by_the_seed():
    flipped = [np.flatnonzero(noisy_labels(DIGITS, rate=0.1, seed=s).labels != DIGITS.labels) for s in (0, 0, 1)]
    np.testing.assert_array_equal(flipped[0], flipped[1])
    assert len(np.intersect1d(flipped[0], flipped[2])) < 80  # 38 expected


def test_points_of_no_class_are_not_flipped_and_do_not_count():
    data = noisy_labels(contaminated(DIGITS, source="noise", share=0.5), rate=0.1)
    assert (data.labels[3823:] == ABSTAIN).all()
    assert (data.labels[:3823] != DIGITS.labels).sum() == 382
    assert data.label_noise == 382 / 3823
    assert (
        repeated(data, 2).label_noise == data.label_noise == contaminated(data, source="noise", share=0.1).label_noise
    )


@pytest.mark.parametrize("name", ["imbalanced", "long_tailed", "redundant", "noisy_labels"])
def test_points_of_no_class_stay_whatever_is_done_to_the_classes(name):
    foreign = contaminated(DIGITS, source="noise", share=0.2)
    data = build_pool(foreign, name, OPTIONS[name])
    np.testing.assert_array_equal(data.inputs[data.labels == ABSTAIN], foreign.inputs[3823:])
    assert sum(sizes(data)) == sum(sizes(build_pool(DIGITS, name, OPTIONS[name])))


@pytest.mark.parametrize(
    "builder",
    [
        lambda data: noisy_labels(data, rate=0.1),
        lambda data: redundant(data, classes=[0]),
        lambda data: long_tailed(data, factor=2),
        lambda data: imbalanced(data, classes=[0], ratio=0.5),
    ],
)
def test_builders_that_look_at_labels_go_before_the_noise(builder):
    """After them the share of wrong labels would be another one, and nobody could say which."""
    with pytest.raises(
        ValueError, match=r"expected labels without noise, .* 0\.1 of them flipped; noisy_labels goes after"
    ):
        builder(noisy_labels(DATA, rate=0.1))
    builder(DATA)


# -- contaminated ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "count"), [(0, 0), (0.2, 956), (0.5, 3823), (0.9, 34407)])
def test_foreign_points_are_the_given_share_of_the_pool(share, count):
    data = contaminated(DIGITS, source="noise", share=share)
    assert len(data.inputs) == len(data.labels) == 3823 + count
    assert count / (3823 + count) == pytest.approx(share, abs=1e-4)
    np.testing.assert_array_equal(data.inputs[:3823], DIGITS.inputs)
    np.testing.assert_array_equal(data.labels[:3823], DIGITS.labels)
    assert (data.labels[3823:] == ABSTAIN).all()
    assert (data.inputs.dtype, data.labels.dtype, data.num_classes) == (np.float32, np.int32, 10)
    assert same_test_set(data, DIGITS)


def test_noise_is_uniform_over_the_range_of_the_pool():
    noise = contaminated(DATA, source="noise", share=0.9).inputs[500:]
    low, high = DATA.inputs.min(), DATA.inputs.max()
    assert low <= noise.min() < low + 0.01 * (high - low)
    assert high >= noise.max() > high - 0.01 * (high - low)
    assert noise.mean() == pytest.approx((low + high) / 2, abs=0.05)


def test_foreign_points_come_from_the_source_without_repeats():
    source = from_arrays(np.arange(400.0).reshape(100, 4) + 1000)
    for seed in (0, 1):
        foreign = contaminated(DATA, source=source, share=0.125, seed=seed).inputs[500:]
        assert len(foreign) == 71  # 500 / 7
        place = ((foreign[:, 0] - 1000) / 4).astype(int)
        assert len(set(place)) == 71
        np.testing.assert_array_equal(foreign, source.inputs[place])
    with pytest.raises(
        ValueError, match=r"share: expected at most 0\.167 with the 100 points of arrays and a pool of 500"
    ):
        contaminated(DATA, source=source, share=0.17)


def test_images_are_brought_to_the_shape_of_the_pool():
    source = from_arrays(np.ones((50, 28, 28, 3)) * [0.2, 0.4, 0.6])
    data = contaminated(DIGITS, source=source, share=0.01)
    assert data.inputs.shape == (3823 + 39, 8, 8, 1)
    np.testing.assert_allclose(data.inputs[3823:], 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(50, 5), (50, 28, 28), (50, 28, 28, 2)])
def test_points_of_a_shape_that_does_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match=r"source: expected points of shape \(8, 8, 1\), or images .* from arrays"):
        contaminated(DIGITS, source=from_arrays(np.ones(shape)), share=0.01)


def test_files_are_kept_where_both_sides_have_them():
    ours = DATA._replace(files=tuple(f"ours{i}" for i in range(500)))
    theirs = from_arrays(np.arange(400.0).reshape(100, 4), files=[f"theirs{i}" for i in range(100)])
    data = contaminated(ours, source=theirs, share=0.1)
    assert data.files[:500] == ours.files
    for point, file in zip(data.inputs[500:], data.files[500:], strict=True):
        assert file.name == f"theirs{int(point[0]) // 4}"
    assert contaminated(ours, source="noise", share=0.1).files is None


def test_a_set_by_name_or_a_folder_of_images(tmp_path):
    data = contaminated(DATA._replace(inputs=DIGITS.inputs[:500]), source="optdigits", share=0.1)
    place = {point.tobytes() for point in DIGITS.inputs}
    assert all(point.tobytes() in place for point in data.inputs[500:])
    from PIL import Image

    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((20, 20), 51, np.uint8)).save(tmp_path / name)
    data = build_pool(DIGITS, "contaminated", {"source": str(tmp_path), "share": 0.0005})
    assert data.inputs.shape == (3825, 8, 8, 1)
    np.testing.assert_allclose(data.inputs[3823:], 0.2, rtol=1e-5)


@pytest.mark.data
def test_letters_among_digits(data_dir):
    mnist = load("mnist", data_dir=data_dir)
    data = build_pool(mnist, "contaminated", {"source": "notmnist", "share": 0.1}, data_dir=data_dir)
    assert len(data.inputs) == 66_667
    assert (data.labels == ABSTAIN).sum() == 6_667
    assert data.inputs[60_000:].mean() > 2.5 * data.inputs[:60_000].mean()  # letters are bolder


# -- all of them -------------------------------------------------------------------------------------------------------

OPTIONS = {
    "repeated": {"repeats": 2, "noise": 0.1},
    "imbalanced": {"classes": [0, 1], "ratio": 0.5},
    "long_tailed": {"factor": 10},
    "redundant": {"classes": [1]},
    "noisy_labels": {"rate": 0.3},
    "contaminated": {"source": "noise", "share": 0.25},
}


@pytest.mark.parametrize("name", POOLS)
def test_every_builder_is_deterministic_and_changes_nothing_in_place(name):
    before = [None if part is None else part.copy() for part in DIGITS[:4]]
    built = [build_pool(DIGITS, name, OPTIONS[name], seed=seed) for seed in (0, 0, 1)]
    for part, old in zip(DIGITS[:4], before, strict=True):
        np.testing.assert_array_equal(part, old)
    for one, other in zip(built[0][:4], built[1][:4], strict=True):
        np.testing.assert_array_equal(one, other)
    differ = any(not np.array_equal(one, other) for one, other in zip(built[0][:4], built[2][:4], strict=True))
    assert differ == (name != "redundant")
    assert built[0].inputs.dtype == np.float32
    assert built[0].labels.dtype == built[0].test_labels.dtype == np.int32


def test_builders_do_not_share_random_numbers():
    half = imbalanced(balanced(2, 1000), counts=[500, 500])
    flipped = noisy_labels(half, rate=0.5).labels != half.labels
    kept = imbalanced(half, counts=[250, 250])
    taken = np.isin(half.inputs[:, 0], kept.inputs[:, 0])
    assert abs((flipped & taken).sum() - 250) < 5 * 8  # as if by chance


POINTS = st.integers(8, 30).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.integers(0, 3), min_size=n, max_size=n), st.integers(0, 2**31))
)
STEPS = st.lists(st.sampled_from(sorted(OPTIONS)), min_size=1, max_size=4)


@hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
@hypothesis.given(POINTS, STEPS)
def test_whatever_is_built_in_whatever_order(points, steps):
    """Points come from the source with their labels, the test set stays apart, and refusals are in words."""
    count, labels, seed = points
    source = from_arrays(
        np.arange(count * 2.0).reshape(count, 2), labels, [[-5.0, -5.0], [-6.0, -6.0]], [0, 1], num_classes=4
    )
    options = OPTIONS | {"repeated": {"repeats": 2}, "long_tailed": {"factor": 2}}
    data, mapped, noisy = source, np.arange(4), False
    for name in steps:
        try:
            new = build_pool(data, name, options[name], seed=seed)
        except ValueError as error:
            assert str(error).startswith(f"pool {name}: ")  # noqa: PT017 (a refusal leaves the data as it was)
            continue
        data, noisy = new, noisy or name == "noisy_labels"
        if name == "redundant":
            mapped = np.where(mapped == 1, 0, 1)
    ours = np.isin(data.inputs[:, 0], source.inputs[:, 0]) & (data.labels != ABSTAIN)
    assert (data.labels[~ours] == ABSTAIN).all()
    origin = (data.inputs[ours, 0] / 2).astype(int)
    np.testing.assert_array_equal(data.inputs[ours], source.inputs[origin])
    right = data.labels[ours] == mapped[source.labels[origin]]
    if noisy:
        copies = {}
        for place, label in zip(origin, data.labels[ours], strict=True):
            copies.setdefault(place, set()).add(label)
        if steps.index("noisy_labels") < min([len(steps), *(i for i, s in enumerate(steps) if s == "repeated")]):
            assert all(len(labels) == 1 for labels in copies.values())  # copies err alike
        assert (~right).sum() / len(right) == pytest.approx(data.label_noise)
    else:
        assert right.all()
        assert data.label_noise == 0
    assert ((data.labels == ABSTAIN) | ((data.labels >= 0) & (data.labels < data.num_classes))).all()
    assert len(data.inputs) == len(data.labels)
    tests = {point.tobytes() for point in source.test_inputs}
    assert {point.tobytes() for point in data.test_inputs} <= tests
    assert not tests & {point.tobytes() for point in data.inputs}


# -- misuse ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("repeated", {"repeats": 0, "noise": 0.1}, "repeats: expected at least 1, got 0"),
        ("repeated", {"repeats": 2, "noise": -0.1}, "noise: expected a finite"),
        ("imbalanced", {}, "expected either counts, or classes and ratio"),
        ("imbalanced", {"classes": [0]}, "expected either counts, or classes and ratio"),
        ("imbalanced", {"classes": [0], "ratio": 0.1, "counts": [1, 1, 1]}, "expected either counts"),
        ("imbalanced", {"counts": [1, 1]}, "counts: expected 3, one a class, got 2"),
        ("imbalanced", {"counts": [1, 1, 167]}, "counts: expected at most 166 of class 2, got 167"),
        ("imbalanced", {"counts": [1, -1, 1]}, "counts: expected numbers that are not negative"),
        ("imbalanced", {"counts": [0, 0, 0]}, "some above 0"),
        ("imbalanced", {"classes": [0], "ratio": 0}, "ratio: expected a share above 0 and at most 1, got 0"),
        ("imbalanced", {"classes": [0], "ratio": 1.5}, "ratio: expected"),
        ("imbalanced", {"classes": [3], "ratio": 0.5}, r"classes: expected some of 0 \.\. 2, each once, got \[3\]"),
        ("imbalanced", {"classes": [1, 1], "ratio": 0.5}, "classes: expected some of"),
        ("long_tailed", {"factor": 0.5}, "factor: expected a finite number of at least 1, got 0.5"),
        ("long_tailed", {"factor": 1000}, "factor: expected at most 167, the size of the largest class, got 1000"),
        ("long_tailed", {"factor": 10, "order": [0, 1]}, r"order: expected every class 0 \.\. 2 once, got \[0, 1\]"),
        ("redundant", {"classes": [0, 1, 2]}, "classes: expected fewer than all 3"),
        ("redundant", {"classes": [-1]}, "classes: expected some of"),
        ("noisy_labels", {"rate": 1.1}, "rate: expected a share from 0 to 1, got 1.1"),
        ("noisy_labels", {"rate": -0.1}, "rate: expected"),
        ("contaminated", {"source": "noise", "share": 1}, "share: expected at least 0 and below 1, got 1"),
        ("contaminated", {"source": "noise", "share": -0.1}, "share: expected"),
        ("contaminated", {"source": "optdigits", "share": 0.1}, r"source: expected points of shape \(4,\)"),
    ],
)
def test_values_out_of_range_are_named(name, options, words):
    check_pool(name, options)  # each has the right type
    with pytest.raises(ValueError, match=f"^pool {name}: .*{words}|^pool {name}: {words}") as caught:
        build_pool(DATA, name, options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("longtailed", {}, "pool: expected one of repeated, imbalanced, .*contaminated, got 'longtailed'"),
        ("repeated", {"repeat": 2}, "pool repeated: expected options repeats, noise, got 'repeat'"),
        ("repeated", {"repeats": 2, "seed": 3}, "expected options repeats, noise, got 'seed'"),
        ("repeated", {"dataset": 2}, "expected options repeats, noise, got 'dataset'"),
        ("repeated", {"noise": 0.1}, "pool repeated: expected the option repeats, got noise"),
        ("noisy_labels", {}, "pool noisy_labels: expected the option rate, got no options"),
        ("repeated", {"repeats": 2.5}, r"pool repeated: repeats: expected an integer, got 2\.5"),
        ("repeated", {"repeats": True}, "repeats: expected an integer, got True"),
        ("repeated", {"repeats": "4"}, "repeats: expected an integer, got '4'"),
        ("repeated", {"repeats": 2, "noise": "0.1"}, r"noise: expected a finite number, got '0\.1'"),
        ("repeated", {"repeats": 2, "noise": float("nan")}, "noise: expected a finite number, got nan"),
        ("noisy_labels", {"rate": None}, "rate: expected a finite number, got None"),
        ("noisy_labels", {"rate": False}, "rate: expected a finite number, got False"),
        ("redundant", {"classes": 1}, "classes: expected a list of integers, got 1"),
        ("redundant", {"classes": []}, r"classes: expected a list of integers, got \[\]"),
        ("redundant", {"classes": [1, 2.0]}, "classes: expected a list of integers"),
        ("redundant", {"classes": "17"}, "classes: expected a list of integers, got '17'"),
        ("imbalanced", {"counts": [True, 1]}, "counts: expected a list of integers"),
        ("imbalanced", {"classes": [1], "ratio": "x"}, "ratio: expected a finite number, got 'x'"),
        ("long_tailed", {"factor": 10, "order": 5}, "order: expected a list of integers, got 5"),
        ("contaminated", {"source": 5, "share": 0.1}, "source: expected the name of a data set or noise, got 5"),
    ],
)
def test_options_are_checked_before_any_data_is_read(name, options, message):
    for check in (lambda: check_pool(name, options), lambda: build_pool(DATA, name, options)):
        with pytest.raises(ValueError, match=message) as caught:
            check()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", POOLS)
def test_the_options_in_these_tests_are_valid_and_the_table_says_what_each_is_for(name):
    check_pool(name, OPTIONS[name])
    assert POOLS[name].meaning
    assert POOLS[name].source
    assert set(OPTIONS[name]) <= set(POOLS[name].options)
    assert not {"dataset", "seed"} & set(POOLS[name].options)


@pytest.mark.parametrize("name", [name for name in POOLS if name != "repeated"])
def test_pools_without_labels_are_refused_where_labels_are_needed(name):
    with pytest.raises(ValueError, match=f"pool {name}: expected a pool with labels, got one without"):
        build_pool(PEOPLE, name, OPTIONS[name])


def test_a_class_that_is_not_there():
    without = imbalanced(DATA, counts=[10, 0, 10])
    with pytest.raises(ValueError, match="expected points of every class, got none of class 1"):
        long_tailed(without, factor=2)
    assert sizes(imbalanced(without, classes=[1], ratio=0.5)) == [10, 0, 10]
    assert sizes(redundant(without, classes=[1])) == [0, 20]
    assert sizes(noisy_labels(without, rate=1))[1] > 0  # a wrong label may be any class
    untested = DATA._replace(test_inputs=DATA.test_inputs[:1], test_labels=DATA.test_labels[:1])
    with pytest.raises(ValueError, match=r"classes: expected some that the test set has, got \[2\]"):
        redundant(untested, classes=[2])
    one = from_arrays([[0.0], [1.0]], [0, 0], [[0.5]], [0])
    for builder in (lambda: noisy_labels(one, rate=0.5), lambda: long_tailed(one, factor=1)):
        with pytest.raises(ValueError, match="expected at least two classes, got one"):
            builder()


def test_a_source_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("BDAL_DATA_DIR", raising=False)
    with pytest.raises(ValueError, match=r"data set: expected optdigits, .* got 'nowhere'"):
        build_pool(DATA, "contaminated", {"source": "nowhere", "share": 0.1})
    with pytest.raises(DataNotFoundError, match=r"notmnist: .* not found in"):
        build_pool(DATA, "contaminated", {"source": "notmnist", "share": 0.1}, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("repeats", "noise", "message"), [(0, 0.1, "repeats"), (2, -0.1, "noise"), (2, np.nan, "noise")]
)
def test_misuse_is_named(repeats, noise, message):
    with pytest.raises(ValueError, match=f"{message}: expected"):
        repeated(DATA, repeats, noise=noise)


PAGE = Path(__file__).parents[2] / "docs" / "pools.md"


def test_the_page_on_pools_is_right():
    text = PAGE.read_text(encoding="utf-8")
    (config,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for builder in yaml.safe_load(config)["data"]["builders"]:
        check_pool(builder.pop("name"), builder)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), names := {})  # noqa: S102 (the page's own lines)
    assert names["pool"].label_noise == pytest.approx(0.1, abs=1e-3)
    table = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))
    assert {name: set(re.findall(r"`(\w+)`", options)) for name, options in table.items()} == {
        name: set(pool.options) for name, pool in POOLS.items()
    }
