"""A folder of image files as a pool without labels: order, values, colours, and what is refused by name."""

import io
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from bdal.datasets import fingerprint, images, load

GREY = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def refused(folder, file, words, **options):
    with pytest.raises(ValueError, match=r".") as caught:
        load(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(file) in message
    assert words in message


def test_images_are_sorted_by_their_path_and_folders_are_no_labels(tmp_path):
    for number, name in enumerate(["b/2.png", "a/10.png", "a/9.png", "c.png", "B.png", "a.bmp"]):
        save(tmp_path / name, np.full((2, 3), number * 51, np.uint8))
    for name in ("note.txt", ".hidden.png", ".cache/thumb.png", "classes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"not an image")
    data = load(tmp_path)
    names = ["B.png", "a.bmp", "a/10.png", "a/9.png", "b/2.png", "c.png"]
    assert data.files == tuple(tmp_path / name for name in names)
    assert data.inputs.shape == (6, 2, 3, 1)
    np.testing.assert_allclose(data.inputs[:, 0, 0, 0], [0.8, 1.0, 0.2, 0.4, 0.0, 0.6], rtol=1e-6)
    assert (data.labels, data.test_inputs, data.num_classes, data.name) == (None, None, 0, tmp_path.name)
    named = load(str(tmp_path), class_names=["cat", "dog"])
    assert (named.num_classes, named.class_names) == (2, ("cat", "dog"))


def test_the_same_files_made_in_another_order_and_elsewhere_are_the_same_data(tmp_path):
    names = [f"{number}.png" for number in (3, 1, 2)]
    for folder, order in (("one", names), ("other", reversed(names))):
        for name in order:
            save(tmp_path / folder / name, GREY + np.uint8(name[0]))
    one, other = load(tmp_path / "one"), load(tmp_path / "other")
    assert fingerprint(one) == fingerprint(other)
    np.testing.assert_array_equal(one.inputs, load(tmp_path / "one").inputs)
    os.rename(tmp_path / "other" / "1.png", tmp_path / "other" / "4.png")
    assert fingerprint(load(tmp_path / "other")) != fingerprint(one)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".JPEG", ".webp"])
def test_every_format(tmp_path, suffix):
    pixels = np.repeat(np.repeat(GREY, 4, 0), 4, 1)
    lossless = {".webp": {"lossless": True}, ".jpg": {"quality": 95}, ".JPEG": {"quality": 95}}
    save(tmp_path / f"a{suffix}", pixels, **lossless.get(suffix, {}))
    inputs = load(tmp_path).inputs
    np.testing.assert_allclose(inputs[0, ..., 0], pixels / 255, atol=0.03 if "j" in suffix.lower() else 1e-6)
    assert inputs.dtype == np.float32


def test_grey_stays_grey_unless_one_is_in_colour(tmp_path):
    save(tmp_path / "a.png", GREY)
    assert load(tmp_path).inputs.shape == (1, 4, 6, 1)
    colour = np.stack([GREY, GREY // 2, 255 - GREY], -1)
    save(tmp_path / "b.png", colour)
    inputs = load(tmp_path).inputs
    assert inputs.shape == (2, 4, 6, 3)
    np.testing.assert_allclose(inputs[0], np.repeat(GREY[..., None] / 255, 3, -1), rtol=1e-6)
    np.testing.assert_allclose(inputs[1], colour / 255, rtol=1e-6)
    save(tmp_path / "0.png", colour)  # colour first
    np.testing.assert_allclose(load(tmp_path).inputs[[1, 0]], inputs, rtol=1e-6)


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path):
    deep = (np.arange(24, dtype=np.uint16) * 2800).reshape(4, 6)
    save(tmp_path / "a.png", deep)
    np.testing.assert_allclose(load(tmp_path).inputs[0, ..., 0], deep / 65535, rtol=1e-6)


def test_palettes_one_bit_and_opaque_alpha(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load(tmp_path).inputs[0, ..., 0], GREY > 100)
    colour = np.stack([GREY, GREY, 255 - GREY], -1)
    for name, image in {
        "b.png": Image.fromarray(colour).quantize(256),
        "c.png": Image.fromarray(np.concatenate([colour, np.full((4, 6, 1), 255, np.uint8)], -1)),
    }.items():
        image.save(tmp_path / name)
    inputs = load(tmp_path).inputs
    np.testing.assert_allclose(inputs[1], colour / 255, atol=0.01)
    np.testing.assert_allclose(inputs[2], colour / 255, rtol=1e-6)


def test_transparent_pixels_are_refused(tmp_path):
    pixels = np.full((2, 2, 4), 255, np.uint8)
    pixels[0, 0, 3] = 254
    file = save(tmp_path / "a.png", pixels)
    refused(tmp_path, file, "no transparent pixels")
    image = Image.fromarray(GREY)
    image.save(file, transparency=int(GREY[2, 2]))
    refused(tmp_path, file, "no transparent pixels")
    Image.fromarray(GREY.astype(np.uint16)).save(file, transparency=3)
    refused(tmp_path, file, "no transparent pixels")


def test_a_camera_held_upright_is_seen_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° clockwise to see it
    save(tmp_path / "a.png", GREY, exif=exif)
    np.testing.assert_allclose(load(tmp_path).inputs[0, ..., 0], np.rot90(GREY, -1) / 255, rtol=1e-6)


def test_sizes_must_agree_or_are_brought_to_one(tmp_path):
    save(tmp_path / "a.png", np.full((4, 6), 100, np.uint8))
    file = save(tmp_path / "b.png", np.full((8, 6), 200, np.uint8))
    refused(tmp_path, file, "expected 4 x 6 pixels as in a.png, found 8 x 6")
    data = load(tmp_path, size=(2, 3))
    assert data.inputs.shape == (2, 2, 3, 1)
    np.testing.assert_allclose(
        data.inputs, np.broadcast_to([[[[100 / 255]]], [[[200 / 255]]]], (2, 2, 3, 1)), rtol=1e-5
    )
    for size in [(2,), (2, 0), 5, (2.5, 2), (2**14, 2**14), "ab"]:
        with pytest.raises(ValueError, match=r"size: expected .*height"):
            load(tmp_path, size=size)


def test_halving_is_a_weighted_mean_over_what_a_pixel_covers(tmp_path):
    """Bilinear with the support of the coarser grid: inside, four neighbours weigh 1, 3, 3, 1 along each axis."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12), np.uint8)
    save(tmp_path / "a.png", pixels)
    ours = load(tmp_path, size=(6, 6)).inputs[0, 1:5, 1:5, 0]
    weights = np.array([1, 3, 3, 1]) / 8
    windows = np.lib.stride_tricks.sliding_window_view(pixels / 255, (4, 4))[1::2, 1::2]
    np.testing.assert_allclose(ours, np.einsum("ijab,a,b->ij", windows, weights, weights), atol=1e-5)


def test_grey_to_colour_and_back():
    grey = np.random.default_rng(0).random((3, 5, 4, 1), np.float32)
    colour = images.resize(grey, (5, 4, 3))
    np.testing.assert_array_equal(colour, np.repeat(grey, 3, -1))
    np.testing.assert_allclose(images.resize(colour, (5, 4, 1)), grey, rtol=1e-6)
    luma = images.resize(np.eye(3, dtype=np.float32).reshape(3, 1, 1, 3), (1, 1, 1))
    np.testing.assert_allclose(luma[:, 0, 0, 0], [0.299, 0.587, 0.114], rtol=1e-6)
    with pytest.raises(ValueError, match="images: expected 1 or 3 colours, got 2"):
        images.resize(np.ones((1, 2, 2, 2), np.float32), (2, 2, 1))
    different = images.resize(colour * [1, 0.5, 0], (2, 2, 3))  # every colour by itself
    np.testing.assert_allclose(different[..., 1], different[..., 0] / 2, rtol=1e-5)
    assert not different[..., 2].any()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
def test_a_file_cut_short_or_of_other_content_is_named(tmp_path, suffix):
    save(tmp_path / "a.png", GREY)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    file = save(tmp_path / f"b{suffix}", pixels)
    whole = file.read_bytes()
    for content in (b"", b"text", whole[:10], whole[: len(whole) // 2]):
        file.write_bytes(content)
        refused(tmp_path, file, "cannot be decoded as an image")


def test_a_flipped_bit_in_a_png_is_named(tmp_path):
    file = save(tmp_path / "a.png", GREY)
    content = bytearray(file.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 1
    file.write_bytes(content)
    refused(tmp_path, file, "cannot be decoded")


def test_another_format_under_an_accepted_name_is_refused(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(GREY).save(file, format="TIFF")
    refused(tmp_path, file, "cannot be decoded")


@pytest.mark.parametrize("name", ["a.tif", "a.GIF", "x/scan.dcm"])
def test_an_image_in_a_format_that_is_not_read_is_not_lost_in_silence(tmp_path, name):
    save(tmp_path / "a.png", GREY)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"whatever")
    refused(tmp_path, tmp_path / name, "convert it")


def test_a_moving_image_is_refused(tmp_path):
    file = tmp_path / "a.webp"
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (0, 255)]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=100)
    refused(tmp_path, file, "expected a still image, found 2 frames")


def test_a_decompression_bomb_is_refused_by_what_it_says(tmp_path):
    """A PNG of a hundred bytes that promises 10^5 x 10^5 pixels, or a little more than is read."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    file = tmp_path / "a.png"
    for width, height in ((100_000, 100_000), (8193, 8192)):
        header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
        with pytest.raises(ValueError, match=r"a\.png: .*(expected at most 67108864 pixels|decompression bomb)"):
            load(tmp_path)


def test_a_pool_that_would_not_fit_says_what_helps(tmp_path, monkeypatch):
    save(tmp_path / "a.png", np.zeros((32, 32), np.uint8))
    save(tmp_path / "b.png", np.zeros((32, 32, 3), np.uint8))
    monkeypatch.setattr(images, "MAX_BYTES", 4 * 2 * 32 * 32)  # enough for two in grey
    refused(tmp_path, tmp_path, "2 images of 32 x 32 x 3 would take")
    assert load(tmp_path, size=(8, 8)).inputs.shape == (2, 8, 8, 3)


def test_links(tmp_path):
    outside = save(tmp_path / "outside" / "a.png", GREY)
    folder = tmp_path / "folder"
    save(folder / "real" / "a.png", GREY)
    (folder / "b.png").symlink_to(folder / "real" / "a.png")  # within: one more point
    (tmp_path / "way_in").symlink_to(folder)
    assert len(load(folder).inputs) == len(load(tmp_path / "way_in").inputs) == 2
    for link, target, words in (
        ("c.png", outside, "no links out of the folder"),
        ("c.png", "../outside/a.png", "no links out of the folder"),
        ("c.png", "nowhere.png", "no links out of the folder"),
        ("c", outside.parent, "no links to folders"),
        ("c", folder, "no links to folders"),
    ):
        (folder / link).symlink_to(target)
        refused(folder, folder / link, words)
        (folder / link).unlink()


def test_what_is_no_file_and_a_folder_without_images(tmp_path):
    (tmp_path / "note.txt").write_text("nothing here")
    refused(tmp_path, tmp_path, "expected image files (.png, .jpg, .jpeg, .bmp, .webp), found none")
    os.mkfifo(tmp_path / "a.png")
    refused(tmp_path, tmp_path / "a.png", "found something else")


def test_a_file_that_may_not_be_read_or_vanishes_is_named(tmp_path, monkeypatch):
    file = save(tmp_path / "a.png", GREY)
    original = images._files
    monkeypatch.setattr(images, "_files", lambda folder: (original(folder), shutil.rmtree(tmp_path))[0])
    refused(tmp_path, file, "cannot be decoded")


def test_damage_anywhere_ends_in_an_error_that_names_the_file_or_in_an_image(tmp_path):
    rng = np.random.default_rng(0)
    file = tmp_path / "a.png"
    for suffix in ("PNG", "JPEG", "BMP", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(GREY).save(buffer, suffix)
        for _ in range(60):
            content = bytearray(buffer.getvalue())
            for place in rng.integers(0, len(content), 3):
                content[place] = rng.integers(256)
            file.write_bytes(content)
            try:
                inputs = load(tmp_path).inputs
            except ValueError as error:
                assert str(tmp_path) in str(error)  # noqa: PT017 (which of the two happens is the point)
            else:
                assert ((inputs >= 0) & (inputs <= 1)).all()


# -- folders of classes -----------------------------------------------------------------------------------------------


def folder_of(tmp_path, *names):
    for number, name in enumerate(names):
        save(tmp_path / name, np.full((2, 3), number * 10, np.uint8))
    return tmp_path


def test_folders_are_classes(tmp_path):
    folder = folder_of(tmp_path, "dog/2.png", "cat/x/1.png", "cat/1.png", "emu/1.png")
    data = load(folder, labels="folders")
    assert (data.class_names, data.labels.tolist(), data.test_inputs) == (("cat", "dog", "emu"), [0, 0, 1, 2], None)
    assert [round(float(255 * image.max())) for image in data.inputs] == [20, 10, 0, 30]
    assert load(folder, labels="folders", class_names=["emu", "dog", "cat", "owl"]).labels.tolist() == [2, 2, 1, 0]
    refused(folder, folder, "found emu", labels="folders", class_names=["dog", "cat"])
    assert load(folder).labels is None


def test_people_do_not_see_the_class_in_the_name(tmp_path):
    data = load(folder_of(tmp_path, "cat/cat1.png", "dog/dog1.png"), labels="folders")
    assert data.file_names == ["pool point 0", "pool point 1"]
    assert [file.name for file in data.files] == ["cat1.png", "dog1.png"]


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "val"), ("train", "validation")])
def test_the_splits_of_a_folder_of_classes(tmp_path, names):
    train, test = names
    data = load(folder_of(tmp_path, f"{train}/b/1.png", f"{train}/a/1.png", f"{test}/b/1.png"), labels="folders")
    assert (data.class_names, data.labels.tolist(), data.test_labels.tolist()) == (("a", "b"), [0, 1], [1])
    assert len(data.files) == len(data.inputs) == 2
    assert round(float(255 * data.test_inputs.max())) == 20


def test_images_for_validation_beside_a_test_set_are_left_out_with_a_warning(tmp_path):
    folder = folder_of(tmp_path, "train/b/1.png", "train/a/1.png", "val/b/1.png", "val/a/1.png", "test/a/1.png")
    with pytest.warns(UserWarning, match="its 2 images for validation are left out"):
        data = load(folder, labels="folders")
    assert (len(data.inputs), data.test_labels.tolist()) == (2, [0])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cat/1.png", "dog/1.png", "2.png"], "expected images in a folder of their class"),
        (["cat/1.png", "cat/2.png"], "expected folders of at least two classes, found cat"),
        (["train/cat/1.png", "train/dog/1.png", "owl/1.png"], "found owl beside them"),
        (["train/cat/1.png", "train/dog/1.png", "train/1.png"], "expected images in a folder of their class"),
    ],
)
def test_what_is_no_folder_of_classes(tmp_path, names, words):
    refused(folder_of(tmp_path, *names), tmp_path, words, labels="folders")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.npy", 'numpy.savez("data.npz", inputs=numpy.load("a.npy")'),
        ("a.csv", 'pandas.read_csv("a.csv")'),
        ("a.h5", 'h5py.File("a.h5")'),
        ("a.HDF5", 'h5py.File("a.HDF5")'),
        ("a.mat", 'scipy.io.loadmat("a.mat")'),
        ("a.xyz", "numpy.savez"),
        ("a", "files without suffix is not read"),
    ],
)
def test_a_file_of_another_format_says_what_is_read_and_how_to_convert_it(tmp_path, monkeypatch, name, words):
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path / name, name, words)
    monkeypatch.chdir(tmp_path)
    refused(name, name, "expected an .npz file with inputs [N, ...]")


def test_folders_are_labels_of_folders_only(tmp_path):
    refused("optdigits", "optdigits", "expected folders, for a folder of images only", labels="folders")
    refused(folder_of(tmp_path, "a/1.png"), "labels", "got 'files'", labels="files")
