"""Shapes that a picture of an environment is made of, independent of what renders them.

An environment may have a method

    draw(state, action, params) -> Picture

of one unbatched state, in NumPy, and the action that led to it, or None at the start.
`rljax.report.replay` renders them as a page, `rljax.report.gif` as pixels and GIFs. Lengths are in the
environment's units; `y` points up. Colors are "#rrggbb".
"""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias


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
    """One line of text; `(x, y)` is the `anchor` point of the baseline."""

    x: float
    y: float
    text: str
    size: float
    """Font size, in units of the view."""
    color: str = "#222222"
    anchor: Literal["start", "middle", "end"] = "start"


Shape: TypeAlias = Line | Polygon | Circle | Text


class Picture(NamedTuple):
    """A view of the environment, and the shapes in it, painted in order."""

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


def check_picture(picture: Picture, where: str) -> None:
    """Raises a ValueError, which begins with `where`, if a picture cannot be painted."""
    if not isinstance(picture, Picture):
        raise ValueError(
            f"{where}: `draw` must return a Picture, got {type(picture).__name__}. "
            f"Return rljax.envs.drawing.Picture(left, bottom, right, top, shapes)."
        )
    left, bottom, right, top, shapes = picture
    finite = all(map(_is_finite, (left, bottom, right, top)))
    if not (finite and left < right and bottom < top):
        raise ValueError(
            f"{where}: a view must be finite with left < right and bottom < top, got "
            f"left={left}, bottom={bottom}, right={right}, top={top}. Swap or widen it."
        )
    if not isinstance(shapes, Sequence):
        raise ValueError(
            f"{where}: shapes must be a list, got {type(shapes).__name__}. Use [...]."
        )
    for number, shape in enumerate(shapes):
        fault = _fault(shape, right - left)
        if fault is not None:
            raise ValueError(
                f"{where}, shape {number} ({type(shape).__name__}): {fault}"
            )


def _fault(shape: Shape, view: float) -> str | None:
    """The error message for an invalid shape: fault, rule and remedy; None for a valid one."""
    lengths: tuple[float, ...] = ()
    match shape:
        case Line(points, _, width):
            least, lengths = 2, (width,)
        case Polygon(points):
            least = 3
        case Circle(x, y, radius):
            least, points, lengths = 1, [(x, y)], (radius,)
        case Text(x, y, text, size, _, anchor):
            least, points, lengths = 1, [(x, y)], (size,)
            if anchor not in ("start", "middle", "end"):
                return f"the anchor must be 'start', 'middle' or 'end', got {anchor!r}."
            if not isinstance(text, str):
                return f"a text is a string, got {text!r}. Use str(...)."
            if _is_finite(size) and size > view:
                return f"a text must not be larger than the view, got size={size}."
            if "\n" in text:
                return f"a text is one line, got {text!r}. Make a Text of each line."
        case _:
            return (
                "a shape must be a Line, Polygon, Circle or Text of rljax.envs.drawing."
            )
    if _length(points) < least:
        return (
            f"it must have {least} points (x, y) or more, got {points!r}. Leave it out."
        )
    for point in points:
        if _length(point) != 2:
            return f"a point is a pair (x, y), got {point!r}."
        if not all(map(_is_finite, point)):
            return (
                f"coordinates must be finite numbers, got {point}. Leave it out or clip "
                f"it."
            )
    for length in lengths:
        if not (_is_finite(length) and length >= 0):
            return (
                f"width, radius and size are finite and not negative, got {length!r}."
            )
    if not re.fullmatch("#[0-9a-fA-F]{6}", str(shape.color)):
        return f"a color is '#rrggbb', as '#c0392b' is, got {shape.color!r}."
    return None


def _length(value: Any) -> int:
    """The length of a list, a tuple or an array; -1 of anything else."""
    try:
        return len(value)
    except TypeError:
        return -1


def _is_finite(number: Any) -> bool:
    """Whether `number` is one finite number of Python, NumPy or JAX."""
    try:
        return not isinstance(number, str) and math.isfinite(float(number))
    except (TypeError, ValueError):
        return False
