"""Networks of the literature, as flax nnx modules that return (logits, features), and as `Model`s by name."""

from collections.abc import Callable

from bdal.model import Model
from bdal.models.cnn import CNN, cnn
from bdal.models.mlp import MLP, mlp

MODELS: dict[str, Callable[..., Model]] = {"mlp": mlp, "cnn": cnn}  # (shape, num_outputs, **options) -> Model

__all__ = ["CNN", "MLP", "MODELS", "cnn", "mlp"]
