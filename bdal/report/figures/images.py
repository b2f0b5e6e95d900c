"""The contact sheet: images in lines, with the answer below each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bdal.report.figures import drawing
from bdal.report.figures.drawing import KINDS, figure_of


def contact_sheet(
    lines: Sequence[tuple[str, Sequence[tuple[np.ndarray, str]]]], path_stem: str | Path, kinds: Sequence[str] = KINDS
) -> list[Path]:
    """Images in lines: `(name of the line, [(image, text below it), ...])`, images `[H, W, 1 or 3]` in 0 .. 1.

    Pixels are drawn as they are, never smoothed.
    """
    columns = max(1, *(len(images) for _, images in lines))
    tile, text = 0.36, 0.15  # inches
    size = (0.75 + tile * columns, 0.1 + (tile + text) * len(lines))
    with figure_of(size) as figure:
        figure.set_layout_engine("none")
        panel = figure.add_axes((0, 0, 1, 1))
        panel.set(xlim=(0, size[0]), ylim=(size[1], 0))
        panel.axis("off")
        for line, (name, images) in enumerate(lines):
            top = 0.05 + line * (tile + text)
            panel.text(0.65, top + tile / 2, name, ha="right", va="center", fontsize=7.5)
            if not images:
                continue
            panel.imshow(
                _side_by_side([image for image, _ in images]),
                extent=(0.72, 0.72 + tile * len(images), top + tile, top),
                interpolation="none",
                aspect="auto",
            )
            for place, (_, below) in enumerate(images):
                panel.text(0.72 + tile * (place + 0.5), top + tile + 0.01, below, ha="center", va="top", fontsize=6.5)
        panel.set(xlim=(0, size[0]), ylim=(size[1], 0))
        return drawing.save_as(figure, path_stem, kinds)


def _side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images as one of bytes `[h, n · w, 4]`, at least 48 pixels high, with a transparent gap around each."""
    tiles = []
    for image in images:
        grey = image.shape[-1] == 1
        pixels = (255 * np.clip(image, 0, 1) + 0.5).astype(np.uint8)
        pixels = np.repeat(pixels, 3, -1) if grey else pixels[..., :3]
        scale = max(1, -(-48 // max(pixels.shape[:2])))
        pixels = pixels.repeat(scale, 0).repeat(scale, 1)
        opaque = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], -1)
        gap = max(1, pixels.shape[1] // 16)
        tiles.append(np.pad(opaque, [(gap, gap), (gap, gap), (0, 0)]))
    return np.concatenate(tiles, 1)
