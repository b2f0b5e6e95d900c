"""One's own arrays: what is let in, what is refused and how, and `.npz` files as pure data."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bdal import from_nnx, mc_dropout, models
from bdal.datasets import Dataset, build_pool, fingerprint, from_arrays, load, oracle
from bdal.errors import DataNotFoundError, LabelError, NonFiniteError
from bdal.pool import ABSTAIN


def arrays(**changes):
    """Five points and two test points of shape [2, 3], three classes; any of the four arrays replaced."""
    values = {
        "inputs": np.arange(30, dtype=np.float64).reshape(5, 2, 3),
        "labels": np.array([0, 1, 2, 1, 0]),
        "test_inputs": np.ones((2, 2, 3)),
        "test_labels": np.array([2, 0]),
    }
    return values | changes


def test_arrays_become_float32_and_int32_unchanged_in_value_and_order():
    data = from_arrays(**arrays())
    assert isinstance(data, Dataset)
    assert [v.dtype for v in data[:4]] == [np.float32, np.int32, np.float32, np.int32]
    np.testing.assert_array_equal(data.inputs, np.arange(30).reshape(5, 2, 3))
    np.testing.assert_array_equal(data.labels, [0, 1, 2, 1, 0])
    np.testing.assert_array_equal(data.test_labels, [2, 0])
    assert (data.num_classes, data.name) == (3, "arrays")


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray, lambda v: np.asarray(v).tolist()])
def test_numpy_jax_and_lists_are_alike(convert):
    data = from_arrays(**{key: convert(value) for key, value in arrays().items()}, num_classes=4, name="mine")
    assert all(type(v) is np.ndarray for v in data[:4])
    assert fingerprint(data) == fingerprint(from_arrays(**arrays(), num_classes=4))
    assert (data.num_classes, data.name) == (4, "mine")


def test_the_number_of_classes_counts_labels_of_both_sets():
    with pytest.warns(UserWarning, match=r"labels and test_labels: 4 of the classes 0 \.\. 7 have no point"):
        assert from_arrays(**arrays(test_labels=np.array([7, 0]))).num_classes == 8


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.bool_, np.uint64])
def test_any_integer_type_of_label(dtype):
    data = from_arrays(**arrays(labels=np.array([0, 1, 1, 0, 1], dtype)))
    np.testing.assert_array_equal(data.labels, [0, 1, 1, 0, 1])


WITH_NAN = arrays()["inputs"].copy()
WITH_NAN[[1, 4], 0, 0] = np.nan, np.inf


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"inputs": np.zeros((0, 2, 3)), "labels": np.zeros(0, int)}, ValueError, ["inputs", "(0, 2, 3)"]),
        ({"inputs": np.zeros(5)}, ValueError, ["inputs", "(5,)", "features"]),
        ({"inputs": np.zeros((5, 2, 3), complex)}, ValueError, ["inputs", "complex128"]),
        ({"inputs": np.full((5, 2, 3), "x")}, ValueError, ["inputs", "<U1"]),
        ({"inputs": np.full((5, 2, 3), None)}, ValueError, ["inputs", "object"]),
        ({"inputs": WITH_NAN}, NonFiniteError, ["inputs", "2 of 5", "[1, 4]"]),
        ({"inputs": np.full((5, 2, 3), 1e300)}, NonFiniteError, ["inputs", "float32", "5 of 5"]),
        ({"test_inputs": np.full((2, 2, 3), np.nan)}, NonFiniteError, ["test_inputs", "2 of 2"]),
        ({"test_inputs": np.zeros((2, 3, 2))}, ValueError, ["test_inputs", "(2, 3)", "(3, 2)"]),
        ({"test_inputs": np.zeros((0, 2, 3)), "test_labels": np.zeros(0, int)}, ValueError, ["test_inputs"]),
        ({"labels": np.array([0, 1, 2, 1])}, ValueError, ["labels", "(5,)", "(4,)"]),
        ({"labels": np.eye(5, 3, dtype=int)}, ValueError, ["labels", "(5,)", "(5, 3)", "labels.argmax(1)"]),
        ({"labels": np.array([0.0, 1, 2, 1, 0])}, LabelError, ["labels", "float64", "pass labels.astype(int)"]),
        ({"labels": np.array(["a", "b", "c", "a", "b"])}, LabelError, ["test_labels", "text or numbers as in labels"]),
        ({"labels": np.array([0, 1, 2, 1.5, 0])}, LabelError, ["labels", "integers", "float64"]),
        ({"labels": np.array([0, 1, None, 1, 0])}, LabelError, ["labels", "integers", "object"]),
        ({"labels": np.array([0, 1, -1, 1, -2])}, LabelError, ["labels[2] = -1", "2 of 5"]),
        ({"labels": np.array([0, 1, 2, 3, 0]), "num_classes": 3}, LabelError, ["0 .. 2", "labels[3] = 3"]),
        ({"test_labels": np.array([2, 9]), "num_classes": 3}, LabelError, ["0 .. 2", "test_labels[1] = 9"]),
        ({"labels": np.array([0, 1, 2, 2**63, 0], np.uint64), "num_classes": 3}, LabelError, ["labels[3]"]),
        ({"num_classes": 0}, ValueError, ["num_classes", "positive", "0"]),
        ({"num_classes": 2.5}, TypeError, ["float"]),
        ({"test_labels": None}, ValueError, ["test_labels", "beside test_inputs"]),
        ({"test_inputs": None}, ValueError, ["test_inputs", "beside test_labels"]),
        ({"class_names": ["a", "b"]}, LabelError, ["0 .. 1", "labels[2] = 2"]),
        ({"class_names": ["a", "b", "c"], "num_classes": 4}, ValueError, ["class_names", "4", "3"]),
        ({"class_names": ["a", "b", "a"]}, ValueError, ["class_names", "'a' twice"]),
        ({"class_names": []}, ValueError, ["class_names", "none"]),
        ({"class_names": ["a", "", "c"]}, ValueError, ["class_names", "''"]),
        ({"class_names": ["a", "b\n", "c"]}, ValueError, ["class_names", r"'b\n'"]),
        ({"class_names": "abc"}, ValueError, ["class_names", "list", "'abc'"]),
        ({"class_names": ["a", 1, "c"]}, ValueError, ["class_names", "list of text"]),
        ({"files": ["a.png"]}, ValueError, ["files", "5", "1"]),
        (
            {"labels": np.array([0, 1, ABSTAIN, 1, 0])},
            LabelError,
            ["labels[2] = -1073741824"],
        ),  # or a NaN that was cast
    ],
)
def test_misuse_is_one_line_with_the_argument_and_what_came(changes, error, words):
    with pytest.raises(error) as caught:
        from_arrays(**arrays(**changes))
    assert "\n" not in str(caught.value)
    assert not [word for word in words if word not in str(caught.value)], str(caught.value)


def test_fingerprint_tells_data_apart_and_ignores_the_name():
    data = from_arrays(**arrays())
    swapped = data.labels.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    others = [
        data._replace(labels=swapped),
        data._replace(inputs=data.inputs + np.float32(1)),
        data._replace(inputs=data.inputs.reshape(5, 3, 2)),
        data._replace(inputs=data.inputs.astype(np.float64)),
        data._replace(inputs=data.inputs[:4], labels=data.labels[:4]),
        data._replace(inputs=data.inputs[::-1]),
        data._replace(test_inputs=data.test_inputs * np.float32(2)),
        data._replace(test_labels=data.test_labels[::-1]),
        data._replace(num_classes=4),
    ]
    prints = [fingerprint(other) for other in [data, *others]]
    assert len(set(prints)) == len(prints)
    assert fingerprint(data._replace(name="renamed")) == prints[0]
    assert fingerprint(data._replace(inputs=np.asfortranarray(data.inputs))) == prints[0]


def test_a_pool_without_labels_or_test_set():
    data = from_arrays(arrays()["inputs"], class_names=("a", "b"), files=[f"{i}.png" for i in range(5)])
    assert (data.labels, data.test_inputs, data.test_labels, data.num_classes) == (None, None, None, 2)
    assert [file.name for file in data.files] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert from_arrays(arrays()["inputs"], num_classes=3)[4:7] == (3, "arrays", None)
    assert from_arrays(arrays()["inputs"], test_inputs=np.ones((1, 2, 3)), test_labels=[4]).num_classes == 5
    assert from_arrays(arrays()["inputs"], [0, 1, 2, 1, 0]).num_classes == 3
    with pytest.raises(ValueError, match="labels: expected those of the whole pool"):
        oracle(data.labels)


def test_fingerprint_of_a_pool_without_labels_sees_all_inputs_and_the_names_of_classes_and_files():
    data = from_arrays(np.arange(2_000)[:, None], class_names=["a", "b"])
    others = [
        data,
        data._replace(class_names=("b", "a")),
        data._replace(num_classes=3),
        data._replace(labels=np.zeros(2_000, np.int32)),
        data._replace(test_inputs=np.zeros((1, 1), np.float32), test_labels=np.zeros(1, np.int32)),
    ]
    for row in (0, 1, 1_001, 1_999):
        inputs = data.inputs.copy()
        inputs[row] += 0.5
        others.append(data._replace(inputs=inputs))
    assert len({fingerprint(other) for other in others}) == len(others)
    assert fingerprint(data._replace(name="renamed")) == fingerprint(data)
    shown = [data._replace(files=tuple(Path(top, f"{i}.png") for i in order)) for top, order in (
        ("/there", range(2_000)), ("/here/now", range(2_000)), ("/there", range(1_999, -1, -1))
    )]  # fmt: skip
    assert fingerprint(shown[0]) == fingerprint(shown[1]) != fingerprint(shown[2])  # moved; other pictures
    assert fingerprint(shown[0]) != fingerprint(data)


def test_fingerprint_of_a_labelled_pool_sees_the_names_of_the_classes():
    names = (None, ["a", "b", "c"], ["b", "a", "c"])  # what an answer means
    assert len({fingerprint(from_arrays(**arrays(), class_names=each)) for each in names}) == 3


def test_fingerprint_of_a_large_set_sees_every_label_and_every_input():
    data = from_arrays(np.arange(10_000)[:, None], np.zeros(10_000, int), np.zeros((3_000, 1)), np.ones(3_000, int))
    for row in (1, 2_997, 5_003, 9_999):
        for field in ("labels", "inputs", "test_inputs", "test_labels"):
            changed = getattr(data, field).copy()
            changed[row % len(changed)] += 1
            assert fingerprint(data._replace(**{field: changed})) != fingerprint(data), (row, field)


def test_oracle_answers_in_the_order_asked_and_never_for_the_padding():
    ask = oracle(np.array([5, 6, 7, 8], np.int32))
    np.testing.assert_array_equal(ask(np.array([3, 0, 3])), [8, 5, 8])
    np.testing.assert_array_equal(ask(jnp.array([1])), [6])
    for wrong in (-1, 4):
        with pytest.raises(IndexError, match=rf"0 \.\. 3.*\[{wrong}\]"):
            ask(np.array([0, wrong]))


def test_npz_round_trip_takes_the_name_of_the_file(tmp_path):
    np.savez_compressed(tmp_path / "mine.npz", **arrays(), note=np.array("an extra key is left alone"))
    for path in (tmp_path / "mine.npz", str(tmp_path / "mine.npz")):
        data = load(path)
        assert data.name == "mine"
        assert fingerprint(data) == fingerprint(from_arrays(**arrays()))


def test_npz_that_is_not_there_says_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataNotFoundError, match=r"nowhere\.npz") as caught:
        load("nowhere.npz")
    assert str(tmp_path) in str(caught.value)


def test_npz_without_inputs_names_the_expected_and_the_found(tmp_path):
    np.savez(tmp_path / "mine.npz", x=np.zeros((2, 2)), labels=np.zeros(2, int))
    with pytest.raises(ValueError, match=r"expected the keys inputs \(and perhaps labels, .*\), found x, labels"):
        load(tmp_path / "mine.npz")


def test_npz_whose_labels_go_by_another_name_is_no_pool_without_labels(tmp_path):
    np.savez(tmp_path / "mine.npz", inputs=np.zeros((2, 2)), y=np.zeros(2))
    with pytest.raises(ValueError, match=r"expected no keys but inputs, labels, .* left out, found y"):
        load(tmp_path / "mine.npz")


def test_npz_of_inputs_alone_is_a_pool_for_people(tmp_path):
    np.savez(tmp_path / "mine.npz", inputs=arrays()["inputs"])
    data = load(tmp_path / "mine.npz", class_names=["cat", "dog"])
    assert (data.labels, data.test_inputs, data.test_labels) == (None, None, None)
    assert (data.num_classes, data.class_names, data.name) == (2, ("cat", "dog"), "mine")
    np.testing.assert_array_equal(data.inputs, arrays()["inputs"])
    assert load(tmp_path / "mine.npz").num_classes == 0  # nothing says how many


def test_npz_may_bring_a_test_set_class_names_and_the_files_of_its_points(tmp_path):
    names = [f"images/{number}.png" for number in range(5)]
    (tmp_path / "images").mkdir()
    for name in names:
        (tmp_path / name).touch()
    both = {key: arrays()[key] for key in ("inputs", "test_inputs", "test_labels")}
    np.savez(tmp_path / "mine.npz", **both, class_names=np.array(["a", "b", "c"]), files=np.array(names))
    data = load(tmp_path / "mine.npz")
    assert data.labels is None
    np.testing.assert_array_equal(data.test_labels, [2, 0])
    assert (data.class_names, data.num_classes) == (("a", "b", "c"), 3)
    assert data.files == tuple(tmp_path.resolve() / name for name in names)
    assert load(tmp_path / "mine.npz", class_names=["x", "y", "z"]).class_names == ("x", "y", "z")


@pytest.mark.parametrize("file", ["/etc/hostname", "../outside.png", "a/../../outside.png", "link.png"])
def test_npz_that_points_to_a_file_outside_its_folder_is_refused(tmp_path, file):
    (tmp_path / "outside.png").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    np.savez(folder / "mine.npz", inputs=np.zeros((1, 2)), files=np.array([file]))
    with pytest.raises(ValueError, match=r"files: expected files within .*, found ") as caught:
        load(folder / "mine.npz")
    assert file in str(caught.value)


def test_npz_that_points_to_a_missing_file_or_to_no_text_is_refused(tmp_path):
    np.savez(tmp_path / "mine.npz", inputs=np.zeros((1, 2)), files=np.array(["nowhere.png"]))
    with pytest.raises(DataNotFoundError, match=r"mine\.npz: files: 'nowhere\.png' is not in"):
        load(tmp_path / "mine.npz")
    np.savez(tmp_path / "mine.npz", inputs=np.zeros((1, 2)), class_names=np.array([1, 2]))
    with pytest.raises(ValueError, match="expected class_names to be a list of text, found int64"):
        load(tmp_path / "mine.npz")


def test_npz_with_python_objects_is_refused_and_nothing_in_it_runs(tmp_path):
    marker = tmp_path / "ran"

    class Bomb:
        def __reduce__(self):
            return type(marker).touch, (marker,)

    np.savez(tmp_path / "mine.npz", **arrays(labels=np.array([Bomb()] * 5)))
    with pytest.raises(ValueError, match=r"mine\.npz: labels"):
        load(tmp_path / "mine.npz")
    assert not marker.exists()


def test_npz_that_is_something_else_is_refused(tmp_path):
    path = tmp_path / "mine.npz"
    path.write_bytes(b"not a zip file")
    with pytest.raises(ValueError, match=r"mine\.npz: not an \.npz file"):
        load(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"mine\.npz: not an \.npz file"):
        load(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_damaged_anywhere_is_refused_or_reads_the_same(tmp_path, save):
    """A byte in a zip time stamp may flip unseen; one that matters may not."""
    path = tmp_path / "mine.npz"
    save(path, **arrays())
    whole, expected = path.read_bytes(), fingerprint(load(path))
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"mine\.npz"):
            load(path)
    refused = 0
    for position in range(0, len(whole), 5):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            data = load(path)
        except ValueError:
            refused += 1
        else:
            assert fingerprint(data) == expected
    assert refused > len(whole) // 5 // 2


def test_npz_goes_through_the_same_checks(tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays(labels=np.array([0, 1, -3, 1, 0])))
    with pytest.raises(LabelError, match=r"labels\[2\] = -3"):
        load(tmp_path / "mine.npz")


@pytest.mark.parametrize("shape", [(5, 0), (5, 3, 0), (0, 3)])
def test_points_without_features_are_refused(shape):
    with pytest.raises(ValueError, match=re.escape(f"at least one axis of features, got shape {shape}")):
        from_arrays(np.zeros(shape))


# -- labels as people have them ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "last"), [(1, 10), (3, 8)])
def test_labels_that_do_not_count_from_0_warn_once_and_may_be_relabelled(tmp_path, first, last):
    values = np.arange(first, last + 1)
    every = {"inputs": np.zeros((len(values), 2)), "labels": values, "test_inputs": np.ones((1, 2))}
    every["test_labels"] = values[-1:]
    with pytest.warns(UserWarning, match=rf"{last + 1 - len(values)} of the classes 0 \.\. {last} have no p") as caught:
        assert from_arrays(**every).num_classes == last + 1
    assert len(caught) == 1
    np.savez(tmp_path / "mine.npz", **every)
    for data in (from_arrays(**every, relabel=True), load(tmp_path / "mine.npz", relabel=True)):
        assert data.class_names == tuple(map(str, values))
        assert data.labels.tolist() == list(range(len(values)))
        assert data.test_labels.tolist() == [len(values) - 1]


def test_classes_that_are_named_may_be_absent(recwarn):
    from_arrays([[0.0], [1.0]], [0, 2], num_classes=4)
    from_arrays([[0.0], [1.0]], [0, 2], class_names=["a", "b", "c"])
    from_arrays([[0.0], [1.0]], [0, 2], [[0.0]], [1])
    assert from_arrays([[0.0], [1.0]], [1, 2], class_names=["a", "b"], relabel=True).labels.tolist() == [0, 1]
    assert not recwarn.list


@pytest.mark.parametrize("kind", [str, bytes, object])
def test_labels_that_are_text(tmp_path, kind):
    labels, test_labels = (np.array(words).astype(kind) for words in (["owl", "cat", "owl"], ["dog"]))
    data = from_arrays(np.zeros((3, 1)), labels, np.zeros((1, 1)), test_labels)
    assert (data.class_names, data.labels.tolist(), data.test_labels.tolist()) == (
        ("cat", "dog", "owl"),
        [2, 0, 2],
        [1],
    )
    named = from_arrays(np.zeros((3, 1)), labels, class_names=["owl", "emu", "cat"])
    assert (named.class_names, named.labels.tolist()) == (("owl", "emu", "cat"), [0, 2, 0])
    with pytest.raises(LabelError, match=r"labels: expected one of class_names, owl, got 'cat'"):
        from_arrays(np.zeros((3, 1)), labels, class_names=["owl"])
    np.savez(tmp_path / "text.npz", inputs=np.zeros((3, 1)), labels=labels)
    if kind is object:
        with pytest.raises(ValueError, match=r"labels cannot be read .*; text is saved as labels\.astype\(str\)"):
            load(tmp_path / "text.npz")
    else:
        assert load(tmp_path / "text.npz").class_names == ("cat", "owl")


def test_labels_in_a_column():
    assert from_arrays(np.zeros((3, 1)), [[0], [1], [0]]).labels.tolist() == [0, 1, 0]


def images(dtype=np.uint8, channels=(3,), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (6, 5, 4, *channels)).astype(dtype)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_images_of_bytes_are_divided_by_255_and_that_is_said(channels):
    pixels = images(channels=channels) // 16  # of any range: 0 .. 15
    with pytest.warns(
        UserWarning, match=r"inputs: images of unsigned bytes, \[6, 5, 4.*\], are divided by 255"
    ) as said:
        data = from_arrays(pixels, [0, 1, 0, 1, 0, 1], pixels[:2], [0, 1])
    assert len(said) == 1
    for found, given in ((data.inputs, pixels), (data.test_inputs, pixels[:2])):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, (given / 255).astype(np.float32))


@pytest.mark.parametrize(
    "given", [images().reshape(6, -1), images(np.uint16), images(np.int8), images(np.int64), images(np.float32)]
)
def test_tables_of_bytes_and_images_of_other_types_are_left_as_they_are(given, recwarn):
    np.testing.assert_array_equal(from_arrays(given).inputs, given)
    assert not recwarn.list


def test_pool_and_test_images_of_different_types_are_refused():
    for pool, test in ((images(), images(np.float32) / 255), (images(np.float32), images())):
        with pytest.raises(ValueError, match=r"test_inputs: expected images of dtype .* bring both to one dtype"):
            from_arrays(pool, [0] * 6, test, [0] * 6)


def test_an_npz_with_images_of_bytes(tmp_path):
    np.savez(tmp_path / "own.npz", inputs=images(), labels=[0, 1] * 3)
    with pytest.warns(UserWarning, match="divided by 255"):
        assert 0.9 < load(tmp_path / "own.npz").inputs.max() <= 1


def test_a_memory_map_of_images_stays_bytes_and_the_networks_divide(tmp_path):
    pixels = images(channels=())
    pixels.tofile(tmp_path / "pixels")
    with pytest.warns(UserWarning, match=r"stay a memory map; .* bdal\.pool\.unit"):
        data = from_arrays(np.memmap(tmp_path / "pixels", np.uint8, "r", shape=pixels.shape), [0, 1] * 3)
    assert isinstance(data.inputs, np.memmap)
    with pytest.warns(UserWarning, match="are divided"):
        held = from_arrays(pixels, [0, 1] * 3)
    apply, params = from_nnx(models.MLP(20, 2, dropout=0.2, rngs=nnx.Rngs(0)), batched=False)
    committee = mc_dropout(apply, params, jax.random.split(jax.random.key(0), 3))
    of_map, of_floats = (committee.log_probs(inputs, chunk_size=4) for inputs in (data.inputs, held.inputs))
    np.testing.assert_allclose(of_map, of_floats, atol=1e-5)
    for name, options in (
        ("repeated", {"repeats": 2, "noise": 0.1}),
        ("contaminated", {"source": "noise", "share": 0.5}),
    ):
        np.testing.assert_array_equal(*(build_pool(each, name, options).inputs for each in (data, held)))


@pytest.mark.parametrize("largest", [2**33, np.uint64(2**64 - 1), 20261127])
def test_a_label_that_would_make_very_many_classes_is_refused_before_any_cast(largest):
    labels = np.array([0, 1, largest, 1], np.uint64)
    with pytest.raises(LabelError, match=rf"got {largest}, which makes {int(largest) + 1} classes of 4 labels"):
        from_arrays(np.zeros((4, 2)), labels)
    assert from_arrays(np.zeros((4, 2)), labels, relabel=True).labels.tolist() == [0, 1, 2, 1]
    with pytest.raises(LabelError, match=rf"expected 0 \.\. 2, got labels\[2\] = {largest}"):
        from_arrays(np.zeros((4, 2)), labels, num_classes=3)
    with pytest.raises(ValueError, match="num_classes"):
        from_arrays(np.zeros((4, 2)), labels, num_classes=2**33 + 1)


def test_many_classes_are_fine_where_they_are_named_or_there_are_as_many_labels(recwarn):
    assert from_arrays(np.zeros((3, 2)), [0, 5000, 1], num_classes=5001).num_classes == 5001
    assert from_arrays(np.zeros((3000, 2)), np.arange(3000)).num_classes == 3000
    assert not recwarn.list
