"""Checks of the optional methods of an environment; see `rljax.envs.conformance`."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.drawing import check_picture

if TYPE_CHECKING:
    from rljax.envs.conformance import Checker

_NUM_DRAWS = 64


def check_reset_from_noise(
    checker: "Checker", key: jax.Array, state: Any, observation: Any
) -> None:
    """Checks that `reset_from_noise` keeps the types and spaces of `reset`."""
    name, function = "reset_from_noise", checker.env.reset_from_noise
    noise = _draws(checker, key, "num_noise", "start")
    pair = _from_noise(checker, name, "num_noise", noise[0], checker.params)
    checker.check_types(name, "reset's", (state, observation), pair)
    checker.check_deterministic(name, function, noise[0], checker.params)
    states = jax.jit(jax.vmap(function, in_axes=(0, None)))(noise, checker.params)
    for start in range(len(noise)):
        state, observation = jax.tree.map(lambda x, start=start: x[start], states)
        checker.check_no_nan(name, "state", state)
        checker.check_observation(name, observation)


def check_step_from_noise(
    checker: "Checker", key: jax.Array, state: Any, action: Any, pair: Any
) -> None:
    """Checks that `step_from_noise` keeps the types and spaces of `step`."""
    name, function = "step_from_noise", checker.env.step_from_noise
    noise = _draws(checker, key, "step_noise", "step")
    inputs = state, action, checker.params
    checker.check_types(
        name,
        "step's",
        pair,
        _from_noise(checker, name, "step_noise", noise[0], *inputs),
    )
    checker.check_deterministic(name, function, noise[0], *inputs)
    every = jax.jit(jax.vmap(function, in_axes=(0, None, None, None)))(noise, *inputs)
    for draw in range(len(noise)):
        state, timestep = jax.tree.map(lambda x, draw=draw: x[draw], every)
        checker.check_no_nan(name, "state", state)
        checker.check_observation(name, timestep.observation)


def check_log_probs(
    checker: "Checker", start: Any, action: Any, next_state: Any
) -> None:
    """Checks that `log_prob_reset` and `log_prob_step` are finite for sampled states."""
    for name, *inputs in (
        ("log_prob_reset", start),
        ("log_prob_step", start, action, next_state),
    ):
        if not hasattr(checker.env, name):
            continue
        function = getattr(checker.env, name)
        value = jnp.asarray(checker.traced(name, function, *inputs, checker.params))
        is_float = jnp.issubdtype(value.dtype, jnp.floating)
        if value.shape != () or not is_float or not jnp.isfinite(value):
            checker.fail(
                f"{name} gives {value} for a state that the environment made",
                "its log-density is a finite floating scalar",
                "compare with the arithmetic of reset and step, up to rounding",
            )


def check_draw(checker: "Checker", start: Any, action: Any, next_state: Any) -> None:
    """Checks that `draw` gives valid pictures of a start and of a step."""
    for state, last in ((start, None), (next_state, action)):
        # NumPy scalars and arrays, as a replay passes them.
        host = jax.tree.map(lambda x: np.asarray(x)[()], jax.device_get((state, last)))
        try:
            picture = checker.env.draw(*host, checker.params)
        except Exception as error:
            checker.fail(
                f"cannot draw {'a start' if last is None else 'a step'}: "
                f"{type(error).__name__}: {error}",
                "draw(state, action, params) takes one state, and the action that led to "
                "it or None at the start",
                "correct draw",
            )
        try:
            check_picture(picture, "the picture")
        except ValueError as error:
            checker.fail(
                f"draws what cannot be painted: {str(error).removesuffix('.')}",
                "a picture has a window and shapes of rljax.envs.drawing",
                "correct draw",
            )


def _draws(checker: "Checker", key: jax.Array, count_name: str, what: str) -> jax.Array:
    """Uniform noise `[draws, count]`: random, and both ends of [0, 1)."""
    count: Any = getattr(checker.env, count_name, None)
    if not isinstance(count, int):
        checker.fail(
            f"makes a {what} from noise and has {count_name} = {count!r}",
            f"{count_name} says how many uniform numbers a {what} takes",
            "make it an int",
        )
    last = np.nextafter(1, 0, dtype="f")
    ends = jnp.stack([jnp.zeros(count), jnp.full(count, last)])
    return jnp.concatenate([jax.random.uniform(key, (_NUM_DRAWS, count)), ends])


def _from_noise(
    checker: "Checker", name: str, count_name: str, noise: jax.Array, *inputs: Any
) -> Any:
    try:
        return checker.traced(name, getattr(checker.env, name), noise, *inputs)
    except (TypeError, ValueError, IndexError) as error:
        if str(error).startswith(type(checker.env).__name__):
            raise
        first_line = str(error).strip().splitlines()[0]
        checker.fail(
            f"{name} fails on {count_name} = {len(noise)} numbers: {first_line}",
            f"it takes noise of shape [{count_name}]",
            f"correct {count_name}",
        )
