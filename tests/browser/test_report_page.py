"""The report in a browser: it loads from a file with no request and no error, and fits a phone."""

import json
import re
from dataclasses import replace

import pytest

from bdal import config
from bdal.report import report
from tests.synthetic import SMALL, make_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    """The address of a report with every section, long names among them."""
    long = config.Named("expected_model_change", {"temperature": 0.123456789, "another_option": "a_long_value_of_it"})
    strategies = (*SMALL.comparisons[0].strategies, long)
    comparisons = (
        config.Comparison("mc_dropout", 20, strategies),
        config.Comparison("deep_ensemble", 5, strategies[:2]),
    )
    workdir = make_run(tmp_path_factory.mktemp("runs") / "run", replace(SMALL, seeds=3, comparisons=comparisons))
    return report([workdir]).as_uri()


def show(browser, page, width=1200, *, theme="light", media=""):
    options = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", options)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    browser.get(page)


def test_it_loads_without_errors_and_asks_for_nothing(browser, page):
    browser.get_log("performance")
    show(browser, page)
    assert browser.title == "small"
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("data:", "chrome:"))] == [page]  # chrome: its own empty tab
    assert browser.execute_script("return document.scripts.length") == 0


@pytest.mark.parametrize("width", [1200, 400])
def test_figures_are_seen_and_nothing_overflows(browser, page, width):
    show(browser, page, width)
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(svg => { const box = svg.getBoundingClientRect();"
        " return [box.width, box.height, svg.querySelectorAll('path, use, image').length, svg.ariaLabel] })"
    )
    assert len(sizes) == 12  # two of accuracy, two of NLL and ECE, classes, scores, five sheets, rounds
    for wide, high, marks, alt in sizes:
        assert wide > 100
        assert high > 80
        assert marks > 20
        assert len(alt) > 30
    images = browser.execute_script(
        "return [...document.querySelectorAll('svg image')].map(image => image.getBoundingClientRect().width)"
    )
    assert len(images) == 10  # two rounds of each sheet
    assert min(images) > 50
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    wider = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll *') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wider == []


@pytest.fixture(scope="module")
def crowded(tmp_path_factory) -> str:
    """The address of a report on one posterior and ten strategies."""
    names = ("random", "bald", "power_bald", "batchbald", "mutual_information_penalty", "bald_diverse", "badge",
             "margin", "epig", "lcmd")  # fmt: skip
    comparisons = (config.Comparison("mc_dropout", 20, tuple(map(config.Named, names))),)
    workdir = make_run(tmp_path_factory.mktemp("runs") / "run", replace(SMALL, comparisons=comparisons))
    return report([workdir], load_data=False).as_uri()


@pytest.mark.parametrize(("width", "name"), [(1200, "crowded"), (400, "crowded"), (1200, "page"), (400, "page")])
def test_the_legend_of_the_curves_can_be_reached(browser, request, width, name):
    show(browser, request.getfixturevalue(name), width)
    left, right, panel, edge, room = browser.execute_script(
        "const figure = document.querySelector('figure svg'), box = figure.closest('.scroll');"
        "const of = id => figure.querySelector(`[id$=${id}]`).getBoundingClientRect();"
        "const legend = of('legend_1'), panel = of('axes_1');"
        "return [legend.left, legend.right, panel.width, panel.right, box.getBoundingClientRect().right]"
    )
    assert edge - 2 < left < right <= room + 1  # beside the curves, and seen without scrolling
    assert panel > (200 if width > 400 else 120)


@pytest.mark.parametrize("width", [1200, 400])
def test_the_verdict_and_the_curves_are_on_the_first_screen(browser, page, width):
    show(browser, page, width)
    said, verdict, figure = browser.execute_script(
        "const texts = [...document.querySelectorAll('.lead > p')], figure = document.querySelector('.lead svg');"
        "const text = texts.filter(p => p.innerText.startsWith('Under')).pop();"
        "return [text.innerText, text.getBoundingClientRect().bottom, figure.getBoundingClientRect().bottom]"
    )
    assert "paired seeds are too few to tell any strategy from random" in said
    assert verdict < figure < 900


@pytest.mark.parametrize("name", ["crowded", "page"])
def test_the_tables_of_verdicts_and_seeds_need_no_scrolling(browser, request, name):
    show(browser, request.getfixturevalue(name))
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('.table')]"
        ".filter(f => /Paired seeds that|Differences from/.test(f.innerText))"
        ".map(f => [f.querySelector('table').offsetWidth, f.querySelector('.scroll').clientWidth])"
    )
    assert sizes
    assert all(table <= room for table, room in sizes), sizes


def test_contents_lead_to_every_section_and_captions_are_numbered(browser, page):
    show(browser, page)
    titles = browser.execute_script(
        "return [...document.querySelectorAll('nav a')].map("
        "a => document.querySelector(a.getAttribute('href')).innerText)"
    )
    assert titles == browser.execute_script("return [...document.querySelectorAll('h2, h3')].map(h => h.innerText)")
    assert "Comparison of strategies" in titles
    labels = browser.execute_script(
        "return [...document.querySelectorAll('figure > figcaption')].map(c => getComputedStyle(c, '::before').content)"
    )
    assert labels.count('"Figure " counter(figure) ". "') == 6  # accuracy, NLL and ECE, classes, scores, images, rounds
    assert labels.count('"Table " counter(table) ". "') >= 8


def luminance(color: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2.2)."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(
    ("theme", "media", "dark"), [("light", "", False), ("dark", "", True), ("dark", "print", False)]
)
def test_light_dark_and_paper(browser, page, theme, media, dark):
    show(browser, page, theme=theme, media=media)
    colors = browser.execute_script(
        "const of = (e, what) => getComputedStyle(e)[what];"
        "return [of(document.body, 'backgroundColor'), of(document.body, 'color'),"
        " of(document.querySelector('figcaption'), 'color'),"
        " of(document.querySelector('figure svg g[id*=text] g[style*=fill]'), 'fill')]"
    )
    back, *inks = map(luminance, colors)
    assert (back < 0.1) == dark
    for ink in inks:
        assert (max(back, ink) + 0.05) / (min(back, ink) + 0.05) > 4.5
    assert browser.execute_script("return document.querySelector('nav').getBoundingClientRect().height > 0") == (
        media != "print"
    )
