"""Recall at each depth as a picture, drawn with Pillow. Knows no knowledge base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backends.errors import InvalidRequest

_SIZE = (960, 640)
_LEFT, _TOP, _RIGHT, _BOTTOM = 90, 70, 920, 560  # of the field, in pixels
_INK, _QUIET, _LINE = "#1f2937", "#d1d5db", "#2563eb"


def plot(recalls: Sequence[float], title: str, file: Path) -> None:
    """Draws `recalls`, 0..1, over the depths 1, 2, 3, ... into `file`, whose suffix says the format. Raises
    InvalidRequest for a suffix of no picture, OSError where it cannot be written."""
    from PIL import Image, ImageDraw, ImageFont

    if file.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp", ".pdf"):
        raise InvalidRequest(f"{file} is no name of a picture; let it end in .png.")
    picture = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(18)

    def place(depth: int, recall: float) -> tuple[float, float]:
        across = (depth - 0.5) / len(recalls)
        return _LEFT + across * (_RIGHT - _LEFT), _BOTTOM - recall * (_BOTTOM - _TOP)

    for tenth in range(0, 11, 2):
        _, y = place(1, tenth / 10)
        draw.line((_LEFT, y, _RIGHT, y), fill=_QUIET)
        draw.text((_LEFT - 15, y), f"{tenth / 10:.1f}", fill=_INK, font=font, anchor="rm")
    points = [place(depth, recall) for depth, recall in enumerate(recalls, start=1)]
    draw.line(points, fill=_LINE, width=3)
    for depth, (x, y) in enumerate(points, start=1):
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=_LINE)
        draw.text((x, _BOTTOM + 12), str(depth), fill=_INK, font=font, anchor="ma")
        # Below the line, where a good recall leaves room.
        draw.text((x, y + 12), f"{recalls[depth - 1]:.3f}", fill=_INK, font=font, anchor="ma")
    draw.text(((_LEFT + _RIGHT) / 2, 24), title, fill=_INK, font=font, anchor="ma")
    below = "passages looked at; the line: share of the questions whose answer is among them"
    draw.text(((_LEFT + _RIGHT) / 2, _BOTTOM + 45), below, fill=_INK, font=font, anchor="ma")
    picture.save(file)
