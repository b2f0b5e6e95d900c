"""YAML into frozen dataclasses, strictly.

PyYAML's safe loader reads it, cattrs gives it types, and nothing in it is ever run. Types are strict (a bool is no int,
1.7 is no int), unknown fields are refused, and every error is one line that says where, what was expected and what
came. A command-line override `--section.field value` is one more YAML value, put in its place before the tree is given
types, so that it follows the same rules and ends in the same errors.
"""

import dataclasses
import difflib
import math
import re
import reprlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

import cattrs
import yaml
from cattrs.gen import make_dict_structure_fn

from bdal.errors import ConfigError

T = TypeVar("T")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = _load(text)
        _refuse_repeated_keys(yaml.compose(text, Loader=yaml.SafeLoader), path)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read as a config: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, found byte {error.object[error.start]:#04x}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {_yaml_problem(error)}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of fields such as 'name: ...', found {show(tree)}")
    return tree


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` (YAML 1.1) that refuses numbers which YAML 1.2 reads differently."""


def _plain_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    for pattern, means in (
        (r"[-+]?0[0-7_]+", "in base 8"),
        (r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?", "in base 60"),
    ):
        if re.fullmatch(pattern, node.value):
            problem = f"{node.value} would be a number {means}; write it in base 10, or in quotes if it is text"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)
    kind = node.tag.rpartition(":")[2]
    return loader.construct_yaml_int(node) if kind == "int" else loader.construct_yaml_float(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _plain_number)


def _load(text: str) -> Any:
    return _Loader(text).get_single_data()


def _yaml_problem(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return f"{where}not valid YAML: {' '.join(str(getattr(error, 'problem', None) or error).split())}"


def _refuse_repeated_keys(root: yaml.Node | None, source: Path) -> None:
    """`safe_load` keeps the last of two equal keys without a word."""
    todo, done = [root], set()
    while todo:
        node = todo.pop()
        if id(node) in done:
            continue
        done.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys:
                        raise ConfigError(
                            f"{source}: line {key.start_mark.line + 1}: field {key.value!r} is given twice"
                        )
                    keys.add(key.value)
            todo += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            todo += node.value


def _split(overrides: Sequence[str]) -> list[tuple[str, list[str], str]]:
    """`["--a.b", "1", "--c-d=2"]` -> `[("--a.b", ["a", "b"], "1"), ("--c-d", ["c_d"], "2")]`."""
    words, pairs = list(overrides), []
    while words:
        flag, equals, value = words.pop(0).partition("=")
        if not flag.startswith("--") or flag == "--":
            raise ConfigError(f"command line: expected an override such as --training.steps 300, found {flag!r}")
        if not equals:
            if not words or re.match(r"--[A-Za-z]", words[0]):
                raise ConfigError(f"command line: {flag}: expected a value after it, found none")
            value = words.pop(0)
        path = flag[2:].replace("-", "_").split(".")
        if twice := next((other for other, known, _ in pairs if known == path), None):
            raise ConfigError(f"command line: {flag}: expected once, found {twice} before it; keep one of them")
        pairs.append((flag, path, value))
    return pairs


def override(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The tree with `--section.field value` pairs put in; list items go by their number. Raises `ConfigError`."""
    for flag, path, text in _split(overrides):
        try:
            value = _load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"command line: {flag}: {_yaml_problem(error)}") from error
        here: Any = tree
        for depth, key in enumerate(path):
            last = depth == len(path) - 1
            step: Any = key
            if isinstance(here, dict):
                if not last:
                    here.setdefault(step, {})
            elif isinstance(here, list):
                if not key.isdecimal() or int(key) >= len(here):
                    raise ConfigError(f"command line: {flag}: expected a number below {len(here)}, found {key!r}")
                step = int(key)
            else:
                above = ".".join(path[:depth])
                raise ConfigError(f"command line: {flag}: {above} is {show(here)} and has no field {key!r}")
            if last:
                here[step] = value
            else:
                here = here[step]
    return tree


def typed(
    kind: type[T], tree: dict[str, Any], converter: cattrs.Converter, source: str, overrides: Sequence[str] = ()
) -> T:
    """What a tree of plain dicts, lists and scalars says, as a `kind`; `source` is named in a `ConfigError`."""
    try:
        return converter.structure(tree, kind)
    except (cattrs.BaseValidationError, _Mismatch, ConfigError) as error:
        problems = list(_problems(error, ""))
    path, message = problems[0]
    given = [".".join(keys) for _, keys, _ in _split(overrides)]
    if any(path == place or path.startswith(place + ".") for place in given):
        source = "command line"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise ConfigError(f"{source}: {path + ': ' if path else ''}{message}{more}")


def _problems(error: BaseException, path: str):
    """The path and the one-line message of every leaf in a tree of cattrs errors."""

    def below(name: Any) -> str:
        return f"{path}.{name}" if path else str(name)

    match error:
        case cattrs.IterableValidationError():
            noted, rest = error.group_exceptions()
            for inner, note in noted:
                yield from _problems(inner, below(note.index))
        case cattrs.ClassValidationError():
            noted, rest = error.group_exceptions()
            for inner, note in noted:
                yield from _problems(inner, below(note.name))
        case cattrs.ForbiddenExtraKeysError():
            rest = []
            names = [item.name for item in dataclasses.fields(error.cl)]
            for extra in sorted(error.extra_fields):
                close = difflib.get_close_matches(extra, names, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; the fields are {', '.join(names)}"
                yield below(extra), f"unknown field{hint}"
        case KeyError():
            rest = []
            yield path, "missing; it has no default"
        case ConfigError():  # from the range checks, which name the path themselves
            rest = []
            place, _, message = str(error).partition(": ")
            yield place, message
        case _:
            rest = []
            yield path, str(error)
    for inner in rest:
        yield from _problems(inner, path)


def show(value: Any) -> str:
    """A value as a reader of YAML knows it, on one line and short, however large it is."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case _:
            text = ("a mapping " if isinstance(value, dict) else "") + _brief.repr(value)
            return text if len(text) <= 100 else text[:99] + "…"


_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxstring, _brief.maxother = 3, 60, 60


class _Mismatch(ValueError):
    """A value of the wrong type; where it stands is known further up."""


def _expect(expected: str, found: Any) -> _Mismatch:
    return _Mismatch(f"expected {expected}, found {show(found)}")


def strict_converter() -> cattrs.Converter:
    """A converter of dataclasses, tuples, choices (`Literal`) and scalars that takes each for what it is, or not."""
    converter = cattrs.Converter(forbid_extra_keys=True)

    def optional(kind: Any):
        (inner,) = [option for option in get_args(kind) if option is not NoneType]
        return lambda value, _: None if value is None else converter.structure(value, inner)

    def sequence(kind: Any):
        item = get_args(kind)[0]

        def structure(value: Any, _: Any) -> tuple:
            if not isinstance(value, list | tuple):
                raise _expect("a list", value)
            return tuple(converter.structure(value, list[item]))

        return structure

    def section(kind: type):
        structure = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)

        def checked(value: Any, _: Any) -> Any:
            names = ", ".join(item.name for item in dataclasses.fields(kind))
            if not isinstance(value, dict):
                raise _expect(f"a mapping with fields {names}", value)
            if odd := [key for key in value if not isinstance(key, str)]:
                raise _expect(f"field names from {names}", odd[0])
            return structure(value, kind)

        return checked

    converter.register_structure_hook_factory(lambda kind: type(None) in get_args(kind), optional)
    converter.register_structure_hook_factory(lambda kind: get_origin(kind) is tuple, sequence)
    converter.register_structure_hook_factory(dataclasses.is_dataclass, section)
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is Literal, _choice)
    converter.register_structure_hook_func(lambda kind: get_origin(kind) is dict, _options)
    for kind, hook in ((int, _integer), (float, _number), (str, _text), (bool, _boolean)):
        converter.register_structure_hook(kind, hook)
    return converter


def register_named(converter: cattrs.Converter, kind: Callable[..., Any], expected: str) -> None:
    """Have `kind(name, options)` stand in YAML as a name, or as a mapping of its name and its options.

    Options are numbers, text, true or false, and lists of them. `expected` says this in errors.
    """

    def structure(value: Any, _: Any) -> Any:
        if isinstance(value, str):
            return kind(value)
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise _expect(expected, value)
        options = _options(value, None)
        return kind(options.pop("name"), options)

    def unstructure(named: Any) -> Any:
        return {"name": named.name, **named.options} if named.options else named.name

    converter.register_structure_hook(kind, structure)
    converter.register_unstructure_hook(kind, unstructure)


def _options(value: Any, _: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _expect("a mapping of options", value)
    return {key: _option(key, option) for key, option in value.items()}


def _option(key: Any, value: Any) -> Any:
    many = isinstance(value, list | tuple)
    items = [
        float(item) if isinstance(item, str) and _NUMBER.fullmatch(item) else item
        for item in (value if many else [value])
    ]
    for item in items:
        plain = isinstance(item, bool | int | float | str)
        if not isinstance(key, str) or not plain or (isinstance(item, float) and not math.isfinite(item)):
            raise _expect(f"a finite number, text, true or false for option {key!r}", item)
    return items if many else items[0]


def _integer(value: Any, _: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _expect("a whole number", value)
    return value


def _number(value: Any, _: Any) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _expect("a finite number", value)
    return float(value)


def _text(value: Any, _: Any) -> str:
    if not isinstance(value, str):
        raise _expect("text", value)
    return value


def _boolean(value: Any, _: Any) -> bool:
    if not isinstance(value, bool):
        raise _expect("true or false", value)
    return value


def _choice(value: Any, choices: Any) -> str:
    names = get_args(choices)
    if not isinstance(value, str) or value not in names:
        raise _expect(f"one of {', '.join(names)}", value)
    return value


# PyYAML reads YAML 1.1, where 1e-3 (no dot) is text
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
