"""Names and options of a config: how they are looked up in a table of factories, and what is said where they fail."""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin


def look_up(table: Mapping[str, Any], name: str, what: str, other_names: Mapping[str, str] | None = None) -> Any:
    """What a table has under a name; a ValueError that shows the names, and the nearest one, where it has nothing.

    >>> look_up({"mlp": 1, "cnn": 2}, "cnn", "model")
    2
    """
    if name in table:
        return table[name]
    asked = str(name).lower().strip().replace("-", "_").replace(" ", "_")
    other = (other_names or {}).get(asked)
    near = [other] if other in table else get_close_matches(asked, table, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"{what}: got {name!r}{hint}, expected one of {', '.join(sorted(table))}")


def options_of(factory: Callable[..., Any], given: tuple[str, ...] = ()) -> dict[str, inspect.Parameter]:
    """The options that a factory has, less those that are always given.

    >>> list(options_of(lambda model, likelihood, *, members, masks=8: None, ("model", "likelihood", "members")))
    ['masks']
    """
    return {name: each for name, each in inspect.signature(factory).parameters.items() if name not in given}


def check_options(
    what: str, factory: Callable[..., Any], options: Mapping[str, Any], given: tuple[str, ...] = ()
) -> None:
    """ValueError for an option that a factory does not have, or that it needs and is not there.

    >>> check_options("model mlp", lambda shape, *, hidden=3: None, {"hidden": 5}, ("shape",))
    """
    known = options_of(factory, given)
    anything = any(each.kind == each.VAR_KEYWORD for each in known.values())
    unknown = [option for option in options if option not in known]
    if unknown and not anything:
        expected = f"options {', '.join(known)}" if known else "no options"
        raise ValueError(f"{what}: expected {expected}, got {unknown[0]!r}")
    for name, each in known.items():
        if (
            each.default is each.empty
            and each.kind in (each.KEYWORD_ONLY, each.POSITIONAL_OR_KEYWORD)
            and name not in options
        ):
            raise ValueError(
                f"{what}: expected the option {name!r}, got {', '.join(map(repr, options)) or 'no options'}"
            )


def check_option(what: str, option: str, value: Any, kind: Any, choices: tuple[str, ...] = ()) -> None:
    """ValueError for a value that an option of this annotation cannot have: a choice, a number, a count."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    optional = NoneType in kinds
    if optional and value is None:
        return
    literals = [choice for each in kinds if get_origin(each) is Literal for choice in get_args(each)]
    if (choices := choices or tuple(literals)) and value not in choices:
        raise ValueError(f"{what}: expected a {option} among {', '.join(map(str, choices))}, got {value!r}")
    if bool in kinds and not isinstance(value, bool):
        raise ValueError(f"{what}: expected true or false for {option}, got {value!r}")
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    if float in kinds and not (number and (value > 0 or not optional)):
        wanted = "positive" if optional else "not negative"
        raise ValueError(f"{what}: expected a {option} that is finite and {wanted}, got {value!r}")
    if int in kinds and float not in kinds and not (number and isinstance(value, int) and value >= 1):
        raise ValueError(f"{what}: expected a {option} of at least 1, an integer, got {value!r}")
