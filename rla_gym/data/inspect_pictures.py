"""What an inspection draws: a sheet of pictures from a few episodes, and histograms of the actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rla_gym.data.dimensions import Dimension

_MARGIN, _HEADER, _LINE = 16, 56, 24
_HEIGHT = 150
"""Pixels of a picture on the sheet; its width follows from its shape."""
_WIDEST = 300
_PANEL, _COLUMNS = (230, 132), 5
_BINS = 32
_COLOURS = {"moves": (46, 104, 170), "hardly": (214, 138, 30), "constant": (190, 190, 190)}
_INK, _PALE = (25, 25, 25), (110, 110, 110)


@dataclass(frozen=True)
class SheetRow:
    """One row of a contact sheet.

    Attributes:
        title: above its pictures.
        pictures: ``(H, W, 3)`` uint8 RGB, left to right; None where there is none.
        captions: below them, one each.
    """

    title: str
    pictures: Sequence[np.ndarray | None]
    captions: Sequence[str]


def contact_sheet(path: Path, title: str, rows: Sequence[SheetRow]) -> None:
    """Write pictures of episodes as a PNG, a row for each episode and camera."""
    shapes = [picture.shape for row in rows for picture in row.pictures if picture is not None]
    aspect = max((shape[1] / shape[0] for shape in shapes), default=1.0)
    width = min(_WIDEST, max(80, round(_HEIGHT * aspect)))
    columns = max(len(row.pictures) for row in rows)
    step = _HEIGHT + 2 * _LINE + 10
    sheet = Image.new(
        "RGB", (2 * _MARGIN + columns * (width + 6) - 6, _HEADER + step * len(rows) + _MARGIN // 2), "white"
    )
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_MARGIN, 16), title, sheet.width - 2 * _MARGIN, 20)
    for number, row in enumerate(rows):
        top = _HEADER + number * step
        _write(draw, (_MARGIN, top), row.title, sheet.width - 2 * _MARGIN, 15)
        for column, (picture, caption) in enumerate(zip(row.pictures, row.captions, strict=True)):
            left, above = _MARGIN + column * (width + 6), top + _LINE
            draw.rectangle((left, above, left + width - 1, above + _HEIGHT - 1), fill=(235, 235, 235))
            if picture is None:
                _write(draw, (left + 10, above + _HEIGHT // 2 - 8), "no picture", width - 20, 14, _PALE)
            else:
                small = Image.fromarray(picture)
                scale = min(width / small.width, _HEIGHT / small.height)
                small = small.resize((max(1, round(small.width * scale)), max(1, round(small.height * scale))))
                sheet.paste(small, (left + (width - small.width) // 2, above + (_HEIGHT - small.height) // 2))
            _write(draw, (left, above + _HEIGHT + 3), caption, width, 13, _PALE)
    sheet.save(path)


def histograms(path: Path, title: str, dimensions: Sequence[Dimension], values: np.ndarray) -> None:
    """Write a histogram of every dimension as a PNG.

    Args:
        path: of the PNG.
        title: above all.
        dimensions: D of them.
        values: ``(F, D)`` of all rows.
    """
    columns = min(_COLUMNS, len(dimensions))
    lines = -(-len(dimensions) // columns)
    width = max(2 * _MARGIN + columns * (_PANEL[0] + 12) - 12, 560)
    sheet = Image.new("RGB", (width, _HEADER + _LINE + lines * (_PANEL[1] + 14) + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_MARGIN, 14), title, width - 2 * _MARGIN, 20)
    left = _MARGIN
    for motion, words in (("moves", "moves"), ("hardly", "hardly moves"), ("constant", "never changes")):
        draw.rectangle((left, 48, left + 11, 59), fill=_COLOURS[motion])
        left = _write(draw, (left + 17, 45), words, 200, 14, _PALE) + 22
    _write(draw, (left, 45), "height: share of rows, logarithmic", width - left - _MARGIN, 14, _PALE)
    for index, dimension in enumerate(dimensions):
        corner = (
            _MARGIN + index % columns * (_PANEL[0] + 12),
            _HEADER + _LINE + index // columns * (_PANEL[1] + 14),
        )
        _histogram(draw, corner, dimension, values[:, index])
    sheet.save(path)


def _histogram(draw: ImageDraw.ImageDraw, corner: tuple[int, int], dimension: Dimension, values: np.ndarray) -> None:
    left, top = corner
    width, height = _PANEL
    _write(draw, (left, top), dimension.name, width, 14)
    base, tall = top + height - 22, height - 46
    draw.line((left, base, left + width - 1, base), fill=_PALE)
    values = values[np.isfinite(values)]
    low, high = dimension.low, dimension.high
    counts = np.zeros(_BINS)
    if high > low:
        counts = np.histogram(values, _BINS, (low, high))[0].astype(float)
    elif len(values):
        counts[_BINS // 2] = len(values)
    # Logarithmic, from a thousandth of the highest bar on: rare values would not be seen otherwise.
    shares = counts / max(counts.max(), 1.0)
    bars = np.where(shares > 0, np.clip(1 + np.log10(np.maximum(shares, 1e-9)) / 3, 0.03, 1), 0)
    for place, bar in enumerate(bars):
        if bar > 0:
            begin = left + place * width / _BINS
            box = (round(begin), round(base - bar * tall), round(begin + width / _BINS) - 2, base - 1)
            draw.rectangle(box, fill=_COLOURS[dimension.motion])
    if high > low:
        _write(draw, (left, base + 4), f"{low:.4g}", width // 2, 13, _PALE)
        words = f"{high:.4g}"
        draw.text((left + width - 1, base + 4), words, fill=_PALE, font=_font(13), anchor="ra")
    else:
        draw.text((left + width // 2, base + 4), f"{low:.4g}", fill=_PALE, font=_font(13), anchor="ma")


def _write(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], words: str, width: int, size: int,
    colour: tuple[int, int, int] = _INK,
) -> int:  # fmt: skip
    """Write words, cut to a width of pixels; where they end."""
    font = _font(size)
    if draw.textlength(words, font) > width:
        while words and draw.textlength(words + "…", font) > width:
            words = words[:-1]
        words += "…"
    draw.text(place, words, fill=colour, font=font)
    return place[0] + round(draw.textlength(words, font))


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
