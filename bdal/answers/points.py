"""The pool point of a row of answers: by its number, or by a unique ending of its file's path."""

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from bdal.answers.formats import POINT, pool_index, short
from bdal.errors import LabelError


def title(index: int, names: Sequence[Any] | None) -> str:
    """The display name of a pool point: one line that every file encoding can hold."""
    text = f"pool point {index}" if names is None else str(names[index]).encode("utf-8", "backslashreplace").decode()
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in text)


_IMAGE = re.compile(r"(?:^|/)images/(\d+)\.[a-z]+$")  # as `write_query` calls them


class Points:
    """The points of a pool by number and by name."""

    def __init__(self, names: Sequence[Any] | None):
        self._names = names

    def find(self, fields: dict[str, Any], where: str) -> int:
        """The pool index that a row or task names.

        Raises:
          LabelError: it names none, or several, or its columns name different ones.
        """
        given = {key: str(fields[key]).strip() for key in POINT[1:] if isinstance(fields.get(key), str)}
        given = {key: text for key, text in given.items() if text and not text.startswith("data:")}
        number = fields.get("pool_index")
        if number not in (None, "") or ("pool_index" in fields and not given):
            index = pool_index(number, where)
            self._check(index, given, where)
            return index
        if not given:
            raise LabelError(
                f"{where}: expected a pool_index, or the {', '.join(POINT[1:4])} of a point, found "
                f"{short(sorted(fields))}"
            )
        key, text = next(iter(given.items()))
        for key, text in given.items():
            if len(found := self._matches(key, text)) == 1:
                self._check(found[0], given, where)
                return found[0]
        found = self._matches(key, text)
        if found:
            which = ", ".join(f"{index}: {title(index, self._names)}" for index in found[:3])
            raise LabelError(
                f"{where}: {key}: expected a name that one pool point has, found {short(text)} of {len(found)} "
                f"({which}); write it with its folder, or the pool_index"
            )
        if self._names is None:
            raise LabelError(
                f"{where}: {key}: points of this pool have no names; write the pool_index of {short(text)}"
            )
        near = difflib.get_close_matches(_bare(text)[:200], [title(i, self._names) for i in range(len(self._names))], 1)
        raise LabelError(
            f"{where}: {key}: expected the name of a pool point, found {short(text)}"
            + (f"; perhaps {near[0]}" if near else "")
        )

    def _check(self, index: int, given: dict[str, str], where: str) -> None:
        """Raise `LabelError` if an image or a name belongs to another point."""
        for key in sorted(given, key=lambda key: key != "image"):
            text, found = given[key], self._matches(key, given[key])
            number = _IMAGE.search(text) if key == "image" else None
            named = key == "name" and self._names is not None and index < len(self._names)
            if index in found or not (found or number or named):
                continue
            if number:
                raise LabelError(
                    f"{where}: pool_index: expected {number[1]} beside {short(text)}, found {index}; was a column "
                    "sorted without the others?"
                )
            raise LabelError(
                f"{where}: {key}: expected {short(title(index, self._names))} beside pool_index {index}, found "
                f"{short(text)}; was a column sorted without the others?"
            )

    def _matches(self, key: str, text: str) -> list[int]:
        """The points that match a name."""
        found = []
        for form in _forms(text):
            if found := self._by_path(form):
                break
        number = _IMAGE.search(text) if key == "image" else None
        number = number or (re.fullmatch(r"pool point (\d+)", text) if self._names is None else None)
        if number and (self._names is None or int(number[1]) < len(self._names)):
            found = sorted({*found, int(number[1])})  # as `write_query` calls it
        return found

    def _by_path(self, path: str) -> list[int]:
        """Points whose name ends in this path, or that this path ends in; by its name without suffix if it has none."""
        parts = path.split("/")
        if found := self._ends.get(path):
            return found
        longer = [
            self._whole["/".join(parts[place:])]
            for place in range(1, len(parts))
            if "/".join(parts[place:]) in self._whole
        ]
        if longer:
            return longer[0]
        return [] if PurePosixPath(path).suffix else self._stems.get(path, [])

    @cached_property
    def _whole(self) -> dict[str, list[int]]:
        found = defaultdict(list)
        for index in range(len(self._names or ())):
            found[_bare(title(index, self._names))].append(index)
        return dict(found)

    @cached_property
    def _ends(self) -> dict[str, list[int]]:
        found = defaultdict(list)
        for name, indices in self._whole.items():
            parts = name.split("/")
            for place in range(len(parts)):
                found["/".join(parts[place:])] += indices
        return found | self._whole

    @cached_property
    def _stems(self) -> dict[str, list[int]]:
        found = defaultdict(list)
        for name, indices in self._ends.items():
            found[str(PurePosixPath(name).with_suffix("")) if name.strip("./") else name] += indices
        return dict(found)


def _forms(text: str) -> list[str]:
    """A name as it is, from an address, decoded, with `/`, and without what Label Studio puts before an upload's."""
    address = text.split("?d=", 1)[-1] if "?d=" in text else re.split(r"[?#]", text)[0]
    forms = [text, address, unquote(address)]
    forms += [form.replace("\\", "/") for form in forms]
    forms += [re.sub(r"^(.*/)?[0-9a-f]{8}-", "", form) for form in forms]  # upload/1/0a1b2c3d-NAME
    return list(dict.fromkeys(_bare(form).removeprefix("./") for form in forms))


def _bare(name: str) -> str:
    """A name without what spreadsheets and `write_query` put before it or take off."""
    return re.sub(r"([;,])'(\s*)", r"\1\2", unicodedata.normalize("NFC", name).strip().lstrip("' "))
