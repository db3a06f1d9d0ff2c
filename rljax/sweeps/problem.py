"""The problem that is swept, its points by what they compile to, and their cost."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.algorithms.networks import check_action_bounds
from rljax.base import Algorithm, AlgorithmModule
from rljax.envs.variation import ParamsPerEnv, all_of, check_params, one_of
from rljax.numerics.identity import identity
from rljax.numerics.validation import check_name
from rljax.rollouts.rollout import evaluate
from rljax.sweeps.points import Point
from rljax.sweeps.results import COLUMNS
from rljax.training.populations import (
    decay_over,
    field,
    field_names,
    kind_of,
    stack,
    with_fields,
)


def _as_given(hyperparams: Any, num_updates: int) -> Any:
    del num_updates
    return hyperparams


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """What is swept: an algorithm, how it is evaluated, and the defaults of every value.

    Attributes:
        algorithm: `(network, config)`, makes the learner; both are static.
        evaluate: `(network, state, task, key) -> scalar`, pure: the mean return of one
            member's policy. Functions and environment are part of a sweep's identity.
        network: the default network; a hashable dataclass, as Flax modules are.
        config: the default configuration; a frozen dataclass with `batch_size` and
            `updates(total_steps)`.
        hyperparams: default numbers that may be traced.
        task: the environment's default parameters.
        total_steps: environment steps of each run: a budget, never exceeded.
        prepare: `(hyperparams, num_updates) -> hyperparams`, of one run.
        check: raises a ValueError for hyperparameters out of their ranges.
        check_task: likewise for environment parameters.
    """

    algorithm: Callable[[Any, Any], Algorithm[Any]]
    evaluate: Callable[[Any, Any, Any, jax.Array], jax.Array]
    network: Any
    config: Any
    hyperparams: Any
    task: Any
    total_steps: int
    prepare: Callable[[Any, int], Any] = _as_given
    check: Callable[[Any], None] = lambda hyperparams: None
    check_task: Callable[[Any], None] = lambda task: None

    def described(self) -> dict[str, Any]:
        """All that the results depend on, as JSON.

        Raises:
            ValueError: something cannot be identified.
        """
        checks = ("check", "check_task")  # they only refuse
        names = [f.name for f in dataclasses.fields(self) if f.name not in checks]
        return {name: identity(getattr(self, name)) for name in names}


@dataclasses.dataclass(frozen=True, eq=False)
class MeanReturn:
    """The mean return of the greedy policy of an algorithm's state, over episodes."""

    algorithm: AlgorithmModule
    env: Any
    num_episodes: int
    max_steps: int

    def __call__(
        self, network: Any, state: Any, task: Any, key: jax.Array
    ) -> jax.Array:
        """Plays the episodes; consumes `key`."""
        act = functools.partial(self.algorithm.act, network, state, greedy=True)
        play = functools.partial(
            evaluate, num_episodes=self.num_episodes, max_steps=self.max_steps
        )
        return play(key, self.env, task, act).returns.mean()


class Group(NamedTuple):
    """The points of one network and configuration, which one program can run.

    Attributes:
        points: indices of the points.
        num_updates: updates of each run.
        hyperparams: leaves `[P]`.
        task: leaves `[P]`, or scalars if no point changes one.
        swept_task: whether it has leaves `[P]`.
    """

    network: Any
    config: Any
    points: tuple[int, ...]
    num_updates: int
    hyperparams: Any
    task: Any
    swept_task: bool


def make_problem(
    algorithm: AlgorithmModule,
    env: Any,
    network: Any,
    task: Any,
    *,
    total_steps: int,
    num_episodes: int = 32,
    config: Any = None,
    hyperparams: Any = None,
    decay: bool = True,
    max_steps: int | None = None,
) -> Problem:
    """An algorithm on an environment, by its greedy policy's mean return over episodes.

    Args:
        algorithm: its module, such as `rljax.algorithms.ppo`.
        env: the environment.
        network: what the algorithm trains; hashable.
        task: the environment's parameters.
        total_steps: environment steps of each run: a budget, never exceeded.
        num_episodes: episodes in an evaluation of each run.
        config: the default configuration; by default the module's.
        hyperparams: likewise.
        decay: let the learning rate fall to 0 over each run, if the algorithm can and
            neither `hyperparams` nor a point sets `decay_updates`.
        max_steps: bound on an evaluation's episodes; by default the task's `max_steps`.

    Raises:
        ValueError: there is no bound on episodes.
    """
    one = one_of(task)
    if max_steps is None:
        if "max_steps" not in field_names(one):
            raise ValueError(
                f"an evaluation needs a bound on its episodes, and {type(one).__name__} "
                f"has no max_steps. Give max_steps=1000, say."
            )
        max_steps = int(np.max(field(all_of(task), "max_steps")))

    def check_task(swept: Any) -> None:
        check_params(env, swept)
        axes = [sum(map(np.ndim, jax.tree.leaves(x))) for x in (task, swept)]
        rows = ParamsPerEnv(swept) if axes[1] > axes[0] else swept
        check_action_bounds(network, env, rows)
        swept = all_of(swept)
        longest = max_steps
        if "max_steps" in field_names(swept):
            longest = int(np.max(field(swept, "max_steps")))
        if longest > max_steps:
            raise ValueError(
                f"max_steps must be at most {max_steps}, after which evaluations end, got "
                f"{longest}. Raise the task's own max_steps."
            )

    return Problem(
        algorithm=functools.partial(algorithm.make, env),
        evaluate=MeanReturn(algorithm, env, num_episodes, max_steps),
        network=network,
        config=algorithm.Config() if config is None else config,
        hyperparams=algorithm.Hyperparams() if hyperparams is None else hyperparams,
        task=task,
        total_steps=total_steps,
        prepare=decay_over if decay else _as_given,
        check=algorithm.check_hyperparams,
        check_task=check_task,
    )


def group(problem: Problem, points: Sequence[Point]) -> tuple[Group, ...]:
    """Sorts points by what they compile to.

    Raises:
        ValueError: there is no point, or a name or value is wrong.
    """
    if not points:
        raise ValueError("a sweep needs at least one point, got none. Use grid(...).")
    if len(names := {frozenset(point) for point in points}) > 1:
        odd = sorted(frozenset.union(*names) - frozenset.intersection(*names))
        raise ValueError(
            f"all points must name the same values, but only some have {odd[0]!r}. Give "
            f"it to all."
        )
    parts = {
        name: field_names(getattr(problem, name))
        for name in ("network", "config", "hyperparams", "task")
    }
    everything = [name for names in parts.values() for name in names]
    for name in points[0]:
        check_name(name, everything, "the problem")
        if everything.count(name) > 1:
            where = " and ".join(part for part in parts if name in parts[part])
            raise ValueError(
                f"{name!r} is ambiguous: it is in the {where}. Rename the environment's."
            )
        if name in COLUMNS:
            raise ValueError(
                f"{name!r} is a column of every sweep's results. Rename the parameter."
            )
    for point in points:
        for part in (problem.network, problem.config):
            _check_static(part, point)
    groups: dict[tuple[Any, Any], list[int]] = {}
    for index, point in enumerate(points):
        static = replaced(problem.network, point), replaced(problem.config, point)
        groups.setdefault(static, []).append(index)
    return tuple(
        _group(problem, network, config, indices, points, parts)
        for (network, config), indices in groups.items()
    )


def replaced(part: Any, point: Mapping[str, Any]) -> Any:
    """A part of the problem with a point's values in the fields of the same names."""
    values = {name: point[name] for name in field_names(part) if name in point}
    return with_fields(part, **values)


def _check_static(part: Any, point: Point) -> None:
    """Raises a ValueError if a value is of another kind than what it replaces."""
    for name in [name for name in field_names(part) if name in point]:
        value, default = point[name], field(part, name)
        if isinstance(default, tuple):
            rule = "a tuple of whole numbers above 0"
            fits = isinstance(value, tuple) and min(value, default=0) > 0
        else:
            kind = kind_of(part, name)
            rule = f"of type {kind.__name__}"
            fits = type(value) in ((int, float) if kind is float else (kind,))
        if not fits:
            raise ValueError(
                f"{name} must be {rule}, such as {default}, got {value!r}. Change it."
            )


def _group(problem, network, config, indices, points, parts) -> Group:
    num_updates = config.updates(problem.total_steps)
    hyperparams = problem.prepare(problem.hyperparams, num_updates)

    def columns(part: str) -> dict[str, list[float]]:
        names = [name for name in points[0] if name in parts[part]]
        return {name: [points[i][name] for i in indices] for name in names}

    # Some field is needed to say how many members there are.
    first = parts["hyperparams"][0]
    default = [field(hyperparams, first)] * len(indices)
    stacked = stack(hyperparams, **({first: default} | columns("hyperparams")))
    problem.check(stacked)
    swept = columns("task")
    task = stack(problem.task, **swept) if swept else problem.task
    for name, values in swept.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got {values}. Change it.")
    problem.check_task(task)
    points = tuple(indices)
    return Group(network, config, points, num_updates, stacked, task, bool(swept))


class Cost(NamedTuple):
    """Bytes of memory over all devices, and seconds that a group's populations take."""

    bytes_per_run: float
    seconds: float


def in_words(
    num_points: int, num_seeds: int, costs: Sequence[Cost], num_populations: int
) -> str:
    """The plan in one line of text."""
    num_runs = num_points * num_seeds
    memory = max(cost.bytes_per_run for cost in costs) * num_runs / num_populations
    seconds = sum(cost.seconds for cost in costs)
    populations = ""
    if num_populations > len(costs):
        populations = f", in {num_populations} populations one after another"
    return (
        f"{_count(num_points, 'configuration')} x {_count(num_seeds, 'seed')} = "
        f"{_count(num_runs, 'run')} in {_count(len(costs), 'compilation')}{populations}, about "
        f"{memory / 1e9:.2g} GB, about {seconds:,.0f} s"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"
