"""Shapes: what a picture of an environment is made of, whoever paints it.

An environment may have a method

    draw(state, action, params) -> Picture

of one unbatched state, in NumPy, and the action that led to it, or None at the start.
`rljax.report.replay` paints it as a GIF, a page or an array of pixels. Lengths are in
the units of the world that is drawn; `y` points up. Colors are "#rrggbb".
"""

import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias


class Line(NamedTuple):
    """A line through two or more points."""

    points: Sequence[tuple[float, float]]
    color: str = "#222222"
    width: float = 0.02


class Polygon(NamedTuple):
    """A filled polygon of three or more corners."""

    points: Sequence[tuple[float, float]]
    color: str = "#222222"


class Circle(NamedTuple):
    """A filled disk."""

    x: float
    y: float
    radius: float
    color: str = "#222222"


class Text(NamedTuple):
    """One line of text; `(x, y)` is the `anchor` end of its baseline."""

    x: float
    y: float
    text: str
    size: float
    """Height of a capital letter and its surroundings: the font size."""
    color: str = "#222222"
    anchor: Literal["start", "middle", "end"] = "start"


Shape: TypeAlias = Line | Polygon | Circle | Text


class Picture(NamedTuple):
    """A window on the world, and the shapes in it, painted in order."""

    left: float
    bottom: float
    right: float
    top: float
    shapes: Sequence[Shape]


def rectangle(
    left: float, bottom: float, right: float, top: float, color: str = "#222222"
) -> Polygon:
    """A filled rectangle."""
    corners = ((left, bottom), (right, bottom), (right, top), (left, top))
    return Polygon(corners, color)


def check_picture(picture: Picture) -> None:
    """Checks that a picture can be painted.

    Raises:
        ValueError: its window is empty, a number is not finite, a color not "#rrggbb",
            or a shape none of those here; the message names the shape.
    """
    left, bottom, right, top = window = picture[:4]
    if not (all(map(_is_finite, window)) and left < right and bottom < top):
        raise ValueError(
            f"a picture needs left < right and bottom < top, got {window}. Correct them."
        )
    for index, shape in enumerate(picture.shapes):
        if not isinstance(shape, Line | Polygon | Circle | Text):
            raise ValueError(
                f"shape {index} is {shape!r}. Use Line, Polygon, Circle or Text."
            )
        for name, value in shape._asdict().items():
            if name == "color":
                right_kind = bool(re.fullmatch("#[0-9a-fA-F]{6}", str(value)))
                rule = 'a color is "#rrggbb"'
            elif name == "points":
                least = 2 if isinstance(shape, Line) else 3
                right_kind = len(value) >= least and all(
                    len(point) == 2 and all(map(_is_finite, point)) for point in value
                )
                rule = f"it has {least} points (x, y) or more, all finite"
            elif name == "anchor":
                right_kind = value in ("start", "middle", "end")
                rule = "it is start, middle or end"
            elif name == "text":
                right_kind, rule = isinstance(value, str), "it is a string"
            else:
                right_kind, rule = _is_finite(value), "it is a finite number"
            if not right_kind:
                raise ValueError(
                    f"shape {index}, a {type(shape).__name__}, has {name} = {value!r}: "
                    f"{rule}. Correct it."
                )


def _is_finite(number: object) -> bool:
    try:
        return math.isfinite(float(number))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
