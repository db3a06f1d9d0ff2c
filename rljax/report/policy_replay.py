"""Replays of policies: an episode of each from the same start, as a page and a GIF."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from rljax.report.gif import require_pillow, save_gif
from rljax.report.plots import require_matplotlib
from rljax.report.replay import replay, save_html
from rljax.rollouts.rollout import Trajectory, episode, record

# The page shows every step; the GIF skips some, to stay small.
_GIF_RATE = 12.5  # frames a second
_GIF_WIDTH = 960  # pixels, of two panels or three


def require_pictures() -> None:
    """Checks that pictures can be drawn, before a long run rather than after it.

    Raises:
        ImportError: matplotlib or Pillow is not installed.
    """
    require_pillow()  # without which matplotlib does not import either
    require_matplotlib()


def play_policies(
    key: jax.Array,
    env: Any,
    params: Any,
    policies: Mapping[str, Callable[[Any, jax.Array], Any]],
    *,
    max_steps: int,
) -> dict[str, Trajectory]:
    """Plays one episode of each policy, all from the same start.

    Args:
        key: consumed.
        env: the environment.
        params: its parameters.
        policies: by name, `(observation, key) -> action`, batched over environments.
        max_steps: steps at which an episode is cut.

    Raises:
        ValueError: there is no policy.
    """
    if not isinstance(policies, Mapping) or not policies:
        raise ValueError(
            f"play_policies needs policies by name, got {policies!r}. Use {{'trained': "
            f"act}}, say."
        )
    episodes = {}
    for name, act in policies.items():
        run = functools.partial(
            record, env=env, params=params, act=act, num_episodes=1, max_steps=max_steps
        )
        # The same key on purpose: the same start and the same random numbers.
        episodes[name] = episode(jax.jit(run)(jax.random.clone(key)), 0)
    return episodes


def save_replay(
    folder: Path | str,
    env: Any,
    params: Any,
    episodes: Mapping[str, Trajectory],
    *,
    steps_per_second: float,
    title: str | None = None,
) -> None:
    """Writes `replay.html` and `replay.gif`, the episodes side by side.

    Args:
        folder: made if missing.
        env: an environment with `draw`.
        params: its parameters.
        episodes: by caption, each from `rljax.episode`.
        steps_per_second: at speed 1.
        title: of the page; by default the environment and the episodes.

    Raises:
        ImportError: Pillow is not installed.
    """
    require_pillow()
    Path(folder).mkdir(parents=True, exist_ok=True)
    replays = [replay(env, params, one, str(name)) for name, one in episodes.items()]
    title = title or f"{type(env).__name__}: {', '.join(map(str, episodes))}"
    page = Path(folder) / "replay.html"
    save_html(page, replays, title=title, frames_per_second=steps_per_second)
    every = max(1, round(steps_per_second / _GIF_RATE))
    save_gif(
        Path(folder) / "replay.gif",
        replays,
        width=max(_GIF_WIDTH // len(replays), 320),
        frames_per_second=steps_per_second / every,
        every=every,
    )
