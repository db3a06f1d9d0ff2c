"""A conformance test for environments, to be called from the tests of a new one."""

from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import TimeStep
from rljax.envs.conformance_hooks import (
    check_draw,
    check_from_noise,
    check_log_probs,
    check_mask,
    first_line,
    pick,
    without_keys,
)
from rljax.envs.hooks import find_owner
from rljax.envs.spaces import is_space, sample_action
from rljax.envs.variation import one_of
from rljax.envs.vector import choose

_NUM_ENVS = 4
_NUM_STARTS = 64


def check_environment(
    env: Any, params: Any, key: jax.Array, *, num_steps: int = 200
) -> None:
    """Checks that an environment keeps the contract of `rljax.base.Environment`.

    It must be hashable; jit, with its parameters traced; vmap, with no effect of one
    environment on another; keep the shapes and dtypes of its state, so that a scan can
    carry it; give float32 rewards and bool flags, and observations within their space;
    depend on nothing but its arguments; consume a key at most once; and never make NaN.
    Optional methods are checked if it has them.

    Args:
        env: the environment.
        params: its parameters; of a `ParamsPerEnv` the first.
        key: consumed; seeds the starts and the actions, which are drawn at random.
        num_steps: steps to play in each of a few environments.

    Raises:
        ValueError: it breaks the contract; the message names the function, the field
            and the step.

    Example:
        check_environment(MyEnvironment(), MyParams(), jax.random.key(0))
    """
    checker = Checker(env, one_of(params))
    # Of this kind an environment's numbers are the same in a batch and alone; of others,
    # such as "rbg", they never are.
    words = jax.random.bits(key, (2,), jnp.uint32)
    key = jax.random.wrap_key_data(words, impl="threefry2x32")
    starts_key, *noise_keys, play_key = jax.random.split(key, 4)
    play_key, *keys = jax.random.split(play_key, 1 + 3 * _NUM_ENVS)
    # Comparing two calls on the same key is the point here; `traced` watches for reuse.
    with jax.debug_key_reuse(False):
        checker.check_members()
        for reset_key, action_key, step_key in zip(*[iter(keys)] * 3, strict=True):
            state, observation = checker.reset(reset_key)
            action = checker.sample(action_key, observation)
            pair = checker.step(step_key, state, action)
        checker.starts(starts_key)
        start = state, observation
        check_from_noise(checker, "reset", "num_noise", noise_keys[0], (), start)
        inputs = state, action
        check_from_noise(checker, "step", "step_noise", noise_keys[1], inputs, pair)
        check_log_probs(checker, state, action, pair[0])
        if find_owner(env, "draw"):
            check_draw(checker, state, action, pair[0])
        checker.play(play_key, num_steps)


class Checker:
    """The checks of one environment with its parameters; each raises a ValueError."""

    def __init__(self, env: Any, params: Any):
        self.env, self.params = env, params
        self._traced_anew: dict[str, Callable[..., Any]] = {}

    def check_members(self) -> None:
        """Checks that it has the four methods, a hash, and numbers for parameters."""
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
        for path, leaf in jax.tree.leaves_with_path(self.params):
            if not isinstance(
                leaf, bool | int | float | np.ndarray | np.generic | jax.Array
            ):
                self.fail(
                    f"has params{jax.tree_util.keystr(path)} = {leaf!r}",
                    "parameters are numbers, which may be traced",
                    "make what is not a number a field of the environment",
                )

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        """Checks one start; returns the state and the observation."""
        pair = self.traced("reset", self.env.reset, key, self.params)
        if not isinstance(pair, tuple) or len(pair) != 2:
            self.fail(
                f"reset returned {type(pair).__name__}",
                "reset returns (state, observation)",
                "return that pair",
            )
        self.check_deterministic("reset", pair, self.env.reset, key, self.params)
        state, observation = pair
        for path, leaf in jax.tree.leaves_with_path(state):
            if getattr(leaf, "weak_type", False):
                self.fail(
                    f"reset's state{jax.tree_util.keystr(path)} came from a Python "
                    "number, which is weakly typed",
                    "state leaves have a dtype",
                    "write jnp.float32(...) or jnp.int32(...)",
                )
        self.check_start("reset", state, observation)
        return state, observation

    def starts(self, key: jax.Array) -> None:
        """Checks many start states, since a rare one may be at fault."""
        keys = jax.random.split(key, _NUM_STARTS)

        def reset(key):
            return self.env.reset(key, self.params)

        both = jax.jit(lambda keys: (jax.vmap(reset)(keys), jax.lax.map(reset, keys)))
        together, alone = jax.device_get(without_keys(both(keys)))
        for start in range(_NUM_STARTS):
            pair = pick(together, start)
            self.check_start("reset", *pair)
            self.check_independent("reset", start, pick(alone, start), pair)

    def check_start(self, name: str, state: Any, observation: Any) -> None:
        """Checks that a state has no NaN, and its observation lies within the space."""
        self.check_no_nan(name, "state", state)
        self.check_observation(name, observation)

    def step(self, key: jax.Array, state: Any, action: Any) -> tuple[Any, TimeStep]:
        """Checks one step; returns the next state and the time step."""
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
        self.check_types("step", "the previous", state, next_state)
        dtypes = {"reward": "float32", "terminated": "bool", "truncated": "bool"}
        for field, dtype in dtypes.items():
            leaf = jnp.asarray(getattr(timestep, field))
            if leaf.shape != () or leaf.dtype != dtype:
                self.fail(
                    f"step's {field} is {leaf.dtype}{list(leaf.shape)}",
                    f"{field} is a {dtype} scalar",
                    f"convert it with .astype({dtype!r}) and drop any axis",
                )
        self.check_observation("step", timestep.observation)
        inputs = key, state, action, self.params
        self.check_deterministic("step", pair, self.env.step, *inputs)
        return next_state, timestep

    def play(self, key: jax.Array, num_steps: int) -> None:
        """Checks each step in a few environments at once against the same step alone."""
        played = jax.jit(self.rollout, static_argnums=1)(key, num_steps)
        alone, together, time = jax.device_get(without_keys(played))
        for index in np.ndindex(time.shape):
            where = f" at step {time[index] + 1} of an episode"
            state, step = pair = pick(together, index)
            self.check_independent("step", index[1], pick(alone, index), pair)
            for field, tree in ("state", state), *step._asdict().items():
                self.check_no_nan("step", field, tree, where)
            if not np.isfinite(step.reward):
                self.fail(
                    f"step's reward is {step.reward}{where}",
                    "rewards are finite",
                    "bound it",
                )
            self.check_observation("step", step.observation, where)

    def rollout(self, key: jax.Array, num_steps: int) -> Any:
        """Steps `[num_steps, B]`, each alone and all together, and their times."""
        sample = jax.vmap(self.sample)
        reset = jax.vmap(self.env.reset, in_axes=(0, None))
        together = jax.vmap(self.env.step, in_axes=(0, 0, 0, None))

        def step(carry, _):
            key, state, observation, time = carry
            key, *subkeys = jax.random.split(key, 4)
            action_keys, step_keys, reset_keys = (
                jax.random.split(subkey, _NUM_ENVS) for subkey in subkeys
            )
            inputs = step_keys, state, sample(action_keys, observation)
            result = together(*inputs, self.params)
            alone = jax.lax.map(lambda x: self.env.step(*x, self.params), inputs)
            done = result[1].terminated | result[1].truncated
            fresh = reset(reset_keys, self.params)
            after = choose(done, fresh, (result[0], result[1].observation))
            time_after = jnp.where(done, 0, time + 1)
            return (key, *after, time_after), (alone, result, time)

        key, reset_key = jax.random.split(key)
        start = reset(jax.random.split(reset_key, _NUM_ENVS), self.params)
        time = jnp.zeros(_NUM_ENVS, jnp.int32)
        return jax.lax.scan(step, (key, *start, time), length=num_steps)[1]

    def traced(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Runs a function under jit with all arguments traced and key reuse detected."""
        try:
            with jax.debug_key_reuse(True):
                return jax.jit(function)(*args)
        except jax.errors.UnexpectedTracerError as error:
            self.fail(
                f"{name} keeps a traced value beyond its call: {first_line(error)}",
                "an environment has no memory but its state",
                "return in the state whatever is needed later",
            )
        except jax.errors.KeyReuseError as error:
            self.fail(
                f"{name} uses its key twice: {first_line(error)}",
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
                f"{name} does not jit: {first_line(error)}",
                "state, action and params are traced",
                "use jnp.where or jax.lax.cond in place of Python's if, and jnp in "
                "place of math and numpy",
            )

    def check_deterministic(
        self, name: str, found: Any, function: Callable[..., Any], *args: Any
    ) -> None:
        """Checks that the function gives what it gave before, traced and run anew."""
        anew = jax.jit(lambda *args: function(*args))
        program = self._traced_anew.setdefault(name, anew)
        for path, *values in _zip_leaves(found, program(*args), program(*args)):
            if not all(np.array_equal(values[0], x, equal_nan=True) for x in values):
                self.fail(
                    f"{name}'s {path} differs from call to call on the same arguments",
                    "an environment depends on nothing but its arguments",
                    "draw random numbers from the key with jax.random, and keep "
                    "everything that changes in the state",
                )

    def check_types(self, name: str, origin: str, wanted: Any, found: Any) -> None:
        """Checks that structure, shapes and dtypes are kept, as a scan's carry needs."""
        rule = f"{name} keeps the shapes and dtypes of {origin} state"
        wanted_structure: Any = jax.tree.structure(wanted)
        found_structure: Any = jax.tree.structure(found)
        if wanted_structure != found_structure:
            self.fail(
                f"{name}'s result has the structure {found_structure}, not "
                f"{wanted_structure}",
                rule,
                "return the same fields",
            )
        leaves = jax.tree.leaves_with_path(wanted)
        for (path, a), b in zip(leaves, jax.tree.leaves(found), strict=True):
            if (a.shape, a.dtype) != (b.shape, b.dtype):
                self.fail(
                    f"{name} turns {jax.tree_util.keystr(path).lstrip('.')} from "
                    f"{a.dtype}{list(a.shape)} into {b.dtype}{list(b.shape)}",
                    rule,
                    f"convert it with .astype({str(a.dtype)!r})",
                )

    def space(self, name: str) -> Any:
        """The space that the method of this name returns."""
        return getattr(self.env, name)(self.params)

    def check_observation(self, name: str, observation: Any, where: str = "") -> None:
        """Checks that the observation lies in `observation_space(params)`."""
        space = self.space("observation_space")
        try:
            inside = jax.tree.map(
                lambda space, x: bool(space.contains(x)),
                space,
                observation,
                is_leaf=is_space,
            )
        except (TypeError, ValueError):  # not the same structure
            inside = False
        if not jax.tree.all(inside):
            self.fail(
                f"{name}'s observation {_text(observation)} lies outside {space}{where}",
                "every observation lies in observation_space(params)",
                "widen the space, or convert the observation",
            )
        check_mask(self, name, observation, where)

    def sample(self, key: jax.Array, observation: Any) -> Any:
        """A random action that is allowed."""
        return sample_action(self.space("action_space"), key, observation)

    def check_no_nan(self, name: str, field: str, tree: Any, where: str = "") -> None:
        """Checks that no number in the tree is NaN."""
        for path, value in _paths_and_values(tree):
            if np.issubdtype(value.dtype, np.floating) and np.isnan(value).any():
                self.fail(
                    f"{name} made NaN in {field}{path}{where}",
                    "no number is NaN",
                    "guard divisions, roots and logarithms",
                )

    def check_independent(
        self, name: str, index: int, alone: Any, together: Any
    ) -> None:
        """Checks that an environment gives the same alone as in a batch."""
        for path, a, b in _zip_leaves(alone, together):
            if not _close(a, b):
                self.fail(
                    f"{name}'s {path} of environment {index} in a batch is {b}, and "
                    f"{a} alone",
                    "environments in a batch are independent of one another",
                    "let each depend on its state, action and key only",
                )

    def fail(self, fault: str, rule: str, remedy: str) -> NoReturn:
        """Raises the error: what was found, the rule, the remedy."""
        raise ValueError(
            f"{type(self.env).__name__} {fault}. Rule: {rule}. {remedy[0].upper()}"
            f"{remedy[1:]}."
        )


def _zip_leaves(*trees: Any):
    """Corresponding leaves with the path of the first, as NumPy."""
    for leaves in zip(*map(_paths_and_values, trees), strict=True):
        path = leaves[0][0].lstrip(".")
        yield path, *(value for _, value in leaves)


def _paths_and_values(tree: Any) -> list[tuple[str, np.ndarray]]:
    leaves = jax.tree.leaves_with_path(without_keys(tree))
    return [(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves]


def _text(tree: Any) -> str:
    """Dtype, shape and values of an observation."""
    return ", ".join(
        f"{x.dtype}{list(x.shape)} {np.array2string(x, threshold=8)}"
        for _, x in _paths_and_values(tree)
    )


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to the rounding that fusing operations may change."""
    if np.issubdtype(a.dtype, np.floating):
        return np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
    return np.array_equal(a, b)
