"""The messages between the labelling page and a session, their checks, and the page itself."""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from bdal.errors import LabelError
from bdal.labelling.questions import hotkeys
from bdal.pool import ABSTAIN


class Item(NamedTuple):
    """A point of the open query."""

    pool_index: int
    name: str
    answer: int | None  # a class, ABSTAIN, or None while there is none


class Measured(NamedTuple):
    """A round's accuracy; measured on labels for validation, with the ends of its 95 % interval."""

    training_labels: int
    accuracy: float | None
    low: float | None = None
    high: float | None = None


class State(NamedTuple):
    """What the page shows."""

    round: int  # from 1; 0 for the labels to start with, and where no query is open
    total_rounds: int | None
    phase: Literal["label", "training", "finished"]
    items: tuple[Item, ...]  # of the open query, in the order of asking; none while training
    class_names: tuple[str, ...]
    history: tuple[Measured, ...]  # a round each
    labels_paid: int  # of the budget: answers, those for validation and "cannot tell" among them
    budget: int
    training_labels: int  # labels among these to train on: neither for validation nor "cannot tell"
    message: str = ""
    instruction: str = ""  # what the task is, in one line


class Session(Protocol):
    """What is labelled. The server calls one method at a time, from its own threads.

    A session that also has `advance() -> None` is trained by `serve`: it calls it in its own thread whenever the phase
    is "training", while the page goes on asking for the state. Without it, the session trains in a thread of its own.
    """

    def state(self) -> State:
        """Where it stands; also while training, so without waiting for it."""
        ...

    def image(self, pool_index: int) -> bytes | None:
        """A PNG, JPEG, GIF, WebP or BMP file, or None where the point is no image.

        Raises `OSError` where it cannot be read and `ValueError` where it is no image: then the page says so, and lets
        people answer that they cannot tell.
        """
        ...

    def tell(self, pool_index: int, label: int) -> None:
        """Keep an answer, a class or ABSTAIN: on disk when this returns. Raises `LabelError` to refuse it."""
        ...


def as_json(state: State) -> dict[str, Any]:
    """The state as the page reads it: an abstention is "abstain", and each class has its key."""
    return {
        **state._asdict(),
        "items": [
            {**item._asdict(), "answer": "abstain" if item.answer == ABSTAIN else item.answer} for item in state.items
        ],
        "keys": hotkeys(state.class_names),
    }


def checked(answer: Any, state: State) -> tuple[str, int, int]:
    """An answer's id, pool index and label, or a LabelError that says what was expected."""
    identity, pool_index, label = (answer.get(name) for name in ("id", "pool_index", "label"))
    if not isinstance(identity, str) or not 1 <= len(identity) <= 100:
        raise LabelError(f"id: expected text, got {identity!r:.80}")
    if type(pool_index) is not int:
        raise LabelError(f"pool_index: expected the number of a pool point, got {pool_index!r:.80}")
    label = ABSTAIN if label == "abstain" else label
    if type(label) is not int or (label != ABSTAIN and not 0 <= label < len(state.class_names)):
        raise LabelError(f'label: expected 0 .. {len(state.class_names) - 1} or "abstain", got {label!r:.80}')
    return identity, pool_index, label


def image_type(content: bytes) -> str | None:
    """The type of an image by its first bytes, of those that are shown; what can hold a script is not among them."""
    starts = {
        b"\x89PNG\r\n\x1a\n": "png",
        b"\xff\xd8\xff": "jpeg",
        b"GIF87a": "gif",
        b"GIF89a": "gif",
        b"BM": "bmp",
    }
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((f"image/{kind}" for start, kind in starts.items() if content.startswith(start)), None)


def page() -> tuple[bytes, str]:
    """`page.html` and the content security policy that lets its own script and style run and nothing else."""
    text = Path(__file__).with_name("page.html").read_bytes()

    def digest(tag: str) -> str:
        found = re.search(rf"<{tag}>(.*?)</{tag}>".encode(), text, re.DOTALL)
        assert found is not None
        return base64.b64encode(hashlib.sha256(found[1]).digest()).decode()

    return text, (
        f"default-src 'none'; script-src 'sha256-{digest('script')}'; style-src 'sha256-{digest('style')}'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
