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
    """Paints one picture on white: uint8 `[H, width, 3]`, in the view's proportions.

    Raises:
        ValueError: the picture cannot be painted, or has no width.
    """
    require_pillow()
    _check_width(width)
    check_picture(picture, "the picture")
    return np.array(_paint(picture, width, _rows(picture, width)))


def save_gif(
    path: Path | str,
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
    samples = map(sheet.frame, steps[:: -(-len(steps) // 16)])
    palette = _Palette(list(samples), replays)
    images = map(palette.reduce, map(sheet.frame, steps))
    durations = [10 * round(100 / frames_per_second)] * len(steps)  # ms
    durations[-1] += 10 * round(100 * hold)
    path = Path(path)
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

        self.width, self.digits = width, decimals(replays)
        gap, self.font = max(width // 30, 4), max(width / 26, 11.0)
        self.top = round(2.2 * self.font)
        rows = [_rows(replay.pictures[0], width) for replay in replays]
        lefts = [gap + i * (width + gap) for i in range(len(replays))]
        self.panels = list(zip(replays, lefts, rows, strict=True))
        size = lefts[-1] + width + gap, self.top + max(rows) + round(1.9 * self.font)
        self.blank = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(self.blank)
        for replay, left, down in self.panels:
            spot = left, 0.7 * self.top
            self.write(draw, spot, replay.title, "#111111", 1.15 * self.font)
            edge = (left - 1, self.top - 1, left + width, self.top + down)
            draw.rectangle(edge, outline="#d5d9dd")

    def write(self, draw: Any, spot: Any, text: str, color: str, size: float) -> None:
        font = _font(size)
        text = text.replace("\n", " ")
        if font.getlength(text) > self.width:
            while text and font.getlength(text + "...") > self.width:
                text = text[:-1]
            text += "..."
        draw.text(spot, text, color, font, anchor="ls")

    def frame(self, step: int) -> Any:
        from PIL import ImageDraw

        image = self.blank.copy()
        draw = ImageDraw.Draw(image)
        for replay, left, down in self.panels:
            length = len(replay.rewards)
            t = min(step, length)
            picture = _paint(replay.pictures[t], self.width, down)
            image.paste(picture, (left, self.top))
            total = float(np.sum(replay.rewards[:t]))
            words = f"step {t}    reward so far {total:.{self.digits}f}"
            if step >= length and replay.ending:
                words += f"    {replay.ending}"
            spot = left, self.top + down + 1.35 * self.font
            self.write(draw, spot, words, "#333333", self.font)
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
        every = dict.fromkeys([(255, 255, 255), *flat, *map(tuple, mixed), *greys])
        self.colors = np.array(list(every)[:256], np.uint8)
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
        elif kind == "line":
            thick = max(round(scale * rest[0]), 1)
            draw.line(pixels(rest[1:]), color, thick, joint="curve")
        elif kind == "circle":
            radius, x, y = (scale * number for number in rest)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), color)
        else:
            size, x, y = (scale * number for number in rest[:3])
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[rest[3]]
            draw.text((x, y), rest[4], color, _font(size), anchor)
    return image.reduce(FINER)


@functools.lru_cache(maxsize=64)
def _font(size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(max(size, 1.0))


def _rows(picture: Picture, width: int) -> int:
    return max(round(width * height(picture)), 1)


def _check_width(width: int) -> None:
    if width < 1:
        raise ValueError(f"width must be 1 pixel or more, got {width}. Use 480, say.")
