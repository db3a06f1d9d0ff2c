"""Checks of what an environment may have beside its four methods; see `checks.py`."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.drawing import check_picture

if TYPE_CHECKING:
    from rljax.envs.conformance import Checker

_NUM_DRAWS = 64


def check_reset_from_noise(
    check: "Checker", key: jax.Array, state: Any, observation: Any
) -> None:
    """Starts made from noise are of the kind that `reset` makes."""
    name, function = "reset_from_noise", check.env.reset_from_noise
    noise = _draws(check, key, "num_noise", "start")
    pair = _from_noise(check, name, "num_noise", noise[0], check.params)
    check.same_types(name, "reset's", (state, observation), pair)
    check.same_twice(name, function, noise[0], check.params)
    states = jax.jit(jax.vmap(function, in_axes=(0, None)))(noise, check.params)
    for start in range(len(noise)):
        state, observation = jax.tree.map(lambda x, start=start: x[start], states)
        check.no_nan(name, "state", state)
        check.in_space(name, observation)


def check_step_from_noise(
    check: "Checker", key: jax.Array, state: Any, action: Any, pair: Any
) -> None:
    """Steps made from noise are of the kind that `step` makes."""
    name, function = "step_from_noise", check.env.step_from_noise
    noise = _draws(check, key, "step_noise", "step")
    inputs = state, action, check.params
    check.same_types(
        name, "step's", pair, _from_noise(check, name, "step_noise", noise[0], *inputs)
    )
    check.same_twice(name, function, noise[0], *inputs)
    every = jax.jit(jax.vmap(function, in_axes=(0, None, None, None)))(noise, *inputs)
    for draw in range(len(noise)):
        state, timestep = jax.tree.map(lambda x, draw=draw: x[draw], every)
        check.no_nan(name, "state", state)
        check.in_space(name, timestep.observation)


def check_log_probs(check: "Checker", start: Any, action: Any, next_state: Any) -> None:
    """What the environment itself did has a finite log-density."""
    for name, *inputs in (
        ("log_prob_reset", start),
        ("log_prob_step", start, action, next_state),
    ):
        if not hasattr(check.env, name):
            continue
        function = getattr(check.env, name)
        value = jnp.asarray(check.traced(name, function, *inputs, check.params))
        is_float = jnp.issubdtype(value.dtype, jnp.floating)
        if value.shape != () or not is_float or not jnp.isfinite(value):
            check.fail(
                f"{name} gives {value} for what the environment itself did",
                "it is the log-density of that: a finite floating scalar",
                "compare with the arithmetic of reset and step, up to rounding",
            )


def check_draw(check: "Checker", start: Any, action: Any, next_state: Any) -> None:
    """Pictures of a start and of what followed can be painted."""
    for state, last in ((start, None), (next_state, action)):
        # NumPy scalars and arrays, as a replay passes them.
        host = jax.tree.map(lambda x: np.asarray(x)[()], jax.device_get((state, last)))
        try:
            picture = check.env.draw(*host, check.params)
        except Exception as error:
            check.fail(
                f"cannot draw {'a start' if last is None else 'a step'}: "
                f"{type(error).__name__}: {error}",
                "draw(state, action, params) takes one state, and the action that led to "
                "it or None at the start",
                "correct draw",
            )
        try:
            check_picture(picture, "the picture")
        except ValueError as error:
            check.fail(
                f"draws what cannot be painted: {str(error).removesuffix('.')}",
                "a picture has a window and shapes of rljax.envs.drawing",
                "correct draw",
            )


def _draws(check: "Checker", key: jax.Array, count_name: str, what: str) -> jax.Array:
    """Noise at both its ends and at random places, `[draws, count]`."""
    count: Any = getattr(check.env, count_name, None)
    if not isinstance(count, int):
        check.fail(
            f"makes a {what} from noise and has {count_name} = {count!r}",
            f"{count_name} says how many uniform numbers a {what} takes",
            "make it an int",
        )
    last = np.nextafter(1, 0, dtype="f")
    ends = jnp.stack([jnp.zeros(count), jnp.full(count, last)])
    return jnp.concatenate([jax.random.uniform(key, (_NUM_DRAWS, count)), ends])


def _from_noise(
    check: "Checker", name: str, count_name: str, noise: jax.Array, *inputs: Any
) -> Any:
    try:
        return check.traced(name, getattr(check.env, name), noise, *inputs)
    except (TypeError, ValueError, IndexError) as error:
        if str(error).startswith(type(check.env).__name__):
            raise
        first_line = str(error).strip().splitlines()[0]
        check.fail(
            f"{name} fails on {count_name} = {len(noise)} numbers: {first_line}",
            f"it takes noise of shape [{count_name}]",
            f"correct {count_name}",
        )
