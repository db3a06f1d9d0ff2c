"""Renders pictures as pixels: one frame, or replays side by side as an animated GIF."""

import functools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rljax.envs.drawing import Picture, check_picture
from rljax.extras import require
from rljax.report.replay import UNITS, Replay, check_replays, decimals, height, place

TRANSPARENT = 255  # the palette's last index, used for pixels that do not change
FINER = 4  # supersampling factor, for smooth edges


def require_pillow() -> None:
    """Raises an ImportError with the install command if Pillow is missing."""
    require("PIL.Image", "pictures need", "viz")


def frame(picture: Picture, *, width: int = 600) -> np.ndarray:
    """Paints one picture on white.

    Args:
        picture: what to paint.
        width: of the frame, in pixels; the height keeps the view's proportions.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        ValueError: the picture cannot be painted, or has no width.
    """
    require_pillow()
    _check_width(width)
    check_picture(picture, "the picture")
    return np.array(_paint(picture, width, _rows(picture, width)))


def save_gif(
    path: Path,
    replays: Sequence[Replay],
    *,
    width: int = 480,
    frames_per_second: float = 25.0,
    every: int = 2,
    hold: float = 1.0,
) -> None:
    """Writes an animated GIF of the replays side by side, each under its title.

    Args:
        path: where to write it.
        replays: one panel each, under a common clock.
        width: of one panel, in pixels.
        frames_per_second: rounded so that a frame lasts whole hundredths of a second.
        every: steps from one frame to the next; the last step is always shown.
            Raise it for thousands of steps: all frames are in memory at once.
        hold: seconds for which the last frame stays before the GIF repeats.

    Raises:
        ValueError: there is no replay, or a number is out of range.
    """
    require_pillow()
    check_replays(replays)
    _check_width(width)
    if not 0.01 <= frames_per_second <= 50:
        raise ValueError(
            f"frames_per_second must be from 0.01 to 50, got {frames_per_second}: a GIF "
            f"counts hundredths of a second, and browsers slow down a frame of less than "
            f"two. Show fewer steps with `every`."
        )
    if every < 1 or not 0 <= hold <= 600:
        raise ValueError(
            f"every must be 1 or more and hold from 0 to 600 seconds, got every={every} "
            f"and hold={hold}. The defaults are 2 and 1."
        )
    horizon = max(len(replay.rewards) for replay in replays)
    steps = [*range(0, horizon, every), horizon]
    sheet = _Sheet(replays, width)
    samples = [sheet.frame(t) for t in steps[:: -(-len(steps) // 16)]]
    palette = _Palette(samples, replays)
    images = (palette.reduce(sheet.frame(t)) for t in steps)
    durations = [10 * round(100 / frames_per_second)] * len(steps)  # ms
    durations[-1] += 10 * round(100 * hold)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        next(images).save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=images,
            duration=durations,
            loop=0,
            palette=palette.colors.tobytes(),
            # A pixel that did not change is written as transparent: long runs, small.
            optimize=True,
            transparency=TRANSPARENT,
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class _Sheet:
    """Frames of panels side by side; titles and borders are painted once."""

    def __init__(self, replays: Sequence[Replay], width: int):
        from PIL import Image, ImageDraw

        self.replays, self.width = replays, width
        self.digits = decimals(replays)
        self.gap = max(width // 30, 4)
        self.font = max(width / 26, 11.0)
        self.rows = [_rows(replay.pictures[0], width) for replay in replays]
        self.top = round(2.2 * self.font)
        across = len(replays) * (width + self.gap) + self.gap
        down = self.top + max(self.rows) + round(1.9 * self.font)
        self.blank = Image.new("RGB", (across, down), "white")
        draw = ImageDraw.Draw(self.blank)
        font = _font(1.15 * self.font)
        for i, replay in enumerate(replays):
            left = self.left(i)
            title = _cut(replay.title, font, width)
            draw.text((left, 0.7 * self.top), title, "#111111", font, anchor="ls")
            edge = (left - 1, self.top - 1, left + width, self.top + self.rows[i])
            draw.rectangle(edge, outline="#d5d9dd")

    def left(self, panel: int) -> int:
        return self.gap + panel * (self.width + self.gap)

    def frame(self, step: int) -> Any:
        from PIL import ImageDraw

        image = self.blank.copy()
        draw = ImageDraw.Draw(image)
        font = _font(self.font)
        for i, replay in enumerate(self.replays):
            length = len(replay.rewards)
            t = min(step, length)
            picture = _paint(replay.pictures[t], self.width, self.rows[i])
            image.paste(picture, (self.left(i), self.top))
            total = float(np.sum(replay.rewards[:t]))
            words = f"step {t}    reward so far {total:.{self.digits}f}"
            if step >= length and replay.ending:
                words += f"    {replay.ending}"
            y = self.top + self.rows[i] + 1.35 * self.font
            words = _cut(words, font, self.width)
            draw.text((self.left(i), y), words, "#333333", font, anchor="ls")
        return image


class _Palette:
    """256 colors for all frames: exact for shapes, quantized from `samples` for edges."""

    def __init__(self, samples: Sequence[Any], replays: Sequence[Replay]):
        from PIL import Image, ImageColor

        pictures = [picture for replay in replays for picture in replay.pictures]
        count = Counter(shape.color for picture in pictures for shape in picture.shapes)
        flat = [ImageColor.getrgb(color) for color, _ in count.most_common(128)]
        across, down = samples[0].size
        montage = Image.new("RGB", (across, down * len(samples)))
        for i, sample in enumerate(samples):
            montage.paste(sample, (0, i * down))
        mixed = np.reshape(np.array(montage.quantize(120).getpalette()), (-1, 3))
        greys = [(i, i, i) for i in range(256)]
        every = [(255, 255, 255), *flat, *map(tuple, mixed.tolist()), *greys]
        self.colors = np.array(list(dict.fromkeys(every))[:256], np.uint8)
        # The palette index of each 24-bit color, filled when it first occurs.
        self.nearest = np.full(1 << 24, TRANSPARENT, np.uint8)

    def reduce(self, image: Any) -> Any:
        """The image in the nearest palette colors; Pillow's own search is approximate."""
        from PIL import Image

        packed = np.asarray(image).astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
        for new in np.unique(packed[self.nearest[packed] == TRANSPARENT]):
            color = np.array([new >> 16, new >> 8 & 255, new & 255])
            far = np.square(self.colors[:TRANSPARENT] - color).sum(1)
            self.nearest[new] = far.argmin()
        reduced = Image.frombytes("P", image.size, self.nearest[packed].tobytes())
        reduced.putpalette(self.colors.tobytes())
        return reduced


def _paint(picture: Picture, width: int, rows: int) -> Any:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (FINER * width, FINER * rows), "white")
    draw = ImageDraw.Draw(image)
    scale = FINER * width / UNITS

    def pixels(numbers: Sequence[int]) -> list[int]:
        return [round(scale * x) for x in numbers]

    for kind, color, *rest in place(picture):
        if kind == "polygon":
            draw.polygon(pixels(rest), color)
            continue
        size, x, y, *more = rest
        if kind == "line":
            thick = max(round(scale * size), 1)
            draw.line(pixels(rest[1:]), color, thick, joint="curve")
        elif kind == "circle":
            x, y, radius = scale * x, scale * y, scale * size
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), color)
        else:
            anchor, text = more
            where = {"start": "ls", "middle": "ms", "end": "rs"}[anchor]
            draw.text((scale * x, scale * y), text, color, _font(scale * size), where)
    return image.reduce(FINER)


@functools.lru_cache(maxsize=64)
def _font(size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(max(size, 1.0))


def _cut(text: str, font: Any, width: int) -> str:
    text = text.replace("\n", " ")
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _rows(picture: Picture, width: int) -> int:
    return max(round(width * height(picture)), 1)


def _check_width(width: int) -> None:
    if width < 1:
        raise ValueError(f"width must be 1 pixel or more, got {width}. Use 480, say.")
