"""`docs/config.md` has every field with its true type and default, and its examples are what it says they are."""

import dataclasses
import inspect
import re
import typing
from pathlib import Path
from types import NoneType

import pytest
import yaml

from bdal import cli, config, contrib
from bdal.models import MODELS
from bdal.names import options_of
from bdal.posteriors import GIVEN, POSTERIORS
from bdal.strategy import STRATEGIES, make_strategy

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "config.md").read_text()
PARTS = dict(zip(*[iter(re.split(r"^##? (.+)\n", PAGE, flags=re.MULTILINE)[1:])] * 2, strict=True))
SECTIONS = {
    "The experiment": config.Experiment,
    "data": config.Data,
    "builders": config.Named,
    "model": config.Named,
    "training": config.Training,
    "labels": config.Labels,
    "query": config.Query,
    "evaluation": config.Evaluation,
    "stopping": config.Stopping,
    "comparisons": config.Comparison,
    "posteriors": config.Named,
    "strategies": config.Named,
}
EXAMPLES = [
    (title, text) for title, part in PARTS.items() for text in re.findall(r"```yaml\n(.*?)```", part, re.DOTALL)
]
LEAST = {"name": "least", "comparisons": [{"posterior": "mc_dropout", "members": 2, "strategies": ["random"]}]}
SCALARS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
ITEMS = {int: "whole numbers", str: "text", config.Comparison: "[comparisons](#comparisons)"}
OF = {"posterior": "posteriors"}  # the section of a field that has not its name


def rows(title):
    """Each field of a section's table: its type, its default and what it means."""
    cells = table(title, "field")
    found = {name.strip("`"): rest for name, *rest in cells}
    assert len(found) == len(cells)
    return found


def table(title, head):
    """The rows of the table in a section whose first column has that head."""
    (found,) = re.findall(rf"^\| {head} \|.*\n\|[-|]+\n((?:\|.*\n)+)", PARTS[title], flags=re.MULTILINE)
    return [re.split(r" \| ", line.strip("| ")) for line in found.splitlines()]


def in_words(kind, name):
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return f"list of {in_words(item, name) if item is config.Named else ITEMS[item]}"
    if kind is config.Named:
        return f"[{name}](#{OF.get(name, name)})"
    if NoneType in typing.get_args(kind):
        (inner,) = [option for option in typing.get_args(kind) if option is not NoneType]
        words = in_words(inner, name)
        return words + (", or null" if " or " in words else " or null")
    return f"[section](#{name})" if dataclasses.is_dataclass(kind) else SCALARS[kind]


@pytest.mark.parametrize("title", SECTIONS)
def test_every_field_has_its_type_and_its_default(title):
    kind = SECTIONS[title]
    hints, listed = typing.get_type_hints(kind), rows(title)
    assert set(listed) == {field.name for field in dataclasses.fields(kind)}
    for field in dataclasses.fields(kind):
        words, default, meaning = listed[field.name]
        assert meaning
        if field.name != "options":
            assert words == in_words(hints[field.name], field.name)
        if field.default_factory is not dataclasses.MISSING:
            assert (default, field.default_factory()) == ("`{}`", {})
        elif field.default is dataclasses.MISSING:
            assert default == "required"
        elif isinstance(field.default, config.Named):
            assert default == f"`{field.default.name}`"
            assert not field.default.options
        elif dataclasses.is_dataclass(field.default):
            assert default == "`{}`"
            assert field.default == type(field.default)()
        else:
            plain = list(field.default) if isinstance(field.default, tuple) else field.default
            said = yaml.safe_load(default.strip("`"))
            assert (said, type(said)) == (plain, type(plain))


def test_no_dataclass_of_a_config_is_missing():
    there = {each for each in vars(config).values() if dataclasses.is_dataclass(each)}
    assert there == set(SECTIONS.values())


@pytest.mark.parametrize(("title", "text"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_its_examples_load(title, text):
    tree = yaml.safe_load(text)
    if title in SECTIONS and title not in ("The experiment", "builders", "posteriors", "strategies"):
        assert set(tree) == {title}
    experiment = config.typed(LEAST | tree, "docs/config.md")
    assert experiment != config.typed(LEAST, "docs/config.md")
    for comparison in experiment.comparisons:
        for strategy in comparison.strategies:
            make_strategy(strategy.name, table=STRATEGIES | contrib.STRATEGIES, **strategy.options)


def test_every_section_has_an_example():
    assert set(SECTIONS) <= {title for title, _ in EXAMPLES}


@pytest.mark.parametrize(("title", "factories"), [("model", MODELS), ("posteriors", POSTERIORS)])
def test_every_option_has_its_default(title, factories):
    listed = {}
    for name, option, default, meaning in table(title, "name"):
        assert meaning
        listed.setdefault(name.strip("`"), {})[option.strip("`")] = yaml.safe_load(default.strip("`"))
    for name, factory in factories.items():
        options = options_of(factory, ("shape", "num_outputs", *GIVEN))
        defaults = {option: each.default for option, each in options.items()}
        assert all(default is not inspect.Parameter.empty for default in defaults.values())
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
        assert listed.get(name, {}) == plain
        assert f"`{name}`" in rows(title)["name"][2]
    assert listed.keys() <= factories.keys()


def test_the_last_committee_predicts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_keep_compiled_programs", lambda: None)
    part = PARTS["The last committee"]
    (text,), (code,) = (re.findall(rf"```{kind}\n(.*?)```", part, re.DOTALL) for kind in ("yaml", "python"))
    Path("kept.yaml").write_text(text)
    (command,) = re.findall(r"`bdal (run kept.yaml)`", part)
    assert cli.main(command.split()) == 0
    capsys.readouterr()
    exec(compile(code, "docs/config.md", "exec"), {})  # noqa: S102 (our own file)
    assert capsys.readouterr().out.strip() == "(5, 10, 10)"
