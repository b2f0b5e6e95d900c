import subprocess
import sys
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bdal.report import figures
from bdal.report.figures import curves, drawing
from bdal.store.directory import Row

STRATEGIES = (
    "random",
    "margin",
    "entropy",
    "bald",
    "power_bald-beta-8",
    "bald_diverse",
    "expected_model_change",
    "k_center",
)


def make_rows(seeds=3, posteriors=("mc_dropout", "deep_ensemble")) -> list[Row]:
    rng = np.random.default_rng(1)
    return [
        Row(posterior, strategy, seed, labels, 30, *(labels / 200 + rng.uniform(0, 0.1, 4)).tolist())
        for posterior in posteriors
        for strategy in STRATEGIES
        for seed in range(seeds)
        for labels in (20, 60, 120)
    ]


@pytest.fixture
def drawn(monkeypatch):
    """The figures, in the place of files."""
    found: list[Figure] = []
    monkeypatch.setattr(drawing, "save", lambda figure, path: found.append(figure) or path)
    return found


def test_same_rows_same_bytes_whatever_the_users_style(tmp_path):
    rows = make_rows(posteriors=("mc_dropout",))
    png, pdf = figures.learning_curves(rows, tmp_path / "curves")
    assert (png.name, pdf.name) == ("curves.png", "curves.pdf")
    first = png.read_bytes(), pdf.read_bytes()
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.grid": False}):
        figures.learning_curves(rows[::-1], tmp_path / "curves")
        assert matplotlib.rcParams["font.size"] == 30
    assert (png.read_bytes(), pdf.read_bytes()) == first
    assert b"CreationDate" not in first[1]
    with Image.open(png) as image:
        assert image.size[0] > 700
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_what_is_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(drawing, "save", lambda figure, path: drawn.append(figure) or path)
    rows = [
        row
        for row in make_rows()
        if (row.posterior, row.strategy, row.seed, row.labels) != ("mc_dropout", "bald", 2, 120)
    ]
    figures.learning_curves(rows, tmp_path / "curves")
    figure: Figure = drawn[0]
    assert len(figure.axes) == 6
    top = figure.axes[0]
    assert top.get_title() == "MC dropout, 3 seeds"
    assert figure.axes[-1].get_xlabel() == "training labels (+30 validation)"
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["test accuracy", "test NLL (nats)", "test ECE"]
    lines = {line.get_label(): line for line in top.get_lines()}
    assert lines.keys() == set(STRATEGIES)
    assert lines["random"].get_color() == drawing.GREY
    assert len({(line.get_color(), line.get_marker()) for line in lines.values()}) == len(STRATEGIES)
    assert list(lines["bald"].get_xdata()) == [20, 60]  # one seed has not come to 120
    expected = [
        np.mean([r.accuracy for r in rows if r[:2] == ("mc_dropout", "margin") and r.labels == n])
        for n in (20, 60, 120)
    ]
    assert lines["margin"].get_ydata() == pytest.approx(expected)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert set(names) == set(STRATEGIES)
    means = [np.mean([r.accuracy for r in rows if r[:2] == ("mc_dropout", name)]) for name in names]
    assert means == sorted(means, reverse=True)  # in the order of the curves of the first posterior


def test_one_posterior_has_its_panels_side_by_side(tmp_path, drawn):
    figures.learning_curves(make_rows(posteriors=("mc_dropout",)), tmp_path / "curves")
    (figure, _) = drawn
    assert figure.get_figheight() < 4.5
    assert [axes.get_title() for axes in figure.axes] == ["test accuracy", "test NLL (nats)", "test ECE"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"training labels (+30 validation)"}
    boxes = [axes.get_window_extent() for axes in figure.axes]
    assert boxes[0].x1 < boxes[1].x0 < boxes[1].x1 < boxes[2].x0
    assert min(box.width for box in boxes) > 2.2 * figure.dpi
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "MC dropout, 3 seeds\nmean over seeds;\nshaded: 95 % t interval"
    frame = legend.get_window_extent()
    assert boxes[-1].x1 < frame.x0  # beside them
    assert frame.x1 <= figure.get_figwidth() * figure.dpi
    figures.learning_curves(make_rows(1, ("laplace",)), tmp_path / "curves")
    assert drawn[-1].legends[0].get_title().get_text() == "laplace, 1 seed"


def test_bands_are_those_of_random_and_the_best_two(tmp_path, drawn):
    rows = make_rows()
    figures.learning_curves(rows, tmp_path / "curves", ("png",))
    (figure,) = drawn
    for column, posterior in enumerate(("mc_dropout", "deep_ensemble")):
        means = {s: np.mean([row.accuracy for row in rows if row[:2] == (posterior, s)]) for s in STRATEGIES}
        best = sorted((name for name in means if name != "random"), key=means.get)[-2:]
        panel = figure.axes[column]
        colors = {matplotlib.colors.to_hex(band.get_facecolor()[0]) for band in panel.collections}
        lines = {line.get_label(): line.get_color() for line in panel.get_lines()}
        assert len(panel.collections) == curves.BANDS == 3
        assert colors == {lines[name].lower() for name in ("random", *best)}
    few = [row for row in rows if row.strategy in ("margin", "bald")]
    figures.learning_curves(few, tmp_path / "curves", ("png",))
    assert len(drawn[-1].axes[0].collections) == 2


def test_one_posterior_of_several_keeps_its_colors_and_the_scale_of_all(tmp_path, drawn):
    rows = [row._replace(accuracy=row.accuracy / 2) if row.posterior == "deep_ensemble" else row for row in make_rows()]
    for posterior in ("mc_dropout", "deep_ensemble"):
        figures.learning_curves(rows, tmp_path / "a", ("svg",), metrics=["accuracy"], posterior=posterior)
    (one,), (other,) = (figure.axes for figure in drawn)
    assert one.get_ylim() == other.get_ylim()
    looks = [{line.get_label(): line.get_color() for line in panel.get_lines()} for panel in (one, other)]
    assert looks[0] == looks[1]
    assert not np.array_equal(one.get_lines()[0].get_ydata(), other.get_lines()[0].get_ydata())
    assert drawn[1].legends[0].get_title().get_text().startswith("deep ensemble, 3 seeds")


def test_axes_say_what_was_measured_and_paid_for(tmp_path, drawn):
    rows = [row._replace(abstained=2 * (row.labels > 20)) for row in make_rows()]
    for posteriors in (("mc_dropout",), ("mc_dropout", "deep_ensemble")):
        some = [row for row in rows if row.posterior in posteriors]
        figures.learning_curves(some, tmp_path / "curves", ("png",), on="validation")
        axes = drawn.pop().axes
        names = {panel.get_title() for panel in axes} | {panel.get_ylabel() for panel in axes}
        assert names >= {"validation accuracy", "validation NLL (nats)", "validation ECE"}
        assert axes[-1].get_xlabel() == "labels paid for (+30 validation)"


def test_seeds_of_other_label_counts_are_joined_by_lines(tmp_path, drawn):
    def line(seed, counts, slope):
        return [Row("p", "a", seed, n, 0, slope * n, 1 - slope * n, 0.5, 0.1) for n in counts]

    figures.learning_curves(line(0, (20, 37, 60), 0.010) + line(1, (20, 41, 58), 0.012), tmp_path / "curves")
    (curve,) = drawn[0].axes[0].get_lines()
    assert list(curve.get_xdata()) == [20, 37, 41, 58]
    assert curve.get_ydata() == pytest.approx([0.011 * n for n in (20, 37, 41, 58)])


def test_one_point_is_seen_and_many_do_not_hide_the_lines(tmp_path, drawn):
    rows = [Row("p", name, 0, n, 0, 0.5, 0.5, 0.5, 0.1) for name in ("random", "a", "b") for n in range(20, 520, 10)]
    figures.learning_curves([row for row in rows if row.labels == 20], tmp_path / "curves")
    assert "None" not in {curve.get_marker() for curve in drawn[0].axes[0].get_lines()}
    figures.learning_curves(rows, tmp_path / "curves")
    lines = {curve.get_label(): curve for curve in drawn[-1].axes[0].get_lines()}
    assert lines["random"].get_marker() == "None"
    places = [set(range(50)[slice(start, None, step)]) for start, step in (lines[n].get_markevery() for n in "ab")]
    assert all(9 <= len(place) <= curves.MARKS for place in places)
    assert not places[0] & places[1]
    figures.learning_curves([row for row in rows if row.labels < 120], tmp_path / "curves")
    assert {curve.get_markevery() for curve in drawn[-1].axes[0].get_lines()} == {(0, 1)}


def test_one_seed_one_posterior(tmp_path):
    png, _ = figures.learning_curves(make_rows(1, ("laplace",)), tmp_path / "curves")
    assert png.stat().st_size > 10_000


def test_no_rows(tmp_path):
    with pytest.raises(ValueError, match="expected at least one evaluated round, found none"):
        figures.learning_curves([], tmp_path / "curves")


RELIABILITY = SimpleNamespace(
    confidence=np.array([0.0, 0.3, 0.5, 0.7, 0.9]),
    accuracy=np.array([0.0, 0.2, 0.5, 0.8, 0.8]),
    count=np.array([0, 10, 20, 30, 40]),
)


@pytest.mark.parametrize("name", ["reliability.png", "reliability.pdf"])
def test_reliability_diagram(tmp_path, name):
    figures.reliability_diagram(RELIABILITY, tmp_path / name)
    first = (tmp_path / name).read_bytes()
    figures.reliability_diagram(RELIABILITY, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert len(first) > 3_000


def test_reliability_diagram_on_axes():
    axes = Figure().subplots()
    figures.reliability_diagram(RELIABILITY, axes)
    assert axes.get_title() == "ECE 0.080"  # 0.1 · 0.1 + 0.3 · 0.1 + 0.4 · 0.1
    curve = next(line for line in axes.get_lines() if line.get_label() == "accuracy")
    assert list(curve.get_xdata()) == [0.3, 0.5, 0.7, 0.9]


# -- figures of a report ----------------------------------------------------------------------------------------------


SECONDS = {
    "random": {0: {"fit": 9.0, "evaluate": 1.0, "query": 0.0}, 1: {"fit": 1.0, "evaluate": 0.5, "query": 0.0}},
    "margin": {number: {"fit": 1.0, "evaluate": 0.5, "query": 2.0} for number in range(20)},
}


def bars(panel) -> list[tuple[float, ...]]:
    return [(bar.get_x(), bar.get_y(), bar.get_width(), bar.get_height()) for bar in panel.patches]


def test_seconds_by_round_cut_off_what_compiles(tmp_path, drawn):
    figures.seconds_by_round(SECONDS, tmp_path / "rounds", ("svg",))
    first, second = drawn[0].axes
    assert [panel.get_title() for panel in (first, second)] == ["random", "margin"]
    assert [height for *_, height in bars(first)] == [9, 1, 1, 0.5, 0, 0]
    assert [y for _, y, _, _ in bars(first)] == [0, 0, 9, 1, 10, 1.5]
    assert [text.get_text() for text in first.texts] == ["↑ 10 s"]
    assert not second.texts
    assert first.get_ylim() == second.get_ylim() == pytest.approx((0, 1.12 * 7))  # twice the 90 % quantile of all


def test_class_histograms(tmp_path, drawn):
    shares = {"random": np.array([[0.5, 0.5, 0.0], [0.3, 0.5, 0.2]]), "margin": np.array([[0.0, 0.1, 0.9]])}
    figures.class_histograms(shares, ["a", "b", "c"], np.array([0.2, 0.3, 0.5]), tmp_path / "classes", ("svg",))
    first, second = drawn[0].axes
    assert [height for *_, height in bars(first)] == pytest.approx([40, 50, 10])
    assert [height for *_, height in bars(second)] == pytest.approx([0, 10, 90])
    whiskers, marks = first.collections
    # two seeds: t(0.975, 1) · |a − b| / 2, and no share below 0
    half = 12.7062047 * 10
    assert whiskers.get_segments()[0][:, 1] == pytest.approx([0, 40 + half])
    assert whiskers.get_segments()[1][:, 1] == pytest.approx([50, 50])
    assert [segment[0, 1] for segment in marks.get_segments()] == pytest.approx([20, 30, 50])
    assert len(second.collections) == 1  # one seed has no whiskers
    assert first.get_ylim() == second.get_ylim()
    assert [text.get_text() for text in first.get_xticklabels()] == ["a", "b", "c"]


def test_score_distributions(tmp_path, drawn):
    quantiles = np.array([[0, 0.1, 0.2, 0.4, 0.9], [0, 0.2, 0.3, 0.5, 0.8]])
    scores = {
        "bald": figures.Scores([20, 30], quantiles, [[0.9, 0.7], [0.8]]),
        "badge": figures.Scores([20], None, [[3.0, 2.0]]),
    }
    figures.score_distributions(scores, tmp_path / "scores", ("svg",))
    first, second = drawn[0].axes
    least, most, middle, queried = first.get_lines()
    for line, column in ((least, 0), (most, 4), (middle, 2)):
        assert list(line.get_ydata()) == list(quantiles[:, column])
    assert list(zip(*queried.get_data(), strict=True)) == [(20, 0.9), (20, 0.7), (30, 0.8)]
    band = first.collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in band} == {(20, 0.1), (30, 0.2), (30, 0.5), (20, 0.4)}
    assert [list(line.get_ydata()) for line in second.get_lines()] == [[3.0, 2.0]]
    assert [panel.get_ylabel() for panel in (first, second)] == ["score", "gain"]


def test_contact_sheet_shows_the_pixels(tmp_path, drawn):
    rng = np.random.default_rng(0)
    grey, color = rng.random((8, 8, 1)), rng.random((60, 50, 3))
    figures.contact_sheet([("round 0", [(grey, "3"), (grey, "$5$")]), ("round 1", [])], tmp_path / "a", ("svg",))
    (panel,) = drawn[0].axes
    assert [text.get_text() for text in panel.texts] == ["round 0", "3", "$5$", "round 1"]
    assert not any(text.get_parse_math() for text in panel.texts)
    (image,) = panel.images
    assert image.get_interpolation() == "none"
    pixels = np.asarray(image.get_array())
    assert pixels.shape == (48 + 6, 2 * (48 + 6), 4)  # each pixel six times, a gap of three around
    inside = pixels[3:51, 3:51]
    for row in range(48):
        for column in range(48):
            value = round(255 * grey[row // 6, column // 6, 0])
            assert inside[row, column].tolist() == [value, value, value, 255]
    assert not pixels[:3].any()

    figures.contact_sheet([("round 0", [(color, "cat")])], tmp_path / "b", ("svg",))
    pixels = np.asarray(drawn[1].axes[0].images[0].get_array())
    assert pixels[3:-3, 3:-3, :3] == pytest.approx(255 * color, abs=0.51)


def test_figures_as_svg_are_the_same_every_time(tmp_path):
    rows = make_rows(2, ("mc_dropout",))
    (first,) = figures.learning_curves(rows, tmp_path / "a", ("svg",))
    (second,) = figures.learning_curves(rows, tmp_path / "b", ("svg",))
    assert first.read_bytes() == second.read_bytes()
    assert b"<dc:date>" not in first.read_bytes()


def test_a_dark_page_has_every_color_of_the_figures():
    used = {*figures.COLORS, drawing.GREY, drawing.INK, drawing.EDGE, drawing.GRID, drawing.PALE}
    assert {color.lower() for color in used} == set(figures.DARK)


def test_importing_draws_nothing():
    code = "import sys, bdal.report.figures; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.parametrize(("name", "found"), [("diagram", "none"), ("diagram.tiff2", "tiff2"), ("diagram.", "none")])
def test_a_path_without_a_known_ending(tmp_path, name, found):
    with pytest.raises(ValueError, match=f"target: .*expected an ending among png, pdf, svg, got '{found}'"):
        figures.reliability_diagram(RELIABILITY, tmp_path / name)
    with pytest.raises(TypeError, match=r"target: expected matplotlib axes, or a path that ends in \.png, got None"):
        figures.reliability_diagram(RELIABILITY, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("stem", "kinds", "message"),
    [
        ("curves.png", ("png",), r"path_stem: expected a path without its ending, .* pass kinds=\['png'\]"),
        ("curves", ("gif",), "kinds: expected an ending among png, pdf, svg, got 'gif'"),
        ("curves", ("",), "kinds: expected an ending among png, pdf, svg, got 'none'"),
        ("curves", "png", r"kinds: expected a list of endings, got 'png'; pass \['png'\]"),
    ],
)
def test_endings_that_are_none(tmp_path, stem, kinds, message):
    shares = {"random": np.array([[0.5, 0.5]])}
    with pytest.raises((ValueError, TypeError), match=message):
        figures.class_histograms(shares, ["a", "b"], np.array([0.5, 0.5]), tmp_path / stem, kinds)
    assert not list(tmp_path.iterdir())
