"""Replays: episodes side by side in one self-contained HTML page.

For environments with `draw` (see `rljax.envs.drawing`): `rljax.record` keeps episodes, `rljax.episode`
selects one, `replay` draws it, and `save_html` plays the replays of several policies under a
common clock. `rljax.report.gif` makes GIFs of the same.
"""

import dataclasses
import html
import importlib.resources
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rljax.envs.drawing import Circle, Line, Picture, Polygon, Text, check_picture
from rljax.envs.hooks import find_owner
from rljax.rollouts.rollout import Trajectory
from rljax.training.files import dumps, write_atomically

UNITS = 10_000  # a picture's width, in the whole numbers its shapes are placed on


@dataclasses.dataclass(frozen=True, eq=False)
class Replay:
    """One episode of T steps, drawn.

    Attributes:
        title: caption, such as "after 100,000 steps".
        pictures: `[T + 1]`, the start and each next state, in views of equal proportions.
        rewards: `[T]`, finite.
        actions: `[T]` whole numbers from 0, or None for actions of another kind.
        ending: why it ended: "terminated", "truncated", or "" if it was cut off.

    Raises:
        ValueError: lengths differ, or a reward, an action or a picture is invalid.
    """

    title: str
    pictures: Sequence[Picture]
    rewards: Sequence[float]
    actions: Sequence[int] | None = None
    ending: str = ""

    def __post_init__(self):
        name, steps = f"replay {self.title!r}", len(self.rewards)
        if not steps or len(self.pictures) != steps + 1:
            raise ValueError(
                f"{name} must have at least one step, and one picture more than "
                f"rewards, got {len(self.pictures)} pictures and {steps} rewards. Draw "
                f"the start and what each step led to."
            )
        if self.actions is not None and (
            len(self.actions) != steps or min(self.actions) < 0
        ):
            raise ValueError(
                f"{name} must have as many actions as its {steps} rewards, from 0 "
                f"upwards, got {len(self.actions)} from {min(self.actions, default=0)}. "
                f"Give None for actions of another kind."
            )
        if self.ending not in ("terminated", "truncated", ""):
            raise ValueError(
                f"{name} must have ended by 'terminated' or 'truncated', or by '' if "
                f"it was cut off, got {self.ending!r}. Choose one of them."
            )
        for step, reward in enumerate(self.rewards, 1):
            if not math.isfinite(reward):
                raise ValueError(
                    f"{name} must have finite rewards, got {reward} at step {step}. "
                    f"Find out where the environment divides by zero or overflows."
                )
        for number, picture in enumerate(self.pictures):
            check_picture(picture, f"{name}, picture {number}")
            now, first = height(picture), height(self.pictures[0])
            if not math.isclose(now, first, rel_tol=1e-3):
                raise ValueError(
                    f"{name}, picture {number}: the view must keep its proportions, got "
                    f"{now:g} times as high as wide after {first:g}. Move it, or scale "
                    f"both sides alike."
                )


def replay(env: Any, params: Any, trajectory: Trajectory, title: str) -> Replay:
    """Draws one episode, as `rljax.episode` selects it.

    The environment has `draw(state, action, params) -> Picture`; the replay has actions
    if they are integers from 0, and `title` as its caption.

    Raises:
        ValueError: the environment cannot draw, the trajectory is not one episode, or a
            picture cannot be shown.
    """
    if not find_owner(env, "draw"):
        raise ValueError(
            f"a replay needs an environment with `draw`, got {type(env).__name__}, "
            f"which has none. Give it a method draw(state, action, params) -> Picture "
            f"of rljax.envs.drawing."
        )
    if np.ndim(trajectory.reward) != 1 or not np.all(trajectory.valid):
        raise ValueError(
            f"a replay is of one episode, cut at its end, got a trajectory whose rewards "
            f"have the shape {np.shape(trajectory.reward)}, {np.sum(trajectory.valid)} of "
            f"them valid. Select one: episode(trajectories, index)."
        )
    trajectory, params = jax.device_get((trajectory, params))

    def picture(t: int) -> Picture:
        state = jax.tree.map(lambda x: x[t], trajectory.state)
        action = jax.tree.map(lambda x: x[t - 1], trajectory.action) if t else None
        return env.draw(state, action, params)

    endings = {"terminated": trajectory.terminated, "truncated": trajectory.truncated}
    return Replay(
        title=title,
        pictures=[picture(t) for t in range(len(trajectory.reward) + 1)],
        rewards=trajectory.reward.tolist(),
        actions=_whole_numbers(trajectory.action),
        ending=next((name for name, flags in endings.items() if flags[-1:].any()), ""),
    )


def save_html(
    path: Path | str,
    replays: Sequence[Replay],
    *,
    title: str,
    frames_per_second: float = 50.0,
) -> None:
    """Writes one self-contained page that plays the replays side by side.

    At speed 1 it plays `frames_per_second` steps per second.

    Raises:
        ValueError: there is no replay, or the speed is not positive and finite.
    """
    check_replays(replays)
    data = player_data(replays, frames_per_second)
    write_atomically(path, fill_template("page.html", title, data))


def fill_template(template: str, title: str, data: Any) -> str:
    """The page of a template in `web/`, with fragments, title and data filled in."""
    folder = importlib.resources.files(__package__) / "web"
    page = re.sub(
        r"@(\w+\.\w+)@\n",
        lambda m: (folder / m[1]).read_text("utf-8"),
        (folder / template).read_text("utf-8"),
    )
    parts = {
        "title": html.escape(title),
        # Inside <script> only "<" could end the element; JSON can spell it otherwise.
        "data": dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
    }
    # One pass, so that a title which reads "@data@" stays one.
    return re.sub("@(title|data)@", lambda m: parts[m[1]], page)


def check_replays(replays: Sequence[Replay]) -> None:
    """Raises a ValueError if there is no replay to show."""
    if not replays:
        raise ValueError(
            "at least one replay is needed, got none. Make one with "
            "rljax.report.replay.replay."
        )


def height(picture: Picture) -> float:
    """The height of a picture, as a multiple of the width."""
    return (picture.top - picture.bottom) / (picture.right - picture.left)


def place(picture: Picture) -> Iterator[tuple[Any, ...]]:
    """Yields each shape in integer units, `UNITS` wide, from the top left, y down.

    A shape is `("line", color, width, x, y, x, y, ...)`, `("polygon", color, x, y, ...)`,
    `("circle", color, radius, x, y)` or `("text", color, size, x, y, anchor, text)`.
    """
    scale = UNITS / (picture.right - picture.left)

    def whole(length: float) -> int:
        # Clipped at 1,000 views away, which is never visible.
        return round(min(max(scale * float(length), -1e3 * UNITS), 1e3 * UNITS))

    def spots(*points: tuple[float, float]) -> Iterator[int]:
        for x, y in points:
            yield from (whole(x - picture.left), whole(picture.top - y))

    for shape in picture.shapes:
        match shape:
            case Line(points, color, width):
                yield "line", color, max(whole(width), 1), *spots(*points)
            case Polygon(points, color):
                yield "polygon", color, *spots(*points)
            case Circle(x, y, radius, color):
                yield "circle", color, whole(radius), *spots((x, y))
            case Text(x, y, text, size, color, anchor):
                size = max(whole(size), 1)
                yield "text", color, size, *spots((x, y)), anchor, text


def decimals(replays: Sequence[Replay]) -> int:
    """Decimal places for sums of rewards: none for whole numbers."""
    totals = np.concatenate([np.cumsum(replay.rewards) for replay in replays])
    if np.all(totals == np.rint(totals)):
        return 0
    return int(np.clip(3 - np.floor(np.log10(np.abs(totals).max())), 0, 6))


def player_data(replays: Sequence[Replay], frames_per_second: float) -> dict[str, Any]:
    """Data of the player in `web/`: distinct shapes, pictures as indices of them.

    Raises:
        ValueError: the speed is not positive and finite.
    """
    if not 0 < frames_per_second < math.inf:
        raise ValueError(
            f"frames_per_second must be positive and finite, got {frames_per_second}. "
            f"Use 1 / tau for real time."
        )
    shapes: dict[tuple[Any, ...], int] = {}
    rewards = np.concatenate([replay.rewards for replay in replays]).astype(np.float32)
    return {
        "frames_per_second": frames_per_second,
        "decimals": decimals(replays),
        "rewards": [rewards.min(), rewards.max()],
        "units": UNITS,
        "replays": [
            {
                "title": replay.title,
                "height": round(UNITS * height(replay.pictures[0])),
                "pictures": [
                    [shapes.setdefault(shape, len(shapes)) for shape in place(picture)]
                    for picture in replay.pictures
                ],
                "rewards": np.asarray(replay.rewards, np.float32),
                "actions": replay.actions,
                "ending": replay.ending,
            }
            for replay in replays
        ],
        "shapes": list(shapes),
    }


def _whole_numbers(action: Any) -> list[int] | None:
    whole = isinstance(action, np.ndarray) and action.ndim == 1
    whole = whole and action.dtype.kind in "biu" and (action >= 0).all()
    return action.astype(int).tolist() if whole else None
