"""Words and numbers as tables and reports write them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TITLES = {"mc_dropout": "MC dropout", "deep_ensemble": "deep ensemble"}
ONE_FIGURE = 12  # panels
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def both(items: Iterable[str]) -> str:
    """A list in words.

    >>> both(["margin"]), both(["margin", "bald", "random"])
    ('margin', 'margin, bald and random')
    """
    *before, last = [*items] or [""]
    return f"{', '.join(before)} and {last}" if before else last


def span(values: Sequence[float]) -> str:
    """The least and the largest of whole numbers.

    >>> span([3, 5, 4]), span([3, 3])
    ('3 to 5', '3')
    """
    low, high = min(values, default=0), max(values, default=0)
    return f"{low}" if low == high else f"{low} to {high}"


def number(count: int) -> str:
    """A small number in words."""
    return NUMBERS[count] if count < len(NUMBERS) else f"{count:,}"


def several(count: int, one: str, many: str | None = None) -> str:
    """A count and its noun.

    >>> several(1, "class", "classes"), several(3, "seed")
    ('1 class', '3 seeds')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def capital(text: str) -> str:
    """With a capital letter first; the rest stays."""
    return text[:1].upper() + text[1:]


def title(posterior: str) -> str:
    """A posterior as a reader knows it; what stands behind its name stays.

    >>> title("mc_dropout (training.steps 300)")
    'MC dropout (training.steps 300)'
    """
    name, space, rest = posterior.partition(" ")
    return TITLES.get(name, name) + space + rest


def under(posterior: str) -> str:
    """ " under" a posterior; nothing where a file names none.

    >>> under("mc_dropout"), under("")
    (' under MC dropout', '')
    """
    return f" under {title(posterior)}" if posterior else ""


def by_posterior(values: Mapping[tuple[str, str], Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Values of each (posterior, strategy) for figures of small panels: one figure if they are few, or one a posterior.

    Gives, for each figure, an ending for its name, how its caption begins, and the values by their panel's title.
    """
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for (posterior, strategy), value in values.items():
        found[posterior][strategy] = value
    if len(found) > 1 and len(values) <= ONE_FIGURE:
        return [("", "", {f"{name}\n{title(posterior)}": value for (posterior, name), value in values.items()})]
    return [
        (f"_{posterior}" if len(found) > 1 else "", f"{capital(title(posterior))}. " if len(found) > 1 else "", some)
        for posterior, some in found.items()
    ]
