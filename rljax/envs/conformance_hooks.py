"""Checks of the optional methods of an environment; see `rljax.envs.conformance`."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs.drawing import check_picture
from rljax.envs.hooks import find_hook, find_owner
from rljax.envs.spaces import num_choices, split_choices, split_mask
from rljax.numerics.random import is_key

if TYPE_CHECKING:
    from rljax.envs.conformance import Checker

_NUM_DRAWS = 64
_NUM_COMPARED = 1024


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
    function = _find(checker, name, method)
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
    _check_same_distribution(checker, method, name, function, key, noise, inputs)


def _find(checker: "Checker", name: str, method: str) -> Any:
    """The optional method, if it is used; fails if it should be and cannot."""
    env = checker.env
    owner, other = find_owner(env, name), find_owner(env, method)
    classes = isinstance(owner, type) and isinstance(other, type)
    if classes and owner is not other and issubclass(owner, other):
        checker.fail(
            f"has {name} in {owner.__name__} and {method} in {other.__name__}, so that "
            f"{name} is not used",
            "an optional method counts in the class that defines what it stands for",
            f"write {method} = {other.__name__}.{method} beside it if it stands for that",
        )
    return find_hook(env, name, method)


def _check_same_distribution(
    checker: "Checker",
    method: str,
    name: str,
    function: Any,
    key: jax.Array,
    noise: jax.Array,
    inputs: tuple[Any, ...],
) -> None:
    """Checks that a method and its noise hook draw alike: Kolmogorov and Smirnov's test.

    Of every number of state, observation and reward, over starts or over steps from one
    state. A good environment fails by chance less than once in 10**8.
    """
    step_key, noise_key = jax.random.split(key)
    keys = jax.random.split(step_key, _NUM_COMPARED)
    noise = jax.random.uniform(noise_key, (_NUM_COMPARED, noise.shape[1]), jnp.float32)
    by_key = jax.vmap(lambda key: getattr(checker.env, method)(key, *inputs))
    by_noise = jax.vmap(lambda row: function(row, *inputs))
    drawn = jax.jit(lambda keys, noise: (by_key(keys), by_noise(noise)))(keys, noise)
    leaves = [jax.tree.leaves_with_path(side) for side in drawn]
    for (path, a), (_, b) in zip(*leaves, strict=True):
        if is_key(a):
            continue
        columns = [np.float64(x).reshape(_NUM_COMPARED, -1)[:, :64] for x in (a, b)]
        bound = np.sqrt(np.log(2e8 * len(leaves[0]) * 64) / _NUM_COMPARED)
        for first, second in zip(*(x.T for x in columns), strict=True):
            if (distance := _distance(first, second)) > bound:
                checker.fail(
                    f"{name} and {method} draw {jax.tree_util.keystr(path).lstrip('.')} "
                    f"from different distributions: means {second.mean():g} and "
                    f"{first.mean():g}, distance {distance:.2f}",
                    f"{name} is {method} with its random numbers given",
                    f"let {method} draw the noise and call {name}",
                )


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """How far apart two empirical distribution functions are, but for rounding."""
    a, b = np.sort(a), np.sort(b)
    rounding = 1e-5 * max(1e-3, *np.abs(a[[0, -1]]), *np.abs(b[[0, -1]]))

    def above(x, y):
        ranks = np.arange(1, len(x) + 1)
        return np.max(ranks - np.searchsorted(y, x + rounding, side="right")) / len(x)

    return max(above(a, b), above(b, a))


def check_mask(checker: "Checker", name: str, observation: Any, where: str) -> None:
    """Checks that an action mask, if there is one, fits the actions and allows some."""
    mask = split_mask(observation)[1]
    if mask is None:
        return
    space = checker.space("action_space")
    sizes = num_choices(space)
    if sizes is None or mask.shape != (sum(sizes),) or mask.dtype != np.bool_:
        checker.fail(
            f"{name}'s observation has an action_mask, {mask.dtype}{list(mask.shape)}, "
            f"beside the action space {space}",
            "a mask has a bool for each action of a Discrete space, or for those of all "
            "choices of a MultiDiscrete one after the other",
            "give it that shape and dtype, or another name",
        )
    if not all(np.any(choice) for choice in split_choices(mask, sizes)):
        checker.fail(
            f"{name}'s observation has an action_mask that allows no action{where}",
            "some action is always allowed, of each choice",
            "end the episode instead",
        )


def check_log_probs(
    checker: "Checker", start: Any, action: Any, next_state: Any
) -> None:
    """Checks that `log_prob_reset` and `log_prob_step` are finite for sampled states."""
    for name, *inputs in (
        ("log_prob_reset", start),
        ("log_prob_step", start, action, next_state),
    ):
        function = _find(checker, name, name.removeprefix("log_prob_"))
        if function is None:
            continue
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
        # NumPy scalars and arrays, and typed keys, as a replay passes them.
        host = jax.tree.map(
            lambda x: x if is_key(x) else np.asarray(x)[()], (state, last)
        )
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
    ends = np.stack([np.zeros(count, "f"), np.full(count, last)])
    drawn = jax.random.uniform(key, (_NUM_DRAWS, count), jnp.float32)
    return jnp.concatenate([drawn, ends])


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return str(error).strip().splitlines()[0]


def pick(tree: Any, index: Any) -> Any:
    """The element of each leaf at an index."""
    return jax.tree.map(lambda x: x[index], tree)


def without_keys(tree: Any) -> Any:
    """The tree with typed keys as their bits, which NumPy can hold."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)
