import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bdal import config
from bdal.errors import ConfigError
from bdal.report import figures, queried, report, sections
from bdal.report.figures import drawing
from bdal.report.gather import gather
from bdal.store import directory, durable
from tests.synthetic import SMALL, digits, events, make_run

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
BLANK = '<svg width="72pt" height="36pt" viewBox="0 0 72 36" xmlns="http://www.w3.org/2000/svg"></svg>'
TITLES = [
    "NLL and ECE", "Comparison of strategies", "MC dropout", "How to read these tables",
    "What was queried", "Classes", "Scores", "Images", "Answers", "Time", "Warnings", "Configuration",
    "Versions and devices",
]  # fmt: skip


@pytest.fixture
def blank(monkeypatch):
    """Figures are laid out as ever and come out blank, which takes a tenth of the time."""

    def save(figure, path_stem, kinds):
        paths = [Path(f"{path_stem}.{kind}") for kind in kinds]
        for path in paths:
            path.write_text(BLANK)
        return paths

    monkeypatch.setattr(drawing, "save_as", save)


def read(page: Path) -> tuple[str, str]:
    return page.read_text(encoding="utf-8"), page.with_suffix(".md").read_text(encoding="utf-8")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def one_seed() -> config.Experiment:
    return replace(SMALL, seeds=1, comparisons=(replace(SMALL.comparisons[0], strategies=(config.Named("bald"),)),))


def table(text: str, caption: str) -> list[list[str]]:
    """The cells of the Markdown table below a caption that begins so."""
    below = text[text.index(f"**{caption}") :].split("\n\n")[1]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in below.splitlines()]


def section(text: str, title: str) -> str:
    """What stands under a Markdown heading, up to the next one of its level or above."""
    head = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    rest = text[head.end() :]
    after = re.search(rf"^#{{1,{len(head[1])}}} ", rest, re.MULTILINE)
    return rest[: after.start()] if after else rest


# -- a finished run ---------------------------------------------------------------------------------------------------


def test_every_section_is_there_and_the_same_run_gives_the_same_bytes(tmp_path):
    workdir = make_run(tmp_path / "run")
    before = files(workdir)
    page = report([workdir])
    assert page == workdir / "report" / "report.html"
    html, text = read(page)

    assert [title for _, title in re.findall(r'<h([23]) id="[^"]*">(.*?)</h', html)] == TITLES
    assert re.findall(r"^##+ (.*)$", text, re.MULTILINE) == TITLES
    assert re.findall(r'<li[^>]*><a href="#([^"]*)">', html) == re.findall(r'<h[23] id="([^"]*)"', html)
    assert "All 4 runs are finished: budget spent." in html
    for word in (
        "Two query strategies (power_bald-beta-4, random)",
        "3,823 points in the pool, 10 classes",
        "2 paired",
    ):
        assert word in html
    assert "power_bald-beta-4 has the largest area under the accuracy curve" in html
    assert "2 paired seeds are too few to tell any strategy from random" in html
    assert "Every class has a training label" in html or "no label of" in html

    # one file that needs no other, and the same figures beside it
    pictures = re.findall(r"!\[.+?\]\(figures/(.*?)\.png\)", text)
    assert len(pictures) == html.count('<svg role="img"') == 7  # curves, NLL and ECE, classes, scores, 2 sheets, rounds
    assert not re.search(r"<script|<link(?! rel=\"icon\" href=\"data:,\")|@import|src=\"(?!data:)|url\((?!#)", html)
    assert not re.search(r"\son[a-z]+=", html)
    assert len(html) < 3_000_000
    for name in pictures:
        with Image.open(page.parent / "figures" / f"{name}.png") as image:
            assert min(image.size) > 100
        assert (page.parent / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert all(re.findall(r'aria-label="([^"]+)"', html))

    # nothing of the run was touched, and again the same
    first = files(page.parent)
    assert {name: content for name, content in files(workdir).items() if not name.startswith("report/")} == before
    again = report([workdir], tmp_path / "again")
    assert files(again.parent) == first


def test_numbers_are_those_of_the_run(tmp_path, blank, monkeypatch):
    drawn = {}

    def keeping(name):
        real = getattr(figures, name)

        def keep(*data, **options):
            drawn.setdefault(name, []).append(data)
            return real(*data, **options)

        return keep

    for name in ("class_histograms", "seconds_by_round", "score_distributions", "contact_sheet"):
        monkeypatch.setattr(figures, name, keeping(name))
    workdir = make_run(tmp_path / "run")
    _, text = read(report([workdir]))

    shares, classes, pool = drawn["class_histograms"][0]
    assert classes == list("0123456789")
    assert pool == pytest.approx(np.bincount(digits().labels) / len(digits().labels))
    met = set()
    for place, name in enumerate(["random", "power_bald-beta-4"]):
        for seed in (0, 1):
            asked = [e for e in events(SMALL, seed, place) if e["event"] == "labelled"]
            counts = Counter(label for event in asked for label in event["labels"])
            expected = [counts[label] / sum(counts.values()) for label in range(10)]
            assert shares[name][seed] == pytest.approx(expected)
            met |= counts.keys()
    assert met == set(range(10))

    # of two seeds in one program each has half: fit 2 + r, query 1 (none in the last round), evaluate 0.5
    assert drawn["seconds_by_round"][0][0]["random"][0] == {"fit": 11.0, "evaluate": 0.25, "query": 0.5}
    assert table(text, "Seconds a round")[2:] == [
        ["MC dropout", name, "1.75", "0.25", "0.50", "11.75", "32.5"] for name in ("power_bald-beta-4", "random")
    ]

    assert list(drawn["score_distributions"][0][0]) == ["power_bald-beta-4"]
    scores = drawn["score_distributions"][0][0]["power_bald-beta-4"]
    assert scores.labels == [10, 15]
    assert np.asarray(scores.quantiles).shape == (2, 5)
    assert [len(gains) for gains in scores.queried] == [5, 5]

    lines = drawn["contact_sheet"][0][0]
    asked = [e for e in events(SMALL, 0, 1) if e["event"] == "queried"]
    assert [name for name, _ in lines] == ["round 0", "round 1"]
    for (_, tiles), event in zip(lines, asked, strict=True):
        assert [name for _, name in tiles] == [str(digits().labels[index]) for index in event["indices"]]
        np.testing.assert_array_equal(np.stack([image for image, _ in tiles]), digits().inputs[event["indices"]])


def test_one_seed_has_no_intervals(tmp_path, blank):
    html, text = read(report([make_run(tmp_path / "run", one_seed())], load_data=False))
    assert "The run is finished: budget spent." in text
    assert "of one seed: no intervals" in text
    assert "±" not in lead(text)
    assert "nan" not in html.lower().replace("nance", "")
    assert "No contact sheets: the data was not read, as was asked." in text
    assert "no shares in the pool: the data was not read, as was asked" in text


# -- whatever is committed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("torn", [False, True])
def test_every_prefix_of_a_ledger(tmp_path, blank, torn):
    experiment = one_seed()
    whole = make_run(tmp_path / "whole", experiment)
    ledger = whole / "mc_dropout" / "bald" / "seed_0" / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2 + 3 * 2 + 2
    for count in range(len(lines) + (not torn)):
        ledger.write_bytes(b"".join(lines[:count]) + (lines[count][: len(lines[count]) // 2] if torn else b""))
        html, text = read(report([whole], tmp_path / "out", load_data=False))
        rounds = sum(json.loads(line)["event"] == "evaluated" for line in lines[:count])
        if count == len(lines):
            assert "The run is finished: budget spent." in html
        elif count == 0:
            assert "Nothing has been run yet." in html
        else:
            assert f"The run has come to {rounds} of 3 rounds, not finished." in html
            labels = str(5 + 5 * rounds if rounds else 0)
            far = ["MC dropout", "bald", "not finished", "0 of 1", f"{rounds} of 3", labels]
            assert table(text, "How far")[2] == far
        assert ("cut off by a crash" in text) == torn
        assert ("No round has been evaluated yet." in text) == (rounds == 0)
        queries = sum(json.loads(line)["event"] == "queried" for line in lines[:count])
        assert ("Nothing has been queried yet." in text) == (queries == 0)


def test_a_run_of_which_some_seeds_are_behind(tmp_path, blank):
    workdir = make_run(tmp_path / "run")
    behind = workdir / "mc_dropout" / "random" / "seed_1"
    lines = (behind / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (behind / "ledger.jsonl").write_bytes(b"".join(lines[:4]))
    (behind / "metrics.jsonl").unlink()
    shutil.rmtree(workdir / "mc_dropout" / "power_bald-beta-4" / "seed_1")
    _, text = read(report([workdir], load_data=False))
    assert "2 of 4 runs are finished; the others have come to 0 to 1 of 3 rounds, not finished." in text
    assert [line[1:5] for line in table(text, "How far")[2:]] == [
        ["power_bald-beta-4", "1 of 2: budget spent", "1 of 2", "0 to 3 of 3"],
        ["random", "1 of 2: budget spent", "1 of 2", "1 to 3 of 3"],
    ]


def test_a_directory_in_which_nothing_has_run(tmp_path, blank):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(config.dump(SMALL))
    _, text = read(report([tmp_path / "run"], load_data=False))
    assert "Nothing has been run yet." in text
    assert "There is no run.json yet." in text
    assert [line[2] for line in table(text, "How far")[2:]] == ["not started", "not started"]


@pytest.mark.parametrize("name", ["mnist", "repeated_optdigits"])
def test_the_published_results(tmp_path, blank, monkeypatch, name):
    monkeypatch.setenv("BDAL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("BDAL_DATA_DIR", raising=False)
    before = files(RESULTS / name)
    _, text = read(report([RESULTS / name], tmp_path / "out"))
    assert files(RESULTS / name) == before
    runs = len(list((RESULTS / name).glob("*/*/seed_*")))
    assert f"All {runs} runs are finished: budget spent." in text
    assert "does not read its config" not in text
    if name == "mnist":  # nothing is downloaded for a report
        assert "No contact sheets: the files of mnist are not on this machine" in text
    else:
        assert "on optdigits (1,000 points in the pool, changed by repeated (repeats 4, noise 0.1))" in text
        # the subset is drawn by another key since, so these are not the points that were queried
        assert "No contact sheets: the data that lies here is not the data of the run" in text
        assert "![Images that" not in text
        assert (
            "lcmd, batchbald, margin, power_bald, mutual_information_penalty and badge are higher than random" in text
        )


def test_ledgers_and_metrics_without_checksums_are_not_believed(tmp_path, blank):
    workdir = make_run(tmp_path / "run", one_seed())
    for name in ("ledger.jsonl", "metrics.jsonl"):
        path = workdir / "mc_dropout" / "bald" / "seed_0" / name
        sealed = path.read_bytes()
        path.write_text("".join(json.dumps(event) + "\n" for event in durable.read(path)))
        with pytest.raises(directory.CorruptRunError, match=rf"{name}: line 1: its checksum does not fit"):
            report([workdir])
        path.write_bytes(sealed)
    assert report([workdir], load_data=False).exists()


def test_a_config_that_is_not_understood(tmp_path, blank):
    workdir = make_run(tmp_path / "run")
    known = (workdir / "config.yaml").read_text()
    (workdir / "config.yaml").write_text(known + "later: {field: 1}\n")
    _, text = read(report([workdir]))
    assert "this version does not read its config (config.yaml: later: unknown field" in text
    assert "All 4 runs are finished" in text
    assert "later: {field: 1}" in text
    (workdir / "config.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="expected a mapping of fields"):
        report([workdir])


def test_what_is_no_run_directory(tmp_path):
    for path, found in ((tmp_path, "no config.yaml in it"), (tmp_path / "away", "no such directory")):
        with pytest.raises(ConfigError) as error:
            report([path])
        assert str(error.value) == f"{path}: expected a run directory, as `bdal run` writes it, found {found}"
    with pytest.raises(ConfigError, match="at least one run directory, found none"):
        report([])
    workdir = make_run(tmp_path / "run", one_seed())
    with pytest.raises(ConfigError, match="cannot be used for the report"):
        report([workdir], workdir / "config.yaml")


def test_damage_is_no_torn_line(tmp_path):
    workdir = make_run(tmp_path / "run", one_seed())
    ledger = workdir / "mc_dropout" / "bald" / "seed_0" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b'"round": 1', b'"round": 7', 1))
    with pytest.raises(directory.CorruptRunError, match=r"ledger.jsonl: line \d+: "):
        report([workdir])


# -- what the reader must know ----------------------------------------------------------------------------------------


def test_everything_from_the_run_is_escaped(tmp_path, blank):
    evil = '<script>alert("1")</script> [x](javascript:1) `a` | b'
    strategy = config.Named("power_bald", {"note": evil})
    experiment = replace(SMALL, seeds=1, comparisons=(config.Comparison("mc_dropout", 20, (strategy,)),))
    workdir = make_run(tmp_path / "run", experiment)
    identity = json.loads((workdir / "run.json").read_text())
    identity["mismatches"] = [evil]
    identity["facts"]["classes"] = [f"{evil} {number}" for number in range(10)]
    identity["versions"]["jax"] = evil
    (workdir / "run.json").write_text(json.dumps(identity))
    durable.append(
        workdir / "warnings.jsonl", {"where": evil, "category": "UserWarning", "message": f"{evil}\n# {evil}"}
    )
    html, text = read(report([workdir], load_data=False))
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 7
    fenced = re.sub(r"^```+\n.*?^```+$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "<script" not in fenced
    assert not re.search(r"(?<!\\)\]\(javascript", fenced)
    assert "<script" in text  # the config, inside a fence
    assert len({line.count("|") - line.count(r"\|") for line in fenced.splitlines() if line.startswith("| ")}) < 12
    for caption in ("What the run warned of", "Versions and devices"):
        cells = re.findall(rf"\*\*{caption}.*?\n\n(.*?)\n\n", fenced, re.DOTALL)[0].splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in cells}) == 1


def test_abstentions_contradictions_and_classes_without_a_label(tmp_path, blank):
    experiment = one_seed()
    workdir = make_run(tmp_path / "run", experiment, noise=0.125)
    ledger = workdir / "mc_dropout" / "bald" / "seed_0" / "ledger.jsonl"
    told = durable.read(ledger)
    ledger.unlink()
    for event in told:
        if event["event"] in ("initial", "labelled"):
            event["labels"] = [label % 8 for label in event["labels"]]  # nothing is an 8 or a 9
        if event["event"] == "labelled":
            event["labels"][:2] = [None, None]
        durable.append(ledger, event)
        if event.get("round") == 0 and event["event"] == "labelled":
            again = event | {"indices": event["indices"][2:3], "labels": [(event["labels"][2] + 1) % 8]}
            durable.append(ledger, again)
    _, text = read(report([workdir]))
    assert table(text, "Labels of a seed")[2] == ["MC dropout", "bald", "15", "6", "4", "1"]
    assert "12.5 % of the pool's labels were flipped" in text
    (group,) = gather([workdir])
    seen = set(queried._answers(group.runs[0], "initial").values())
    absent = [str(label) for label in range(10) if label not in seen]
    assert absent[-2:] == ["8", "9"]
    listed = re.search(r"MC dropout, bald, seed 0: no label of (\d+) classes, (.*)", text)
    assert listed[1] == str(len(absent))
    assert re.split(r", | and ", listed[2]) == absent
    answers = queried._answers(group.runs[0])
    assert list(answers.values()).count(None) == 4
    assert len(answers) == 10  # the one that was labelled again counts once, by its last answer
    assert answers[again["indices"][0]] == again["labels"][0]


def people(folder: Path, **labels) -> tuple[Path, list[dict]]:
    """A run that people answer, with nothing in it yet, and the ledger that it is to have."""
    labels = replace(SMALL.labels, oracle="people", **labels)
    workdir = make_run(folder, replace(one_seed(), labels=labels))
    ledger = workdir / "mc_dropout" / "bald" / "seed_0" / "ledger.jsonl"
    validation, initial, *told = durable.read(ledger)
    start = {name: validation[name] + initial[name] for name in ("indices", "labels")}
    whose = directory.owner(workdir, "mc_dropout/bald", 0)
    asked = {"event": "queried", **whose, "round": -1, "indices": start["indices"]}
    ledger.unlink()
    (ledger.parent / "metrics.jsonl").unlink()
    return workdir, [asked, {"event": "labelled", "round": -1, **start}, validation, initial, *told]


def tell(workdir: Path, *told: dict) -> str:
    """The report after more events."""
    for event in told:
        durable.append(workdir / "mc_dropout" / "bald" / "seed_0" / "ledger.jsonl", event)
    return read(report([workdir], load_data=False))[1]


def test_answers_of_people_and_their_corrections(tmp_path, blank):
    workdir, (asked, start, validation, initial, evaluated, query, answered, *_) = people(tmp_path / "run")
    text = tell(workdir, asked)
    assert section(text, "Answers").strip() == "There are no labels to train on yet."
    assert "The run waits for 15 labels: bdal label run. 0 of 3 rounds are done." in lead(text)
    indices, labels = start["indices"], start["labels"]
    other = [(label + 1) % 10 for label in labels]

    # before there is a training set: a correction by a person, and a point of two contradicting answers by file
    tell(workdir, {**start, "indices": indices[:2], "labels": [other[0], None]})
    again = {"event": "labelled", "round": -1, "source": {"file": "b.csv"}}
    text = tell(workdir, {**again, "indices": indices[:1], "labels": labels[:1]})
    assert table(text, "Labels of a seed")[2] == ["MC dropout", "bald", "1", "0", "1", "1"]
    assert "There are no labels to train on yet." in text
    text = tell(workdir, {**start, "indices": indices[2:], "labels": labels[2:]}, validation, initial, evaluated, query)
    assert table(text, "Labels of a seed")[2] == ["MC dropout", "bald", "14", "0", "1", "1"]
    assert "There are no labels" not in text
    assert "The run waits for 5 labels: bdal label run. 1 of 3 rounds are done." in lead(text)

    # with the answers to a query a point of the start is corrected: 5 labels by query, not 6
    more = {
        **answered, "indices": [*answered["indices"], initial["indices"][3]],
        "labels": [*answered["labels"], (initial["labels"][3] + 1) % 10],
    }  # fmt: skip
    text = tell(workdir, more)
    assert table(text, "Labels of a seed")[2] == ["MC dropout", "bald", "14", "5", "1", "2"]
    assert "No label was withheld" not in text
    assert "The run has come to 1 of 3 rounds, not finished." in lead(text)
    more = {"event": "labelled", "round": 0, "source": {"file": "c.csv"}, "indices": initial["indices"][3:4]}
    text = tell(workdir, {**more, "labels": [(initial["labels"][3] + 1) % 10]})  # as the last one, and not the first
    assert table(text, "Labels of a seed")[2][5] == "3"


def test_mismatches_later_environments_warnings_and_stop_reasons(tmp_path, blank):
    workdir = make_run(tmp_path / "run")
    identity = json.loads((workdir / "run.json").read_text())
    later = {**identity, "versions": {**identity["versions"], "jax": "9.9.9"}}
    identity |= {"later": [later], "mismatches": ["jax: 0.7.2 != 9.9.9"]}
    (workdir / "run.json").write_text(json.dumps(identity))
    durable.append(workdir / "warnings.jsonl", {"where": "mc_dropout/bald, round 4", "category": "C", "message": "M"})
    ledger = workdir / "mc_dropout" / "random" / "seed_1" / "ledger.jsonl"
    *told, end = durable.read(ledger)
    ledger.unlink()
    for event in [*told, {**end, "reason": "stabilised"}]:
        durable.append(ledger, event)
    _, text = read(report([workdir], load_data=False))
    assert "- jax: 0.7.2 != 9.9.9" in section(text, "Warnings")
    assert table(text, "What the run warned of")[2] == ["mc_dropout/bald, round 4", "C", "M"]
    versions = table(text, "Versions and devices")
    assert versions[0] == ["", "at first", "later"]
    assert ["jax", identity["versions"]["jax"], "9.9.9"] in versions
    assert table(text, "How far")[3][2] == "1 of 2: budget spent; 1 of 2: predictions stabilised"


def test_other_data_under_the_same_name_is_not_shown(tmp_path, blank):
    workdir = make_run(tmp_path / "run", one_seed())
    identity = json.loads((workdir / "run.json").read_text())
    (workdir / "run.json").write_text(json.dumps({**identity, "data": "of another pool"}))
    _, text = read(report([workdir]))
    assert "No contact sheets: the data that lies here is not the data of the run, as its fingerprint differs." in text
    assert "![Images" not in text


def test_data_that_is_no_longer_there(tmp_path, blank):
    experiment = replace(one_seed(), data=config.Data(name=str(tmp_path / "gone.npz")))
    _, text = read(report([make_run(tmp_path / "run", experiment)]))
    assert "No contact sheets: the data cannot be read (" in text
    assert "gone.npz: no such file" in text


def test_data_that_lies_elsewhere_now(tmp_path, blank):
    data, there = digits(), tmp_path / "away" / "digits.npz"
    experiment = replace(one_seed(), data=config.Data(name=str(tmp_path / "digits.npz")))
    workdir = make_run(tmp_path / "run", experiment)
    there.parent.mkdir()
    np.savez(there, **{name: getattr(data, name) for name in ("inputs", "labels", "test_inputs", "test_labels")})
    html, text = read(report([workdir], data_dir=there))
    assert "No contact sheets" not in text
    assert (html, text) == read(report([workdir], data_dir=there))


def test_points_that_are_no_images(tmp_path, blank):
    from bdal import datasets

    data = digits()
    np.savez(
        tmp_path / "flat.npz", inputs=data.inputs.reshape(-1, 64), labels=data.labels,
        test_inputs=data.test_inputs.reshape(-1, 64), test_labels=data.test_labels,
    )  # fmt: skip
    workdir = make_run(tmp_path / "run", replace(one_seed(), data=config.Data(name=str(tmp_path / "flat.npz"))))
    identity = json.loads((workdir / "run.json").read_text())
    identity["data"] = datasets.fingerprint(datasets.load(tmp_path / "flat.npz"))
    (workdir / "run.json").write_text(json.dumps(identity))
    _, text = read(report([workdir]))
    assert "No contact sheets: points of shape (64,) are no images" in text


def test_gains_of_batch_rules_are_not_drawn_against_scores(tmp_path, blank, monkeypatch):
    drawn, real = [], figures.score_distributions
    monkeypatch.setattr(
        figures, "score_distributions", lambda *data, **how: drawn.append(data[0]) or real(*data, **how)
    )
    names = ("bald_diverse", "margin", "power_bald")
    _, text = read(report([make_run(tmp_path / "run", strategies_on(1, "random", *names))], load_data=False))
    assert {name: found.quantiles is None for name, found in drawn[0].items()} == dict(
        zip(names, (True, False, False), strict=True)
    )
    assert "Gains of bald_diverse are on another scale than scores, and stand alone." in text


# -- several directories ----------------------------------------------------------------------------------------------


def points(folder: Path) -> list[Path]:
    """The runs of `SMALL`, a directory for each strategy and seed."""
    made = []
    for strategy in SMALL.comparisons[0].strategies:
        for seed in range(2):
            comparison = replace(SMALL.comparisons[0], strategies=(strategy,))
            point = replace(SMALL, seeds=1, first_seed=seed, comparisons=(comparison,), name=f"{strategy.name}-{seed}")
            made.append(make_run(folder / f"{strategy.name}-{seed}", point))
            whole = folder.parent / "whole" / comparison.method(strategy) / f"seed_{seed}"
            shutil.copytree(whole, made[-1] / comparison.method(strategy) / f"seed_{seed}", dirs_exist_ok=True)
    return made


def test_the_points_of_a_sweep_read_as_one_run(tmp_path, blank):
    whole = make_run(tmp_path / "whole")
    page = report(points(tmp_path / "runs"), tmp_path / "sweep")
    _, text = read(page)
    _, one = read(report([whole]))
    for title in TITLES[:-3]:
        if title != "What was queried":
            assert section(text, title) == section(one, title), title
    assert "4 run directories on the same data, read as one. Two query strategies (power_bald-beta-4, random)" in text
    assert "All 4 runs are finished: budget spent." in text
    held = table(text, "The run directories.")
    assert held[2] == ["random-0", "mc_dropout; random; seed 0", "The run is finished: budget spent."]
    assert len(held) == 6
    assert table(text, "Versions and devices")[0] == ["", "value"]  # the same everywhere
    assert "comparisons.0.strategies.0.name: " in text
    assert text == read(report([*points(tmp_path / "runs"), tmp_path / "runs" / "random-0"], tmp_path / "twice"))[1]


def test_other_settings_are_kept_apart_by_what_differs(tmp_path, blank):
    short = make_run(tmp_path / "short", replace(SMALL, training=config.Training(steps=300)))
    long = make_run(tmp_path / "long", replace(SMALL, training=config.Training(steps=600)))
    _, text = read(report([short, long], load_data=False))
    reached = table(text, "What each strategy reached")[2:]
    assert [line[0] for line in reached] == ["MC dropout (training.steps 300)"] * 2 + [
        "MC dropout (training.steps 600)"
    ] * 2
    assert "All 8 runs are finished" in text
    assert "training.steps: 300 != 600" in text


def change(ledger: Path) -> None:
    """Another accuracy in the first round of a ledger."""
    told = durable.read(ledger)
    ledger.unlink()
    for event in told:
        durable.append(
            ledger, {**event, "accuracy": 0.123} if event.get("round") == 0 and "accuracy" in event else event
        )


def test_the_same_run_in_two_directories_is_one_run(tmp_path, blank):
    runs = [make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")]
    _, text = read(report(runs, load_data=False))
    _, one = read(report(runs[:1], tmp_path / "one", load_data=False))
    assert "All 4 runs are finished" in text
    assert "4 runs lie in more than one directory with the same ledger, to be counted once." in section(
        text, "Progress"
    )
    for title in ("NLL and ECE", "Comparison of strategies", "What was queried", "Time"):
        assert section(text, title) == section(one, title)


def test_another_result_of_the_same_run_is_kept_apart_and_named(tmp_path, blank):
    runs = [make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")]
    change(runs[1] / "mc_dropout" / "random" / "seed_1" / "ledger.jsonl")
    _, text = read(report(runs, load_data=False))
    reached = table(text, "What each strategy reached")[2:]
    assert {line[0] for line in reached} == {"MC dropout in a/run", "MC dropout in b/run"}
    assert (
        "random under MC dropout, seed 1: a/run and b/run have different ledgers, so the directories are kept apart "
        "where they use MC dropout."
    ) in section(text, "Progress")
    assert "in more than one directory" not in text


def test_seeds_that_overlap_do_not_split_a_sweep(tmp_path, blank):
    first = make_run(tmp_path / "first", replace(SMALL, seeds=2))
    second = make_run(tmp_path / "second", replace(SMALL, seeds=2, first_seed=1))
    _, text = read(report([first, second], load_data=False))
    assert "over 3 paired seeds" in text
    assert "All 6 runs are finished" in text
    assert "2 runs lie in more than one directory" in text
    # a seed that is planned in both and has run in one is no clash either, wherever it is
    (second / "mc_dropout" / "random" / "seed_1" / "ledger.jsonl").write_bytes(b"")
    for order in ([first, second], [second, first]):
        (group,) = gather(order)
        assert len(group.runs) == 6
        assert len(group.rows) == len(set(group.rows)) == 6 * 3
        _, text = read(report(order, tmp_path / "out", load_data=False))
        assert "All 6 runs are finished" in text
        assert "1 run lies in more than one directory" in text


def test_other_labels_to_pay_for_are_not_compared(tmp_path, blank):
    more = replace(SMALL, name="more", labels=replace(SMALL.labels, budget=50))
    html, text = read(report([make_run(tmp_path / "a"), make_run(tmp_path / "b", more)], load_data=False))
    assert text.startswith("# small and more\n\n2 experiments on different data or with different labels to pay for")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["small", "more"]
    assert text.count("### NLL and ECE") == text.count("[Learning curves. Test accuracy") == 2
    assert "(figures/1_curves.png)" in text
    assert "(figures/2_curves.png)" in text
    ids = re.findall(r'\sid="([^"]*)"', html)
    assert len(ids) == len(set(ids))


def test_experiments_of_one_name_are_called_by_what_differs(tmp_path, blank):
    more = replace(SMALL, labels=replace(SMALL.labels, budget=50))
    _, text = read(report([make_run(tmp_path / "a"), make_run(tmp_path / "b", more)], load_data=False))
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["small (labels.budget 25)", "small (labels.budget 50)"]
    assert text.startswith("# small\n")


# -- what is concluded ------------------------------------------------------------------------------------------------


def strategies_on(seeds: int, *names: str, first_seed: int = 0, **changes) -> config.Experiment:
    chosen = tuple(config.Named(name) for name in names)
    comparisons = (replace(SMALL.comparisons[0], strategies=chosen),)
    return replace(SMALL, seeds=seeds, first_seed=first_seed, comparisons=comparisons, **changes)


def lead(text: str) -> str:
    return text[: text.index("\n## ")]


def cut(ledger: Path, rounds: int, reason: str | None = None) -> None:
    """A ledger up to its so many first evaluations, and that it ended there."""
    told, kept = durable.read(ledger), []
    for event in told:
        kept.append(event)
        if sum(one["event"] == "evaluated" for one in kept) == rounds:
            break
    ledger.unlink()
    end = [{"event": "finished", "round": rounds - 1, "reason": reason}] if reason else []
    for event in [*kept, *end]:
        durable.append(ledger, event)


def test_the_lead_is_one_family_and_a_pair_has_one_verdict(tmp_path, blank):
    one = strategies_on(6, "random", "margin", "bald").comparisons[0]
    comparisons = (one, config.Comparison("deep_ensemble", 5, one.strategies[:2]))
    html, text = read(report([make_run(tmp_path / "run", replace(SMALL, seeds=6, comparisons=comparisons))]))
    said = [line for line in lead(text).split("\n\n") if "largest area" in line]
    assert said[0].endswith("; the two can be told apart (exploratory, by the table of pairs).")
    assert said[1].endswith("; too few seeds to tell the two apart (7 needed).")
    few = (
        "Under both posteriors: 6 paired seeds are too few to tell any strategy from random"  # 6 do for one comparison
    )
    needs = "needs 7 pairs to reach 5 % after Holm's correction for 3 comparisons under 2 posteriors"
    assert text.count(few) == text.count(needs) == 1
    # a figure a posterior, before the setting
    assert re.findall(r"figures/(curves\w*)\.png", lead(text)) == ["curves_mc_dropout", "curves_deep_ensemble"]
    assert lead(text).index("largest area") < lead(text).index("figures/curves") < lead(text).index("Three query strat")
    (pairs,) = re.findall(r"\*\*(Pairs of strategies.*)\*\*", text)
    assert pairs == (
        "Pairs of strategies other than random. Exploratory, and corrected for the 1 comparison of this table only."
    )
    assert [line[:2] for line in table(text, "Pairs of strategies")[2:]] == [["bald", "margin"]]
    assert "Differences from random, seed by seed, with Holm's correction for 3 comparisons under 2 posteriors." in text
    assert "5\u00a0% after Holm" in html
    assert not re.search(r"\d %", re.sub(r"<svg.*?</svg>|<pre>.*?</pre>", "", html, flags=re.DOTALL).split("<body>")[1])


def test_the_lead_says_that_random_is_missing(tmp_path, blank):
    workdir = make_run(tmp_path / "run", strategies_on(6, "random", "margin", "bald"))
    for seed in range(6):
        cut(workdir / "mc_dropout" / "random" / f"seed_{seed}" / "ledger.jsonl", 1)
    _, text = read(report([workdir], load_data=False))
    assert "No seed of random has finished, so no strategy is compared with it." in lead(text)
    assert "Left out, not finished: 6 runs of random." in lead(text)
    assert "Differences from random" not in text
    # neither does a run vanish that has not begun
    shutil.rmtree(workdir / "mc_dropout" / "random")
    shutil.rmtree(workdir / "mc_dropout" / "bald" / "seed_2")
    _, text = read(report([workdir], load_data=False))
    assert "Left out, not finished: 7 runs of bald and random." in lead(text)


def test_strategies_on_other_seeds_are_not_called_paired(tmp_path, blank):
    margin = make_run(tmp_path / "margin", strategies_on(4, "margin"))
    random = make_run(tmp_path / "random", strategies_on(4, "random", first_seed=4))
    _, text = read(report([margin, random], load_data=False))
    assert "over 8 seeds, none of them paired, that is, with runs of all strategies." in text
    assert "No verdict. Without a seed in common with random, so not compared: margin." in lead(text)
    assert "told apart" not in lead(text)
    for caption in ("Pairs of strategies", "Differences from", "Pairwise penalty", "Seeds that it takes"):
        assert f"**{caption}" not in text
    both = make_run(tmp_path / "both", strategies_on(2, "random", first_seed=3))
    _, text = read(report([margin, random, both], load_data=False))
    assert "over 8 seeds, 1 of them paired, that is, with runs of all strategies." in text


def test_a_run_that_stops_early_is_named_and_one_label_count_bears_no_verdict(tmp_path, blank):
    workdir = make_run(tmp_path / "run", strategies_on(6, "random", "margin"))
    assert "The comparison ends" not in read(report([workdir], load_data=False))[1]
    ledger = workdir / "mc_dropout" / "margin" / "seed_3" / "ledger.jsonl"
    cut(ledger, 2, "no_gain")
    _, text = read(report([workdir], load_data=False))
    assert "from 10 to 15 labels, " in lead(text)
    assert "Over 6 paired seeds, margin is higher than random (exact" in lead(text)
    assert "The comparison ends at 15 of 20 labels, as far as margin (seed 3) has come." in lead(text)
    cut(ledger, 1, "no_gain")
    _, text = read(report([workdir], load_data=False))
    assert "MC dropout: this is the one label count that the runs have in common, so there is no verdict." in lead(text)
    assert "The comparison ends at 10 of 20 labels, as far as margin (seed 3) has come." in lead(text)
    assert "largest area" not in text
    assert "points would be missed" not in text
    for caption in ("Differences from", "Pairwise penalty", "Seeds that it takes", "Pairs of"):
        assert f"**{caption}" not in text


def test_one_number_for_one_thing(tmp_path, blank):
    workdir = make_run(tmp_path / "run", strategies_on(6, "random", "margin", "bald"))
    cut(workdir / "mc_dropout" / "margin" / "seed_3" / "ledger.jsonl", 2, "no_gain")
    cut(workdir / "mc_dropout" / "bald" / "seed_1" / "ledger.jsonl", 1)
    _, text = read(report([workdir], load_data=False))
    reached = {line[1]: line for line in table(text, "What each strategy reached")[2:]}
    assert not any(head.startswith(("area", "vs")) for head in table(text, "What each strategy reached")[0])
    for name, *_, area, _ in table(text, "Area under accuracy from 10 to 15 labels")[2:]:
        assert name in reached
        assert text.count(area) == 1
    ends = re.search(r"!\[Learning curves\. (.*?)\]", text)[1]
    assert re.findall(r"MC dropout (\w+) [\d.]+ % at (\d+)", ends) == [
        ("bald", "10"),
        ("margin", "15"),
        ("random", "20"),
    ]
    # each conclusion is there once
    assert text.count("5 to 6 paired seeds") == 1
    assert text.count("Left out, not finished: 1 run of bald.") == 1
    assert [line[2] for line in table(text, "How far")[2:]] == [
        "5 of 6: budget spent", "5 of 6: budget spent; 1 of 6: no expected gain", "budget spent",
    ]  # fmt: skip


def test_final_figures_stand_beside_the_curves(tmp_path, blank):
    workdir = make_run(tmp_path / "run", strategies_on(6, "random", "margin"))
    _, before = read(report([workdir], load_data=False))
    assert "Final figures" not in before  # one measure: the same numbers, but for the Brier score
    reached = table(before, "What each strategy reached")
    assert reached[0][4:] == ["NLL", "ECE", "Brier score"]
    assert all("±" in line[-1] for line in reached[2:])
    ledger = workdir / "mc_dropout" / "margin" / "seed_3" / "ledger.jsonl"
    told = durable.read(ledger)
    ledger.unlink()
    for event in told:
        if "final" in event:
            event["final"] |= {"members": 50, "points": 9000, "accuracy": 0.123}
        durable.append(ledger, event)
    _, text = read(report([workdir], load_data=False))
    assert "by 20 of 50 members on 1,797 of 9,000 test points" in text
    assert table(text, "Final figures")[2][2:5] == ["6", "20", "20 to 50 on 1797 to 9000"]
    same = [line[:4] for line in table(before, "What each strategy reached")[2:]]
    told = [[cell.removesuffix(" †") for cell in line[:4]] for line in table(text, "What each strategy reached")[2:]]
    assert told == same
    for caption in ("Area under accuracy", "Differences from random", "Labels to a threshold", "Pairwise penalty"):
        assert table(text, caption) == table(before, caption)
    measure = " (by 20 of 50 members on 1,797 of 9,000 test points)"
    assert lead(text).replace(measure, "") == lead(before)
    cut(ledger, 2)
    _, text = read(report([workdir], load_data=False))
    assert table(text, "Final figures")[2][2] == "5"


def test_a_run_of_an_earlier_version_says_that_its_last_point_is_of_another_measure(tmp_path, blank):
    _, text = read(report([RESULTS / "mnist"], tmp_path / "out", load_data=False))
    said = "Curves mix measures, by 20 members on 2,000 test points and by 20 members on 10,000 test points: "
    assert text.count(said) == 1
    assert table(text, "Final figures")[2][3:6] == ["200", "20 on 10000", "94.3 ± 3.3"]
    _, text = read(report([RESULTS / "repeated_optdigits"], tmp_path / "other", load_data=False))
    assert "Curves mix" not in text


def test_what_validation_labels_measure_and_what_abstentions_cost(tmp_path, blank, monkeypatch):
    drawn = []
    real = figures.learning_curves
    monkeypatch.setattr(figures, "learning_curves", lambda *data, **how: drawn.append(how) or real(*data, **how))
    for cost in (1, 0):
        experiment = replace(one_seed(), labels=replace(SMALL.labels, abstain_cost=cost))
        workdir = make_run(tmp_path / str(cost), experiment)
        identity = json.loads((workdir / "run.json").read_text())
        identity["facts"]["test_points"] = 0
        (workdir / "run.json").write_text(json.dumps(identity))
        ledger = workdir / "mc_dropout" / "bald" / "seed_0" / "ledger.jsonl"
        told = durable.read(ledger)
        ledger.unlink()
        for event in told:
            if event["event"] == "evaluated":
                event |= {"on": "validation", "points": 3, "abstained": event["round"]}
            durable.append(ledger, event)
        _, text = read(report([workdir], load_data=False))
        assert drawn.pop()["on"] == "validation"
        few = "3 validation labels (2 of 5 could not be told), as there is no test set"
        assert f"Accuracy on {few}, against labels paid for, of one seed: no intervals." in text
        assert f"Measured on {few}." in text
        assert "what is measured is measured on 3 validation labels (2 of 5 could not be told))" in lead(text)
        assert "Validation accuracy at the end of each line, in labels paid for: " in text
        assert "labels paid for + 5 for validation. Labels paid for are those to train on and the abst" in text
        assert "How far" not in text  # all of them are finished, as the head says
        cut(ledger, 2)
        _, text = read(report([workdir], load_data=False))
        assert table(text, "How far")[2][4:] == ["2 of 3" if cost else "2", "15"]
        assert f"The run has come to {'2 of 3' if cost else '2'} rounds, not finished." in text


def test_without_random_nothing_is_said_of_it(tmp_path, blank):
    _, text = read(report([make_run(tmp_path / "run", strategies_on(2, "bald"))], load_data=False))
    assert "Both runs are finished: budget spent." in text
    assert "vs random" not in text
    notes = section(text, "How to read these tables")
    assert not any(word in notes for word in ("random", "BCa", "Holm", "Penalty", "Visible"))


def test_a_config_that_was_edited_is_not_that_of_the_run(tmp_path, blank):
    workdir = make_run(tmp_path / "run")
    before = section(read(report([workdir], load_data=False))[1], "Configuration")
    path = workdir / "config.yaml"
    path.write_text(config.dump(replace(SMALL, query=config.Query(size=2), labels=replace(SMALL.labels, budget=500))))
    _, text = read(report([workdir], load_data=False))
    said = section(text, "Configuration")
    assert "config.yaml was edited after the run had begun" in said
    assert "- query.size: 5 != 2" in said
    assert "- labels.budget: 25 != 500" in said
    assert said[said.index("config.yaml:\n") :] == before[before.index("config.yaml:\n") :]
    assert "buys 5 a round, and may pay for 25: 20 to train on" in lead(text)
    assert "edited" not in before


def test_letters_that_the_font_lacks_are_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(sections, "KINDS", ("svg",))
    workdir = make_run(tmp_path / "run", one_seed())
    identity = json.loads((workdir / "run.json").read_text())
    identity["facts"]["classes"] = [f"\u732b{number}" for number in range(10)]
    (workdir / "run.json").write_text(json.dumps(identity))
    html, _ = read(report([workdir], load_data=False))
    assert "missing from font" in html[html.index('id="notes-on-the-figures"') :]
    assert "\u732b" in html


def test_a_point_that_has_not_begun_belongs_to_its_sweep(tmp_path, blank):
    done = make_run(tmp_path / "done", replace(SMALL, seeds=1))
    (tmp_path / "next").mkdir()
    (tmp_path / "next" / "config.yaml").write_text(config.dump(replace(SMALL, seeds=1, first_seed=1)))
    _, text = read(report([done, tmp_path / "next"], load_data=False))
    assert "2 run directories on the same data, read as one." in text
    assert "2 of 4 runs are finished; the others have come to 0 of 3 rounds, not finished." in text
