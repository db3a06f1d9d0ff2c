"""Checks of the optional methods of an environment; see `rljax.envs.conformance`."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.drawing import check_picture

if TYPE_CHECKING:
    from rljax.envs.conformance import Checker

_NUM_DRAWS = 64


def check_from_noise(
    checker: "Checker",
    method: str,
    count_name: str,
    key: jax.Array,
    inputs: tuple[Any, ...],
    wanted: Any,
) -> None:
    """Checks that `{method}_from_noise`, if any, keeps types and spaces of `method`.

    Its arguments are the noise, as many numbers as the attribute `count_name`, then
    `inputs` and the parameters; `wanted` is a result of `method`, "reset" or "step".
    """
    name = f"{method}_from_noise"
    function = getattr(checker.env, name, None)
    if function is None:
        return
    noise = _draws(checker, key, count_name, "start" if method == "reset" else method)
    inputs = *inputs, checker.params
    try:
        found = checker.traced(name, function, noise[0], *inputs)
    except (TypeError, ValueError, IndexError) as error:
        if str(error).startswith(type(checker.env).__name__):
            raise
        checker.fail(
            f"{name} fails on {count_name} = {noise.shape[1]} numbers: "
            f"{first_line(error)}",
            f"it takes noise of shape [{count_name}]",
            f"correct {count_name}",
        )
    checker.check_types(name, f"{method}'s", wanted, found)
    checker.check_deterministic(name, found, function, noise[0], *inputs)
    every = jax.jit(jax.vmap(lambda row: function(row, *inputs)))(noise)
    every = jax.device_get(without_keys(every))
    for draw in range(len(noise)):
        state, seen = pick(every, draw)
        observation = seen if method == "reset" else seen.observation
        checker.check_start(name, state, observation)


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
            f"{count_name} is how many uniform numbers a {what} takes",
            "make it an int",
        )
    last = np.nextafter(1, 0, dtype="f")
    ends = jnp.stack([jnp.zeros(count), jnp.full(count, last)])
    return jnp.concatenate([jax.random.uniform(key, (_NUM_DRAWS, count)), ends])


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return str(error).strip().splitlines()[0]


def pick(tree: Any, index: Any) -> Any:
    """The element of each leaf at an index."""
    return jax.tree.map(lambda x: x[index], tree)


def without_keys(tree: Any) -> Any:
    """The tree with typed keys as their bits, which NumPy can hold."""

    def plain(x):
        is_key = isinstance(x, jax.Array) and jnp.issubdtype(
            x.dtype, jax.dtypes.prng_key
        )
        return jax.random.key_data(x) if is_key else x

    return jax.tree.map(plain, tree)
