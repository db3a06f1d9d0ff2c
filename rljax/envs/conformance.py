"""A conformance test for any environment, to be called from its author's own tests."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import TimeStep
from rljax.envs.conformance_hooks import (
    check_draw,
    check_log_probs,
    check_reset_from_noise,
    check_step_from_noise,
)

_NUM_LANES = 4
_NUM_STARTS = 64


def check_environment(
    env: Any, params: Any, key: jax.Array, *, num_steps: int = 200
) -> None:
    """Checks that an environment keeps the contract of `rljax.base.Environment`.

    It must be hashable; jit, with its parameters traced; vmap, its lanes independent of
    one another; keep the shapes and dtypes of its state, so that a scan can carry it;
    give float32 rewards and bool flags, and observations within their space; depend on
    nothing but its arguments; consume a key at most once; and never make NaN. What it
    may have beside its four methods is checked where it has it.

    Args:
        env: the environment.
        params: its parameters.
        key: consumed; seeds the starts and the actions, which are drawn at random.
        num_steps: how many steps to play on each of a few lanes.

    Raises:
        ValueError: it does not; the message names the function, the field and the step.

    Example:
        check_environment(MyEnvironment(), MyParams(), jax.random.key(0))
    """
    check = Checker(env, params)
    starts_key, *noise_keys, play_key = jax.random.split(key, 4)
    play_key, *keys = jax.random.split(play_key, 1 + 3 * _NUM_LANES)
    # Comparing two calls on the same key is the point here; `traced` watches for reuse.
    with jax.debug_key_reuse(False):
        check.has_members()
        for reset_key, action_key, step_key in zip(*[iter(keys)] * 3, strict=True):
            state, observation = check.reset(reset_key)
            action = check.space("action_space").sample(action_key)
            pair = check.step(step_key, state, action)
        check.starts(starts_key)
        if hasattr(env, "reset_from_noise"):
            check_reset_from_noise(check, noise_keys[0], state, observation)
        if hasattr(env, "step_from_noise"):
            check_step_from_noise(check, noise_keys[1], state, action, pair)
        check_log_probs(check, state, action, pair[0])
        if hasattr(env, "draw"):
            check_draw(check, state, action, pair[0])
        check.play(play_key, num_steps)


class Checker:
    """The checks in order; each may rely on those before it."""

    def __init__(self, env: Any, params: Any):
        self.env, self.params = env, params

    def has_members(self) -> None:
        """It has the four methods, a hash, and numbers for parameters."""
        for name in ("reset", "step", "observation_space", "action_space"):
            if not callable(getattr(self.env, name, None)):
                self.fail(
                    f"has no method {name}",
                    "an environment has reset, step, observation_space and action_space",
                    "see rljax.base.Environment",
                )
        try:
            hash(self.env)
        except TypeError:
            self.fail(
                "is not hashable",
                "compiled programs are kept by environment",
                "make it a frozen dataclass, and put arrays into params",
            )
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.params):
            if not isinstance(
                leaf, bool | int | float | np.ndarray | np.generic | jax.Array
            ):
                self.fail(
                    f"has params{jax.tree_util.keystr(path)} = {leaf!r}",
                    "parameters are numbers, which may be traced",
                    "make what is not a number a field of the environment",
                )

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        """One start; returns the state and the observation."""
        pair = self.traced("reset", self.env.reset, key, self.params)
        if not isinstance(pair, tuple) or len(pair) != 2:
            self.fail(
                f"reset returned {type(pair).__name__}",
                "reset returns (state, observation)",
                "return that pair",
            )
        self.same_twice("reset", self.env.reset, key, self.params)
        state, observation = pair
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if getattr(leaf, "weak_type", False):
                self.fail(
                    f"reset's state{jax.tree_util.keystr(path)} came from a Python "
                    f"number, which has no dtype of its own",
                    "state leaves have a dtype",
                    "write jnp.float32(...) or jnp.int32(...)",
                )
        self.no_nan("reset", "state", state)
        self.in_space("reset", observation)
        return state, observation

    def starts(self, key: jax.Array) -> None:
        """Many start states, since a rare one may be at fault."""
        keys = jax.random.split(key, _NUM_STARTS)
        batched = jax.jit(jax.vmap(self.env.reset, in_axes=(0, None)))(
            keys, self.params
        )
        single = jax.jit(lambda ks: jax.lax.map(self.reset_alone, ks))(keys)
        for start in range(_NUM_STARTS):
            state, observation = _lane(batched, start)
            self.no_nan("reset", "state", state)
            self.in_space("reset", observation)
            self.lanes_equal("reset", start, _lane(single, start), (state, observation))

    def reset_alone(self, key: jax.Array) -> Any:
        """`reset` as a function of the key only."""
        return self.env.reset(key, self.params)

    def step(self, key: jax.Array, state: Any, action: Any) -> tuple[Any, TimeStep]:
        """One step; returns what it gave."""
        pair = self.traced("step", self.env.step, key, state, action, self.params)
        is_tuple = isinstance(pair, tuple)
        if not is_tuple or len(pair) != 2 or not isinstance(pair[1], TimeStep):
            kinds = (
                [type(x).__name__ for x in pair] if is_tuple else type(pair).__name__
            )
            self.fail(
                f"step returned {kinds}",
                "step returns (state, TimeStep)",
                "return that pair",
            )
        next_state, timestep = pair
        self.same_types("step", "the given", state, next_state)
        for field, dtype in (
            ("reward", "float32"),
            ("terminated", "bool"),
            ("truncated", "bool"),
        ):
            leaf = jnp.asarray(getattr(timestep, field))
            if leaf.shape != () or leaf.dtype != dtype:
                self.fail(
                    f"step's {field} is {leaf.dtype}{list(leaf.shape)}",
                    f"{field} is a {dtype} scalar",
                    f"convert it with .astype({dtype!r}) and drop any axis",
                )
        self.in_space("step", timestep.observation)
        self.same_twice("step", self.env.step, key, state, action, self.params)
        return next_state, timestep

    def play(self, key: jax.Array, num_steps: int) -> None:
        """Plays a few lanes at once, comparing each step with the same lane alone."""
        played = jax.jit(self.rollout, static_argnums=1)(key, num_steps)
        single, together, time = jax.device_get(_without_keys(played))
        for t in range(num_steps):
            for lane in range(_NUM_LANES):
                where = f" at step {time[t, lane] + 1} of an episode"
                state, step = _lane(_lane(together, t), lane)
                self.lanes_equal(
                    "step", lane, _lane(_lane(single, t), lane), (state, step)
                )
                self.no_nan("step", "state", state, where)
                self.no_nan("step", "observation", step.observation, where)
                self.no_nan("step", "reward", step.reward, where)
                if not np.isfinite(step.reward):
                    self.fail(
                        f"step's reward is {step.reward}{where}",
                        "rewards are finite",
                        "bound it",
                    )
                self.in_space("step", step.observation, where)

    def rollout(self, key: jax.Array, num_steps: int) -> Any:
        """Steps `[num_steps, lanes]`, each alone and all together, and their times."""
        sample = jax.vmap(self.space("action_space").sample)
        reset = jax.vmap(self.env.reset, in_axes=(0, None))
        together = jax.vmap(self.env.step, in_axes=(0, 0, 0, None))

        def step(carry, _):
            key, state, time = carry
            key, *subkeys = jax.random.split(key, 4)
            action_keys, step_keys, reset_keys = (
                jax.random.split(subkey, _NUM_LANES) for subkey in subkeys
            )
            inputs = step_keys, state, sample(action_keys)
            result = together(*inputs, self.params)
            alone = jax.lax.map(lambda x: self.env.step(*x, self.params), inputs)
            done = result[1].terminated | result[1].truncated
            state = jax.tree.map(
                lambda a, b: jnp.where(done.reshape(-1, *[1] * (a.ndim - 1)), a, b),
                reset(reset_keys, self.params)[0],
                result[0],
            )
            return (key, state, jnp.where(done, 0, time + 1)), (alone, result, time)

        key, reset_key = jax.random.split(key)
        state, _ = reset(jax.random.split(reset_key, _NUM_LANES), self.params)
        time = jnp.zeros(_NUM_LANES, jnp.int32)
        return jax.lax.scan(step, (key, state, time), length=num_steps)[1]

    def traced(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Runs a function under jit, all its arguments traced, watching its keys."""
        try:
            with jax.debug_key_reuse(True):
                return jax.jit(function)(*args)
        except jax.errors.UnexpectedTracerError as error:
            self.fail(
                f"{name} keeps a traced value beyond its call: {_first_line(error)}",
                "an environment has no memory but its state",
                "return in the state whatever is needed later",
            )
        except jax.errors.KeyReuseError as error:
            self.fail(
                f"{name} uses its key twice: {_first_line(error)}",
                "a key is consumed once",
                "split it: first, second = jax.random.split(key)",
            )
        except (
            jax.errors.ConcretizationTypeError,
            jax.errors.TracerArrayConversionError,
            jax.errors.TracerIntegerConversionError,
            jax.errors.NonConcreteBooleanIndexError,
        ) as error:
            self.fail(
                f"{name} does not jit: {_first_line(error)}",
                "state, action and params are traced",
                "use jnp.where or jax.lax.cond in place of Python's if, and jnp in "
                "place of math and numpy",
            )

    def same_twice(self, name: str, function: Callable[..., Any], *args: Any) -> None:
        """The same arguments give the same results: twice by hand, and compiled."""
        first, second = function(*args), function(*args)
        compiled = jax.jit(function)(*args)
        for path, a, b, c in _zip_leaves(first, second, compiled):
            if not np.array_equal(a, b, equal_nan=True) or not _close(a, c):
                self.fail(
                    f"{name}'s {path} differs from call to call on the same arguments",
                    "an environment depends on nothing but its arguments",
                    "draw random numbers from the key with jax.random, and keep "
                    "everything that changes in the state",
                )

    def same_types(self, name: str, whose: str, wanted: Any, found: Any) -> None:
        """The same structure, shapes and dtypes, so that a scan can carry the state."""
        rule = f"{name} keeps the shapes and dtypes of {whose} state"
        had: Any = jax.tree.structure(wanted)
        has: Any = jax.tree.structure(found)
        if had != has:
            self.fail(
                f"{name}'s result has the structure {has}, not {had}",
                rule,
                "return the same fields",
            )
        wanted_leaves = jax.tree_util.tree_leaves_with_path(wanted)
        for (path_of, a), b in zip(wanted_leaves, jax.tree.leaves(found), strict=True):
            path = jax.tree_util.keystr(path_of).lstrip(".")
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                self.fail(
                    f"{name} turns {path} from {a.dtype}{list(a.shape)} into "
                    f"{b.dtype}{list(b.shape)}",
                    rule,
                    f"convert it with .astype({str(a.dtype)!r})",
                )

    def space(self, name: str) -> Any:
        """The space that a method of this name gives."""
        return getattr(self.env, name)(self.params)

    def in_space(self, name: str, observation: Any, where: str = "") -> None:
        """The observation lies in its space."""
        space = self.space("observation_space")
        try:
            inside = jax.tree.map(
                lambda space, x: bool(space.contains(x)),
                space,
                observation,
                is_leaf=lambda x: hasattr(x, "contains"),
            )
        except (TypeError, ValueError):  # not the same structure
            inside = False
        if not jax.tree.all(inside):
            self.fail(
                f"{name}'s observation {_text(observation)} lies outside {space}{where}",
                "every observation lies in observation_space(params)",
                "widen the space, or convert the observation",
            )

    def no_nan(self, name: str, field: str, tree: Any, where: str = "") -> None:
        """No number in the tree is NaN."""
        for path, value in _paths_and_values(tree):
            if np.issubdtype(value.dtype, np.floating) and np.isnan(value).any():
                self.fail(
                    f"{name} made NaN in {field}{path}{where}",
                    "no number is NaN",
                    "guard divisions, roots and logarithms",
                )

    def lanes_equal(self, name: str, lane: int, alone: Any, together: Any) -> None:
        """A lane gives the same alone as among others."""
        for path, a, b in _zip_leaves(alone, together):
            if not _close(a, b):
                self.fail(
                    f"{name}'s {path} of lane {lane} among several is {b}, and "
                    f"{a} on its own",
                    "lanes are independent of one another",
                    "let each lane depend on its own state, action and key only",
                )

    def fail(self, fault: str, rule: str, remedy: str) -> None:
        """Raises the error: what was found, the rule, the remedy."""
        raise ValueError(
            f"{type(self.env).__name__} {fault}. Rule: {rule}. {_upper(remedy)}."
        )


def _zip_leaves(*trees: Any):
    """Corresponding leaves with the path of the first, as NumPy."""
    for leaves in zip(*map(_paths_and_values, trees), strict=True):
        path = leaves[0][0].lstrip(".")
        yield path, *(value for _, value in leaves)


def _paths_and_values(tree: Any) -> list[tuple[str, np.ndarray]]:
    leaves = jax.tree_util.tree_leaves_with_path(_without_keys(tree))
    return [(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves]


def _without_keys(tree: Any) -> Any:
    """Typed keys as the bits they are, for NumPy to see."""

    def plain(x):
        is_key = isinstance(x, jax.Array) and jnp.issubdtype(
            x.dtype, jax.dtypes.prng_key
        )
        return jax.random.key_data(x) if is_key else x

    return jax.tree.map(plain, tree)


def _text(tree: Any) -> str:
    """Dtype, shape and values of an observation."""
    shown = [
        f"{x.dtype}{list(x.shape)} {np.array2string(x, threshold=8)}"
        for _, x in _paths_and_values(tree)
    ]
    return ", ".join(shown)


def _lane(tree: Any, lane: int) -> Any:
    return jax.tree.map(lambda x: x[lane], tree)


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to the rounding that fusing operations may change."""
    if np.issubdtype(a.dtype, np.floating):
        return np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
    return np.array_equal(a, b)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
