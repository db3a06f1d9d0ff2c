"""One population of a sweep: trained, evaluated, and saved when it is done."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.numerics.compiler import Stopwatch, memory_of
from rljax.numerics.processes import agree, gather, put, to_host
from rljax.sweeps.halving import Progress, rows_of
from rljax.sweeps.problem import Cost, Group, Problem
from rljax.sweeps.results import FINISHED
from rljax.sweeps.store import BestAndWorst, PopulationFolder
from rljax.training.loggers import LogEntry, log_line
from rljax.training.loop import (
    PooledMetrics,
    copied,
    memory_needed,
    metric_shapes,
    no_metrics,
    not_finite,
    train,
    updates_taken,
)
from rljax.training.populations import map_over_devices, member, population
from rljax.training.run_folder import stopped

_PAUSE_EVERY = 5.0  # seconds between two moments at which a population can be saved


class Rungs(NamedTuple):
    """Shares of a run, in (0, 1), and the return at which a configuration ends there.

    At the evaluation nearest to each share, the worse half of a population is dropped.
    """

    shares: tuple[float, ...] = ()
    target: float = math.inf


class PopulationRunner:
    """Trains the points of one group, as many at once as fit into memory.

    Args:
        problem: what is swept.
        group: the points of one program.
        keys: `[S]`, one for each seed.
        evaluation_key: seeds the evaluations.
        eval_fractions: `[E]` fractions of a run, from 0 to 1, at which it is evaluated.
    """

    def __init__(
        self,
        problem: Problem,
        group: Group,
        keys: jax.Array,
        evaluation_key: jax.Array,
        eval_fractions: np.ndarray,
    ):
        self.group, self.seconds_compile, self.seconds_rungs = group, 0.0, 0.0
        self.size = len(group.points)
        self._keys, self._evaluation_key = keys, evaluation_key
        self._eval_updates = np.rint(eval_fractions * group.num_updates).astype(int)
        self._devices = tuple(jax.devices())
        self._algorithm = problem.algorithm(group.network, group.config)
        self._task_axes = task_axes = 0 if group.swept_task else None
        self._agents = population(self._algorithm, task_axes, self._devices)
        self._test = _tester(problem, group.network, task_axes, self._devices)

    def env_steps_of(self, progress: Progress) -> int:
        """Environment steps of all the runs of a population."""
        return progress.updates * len(self._keys) * self.group.config.batch_size

    @property
    def env_steps(self) -> np.ndarray:
        """`[E]` environment steps of one run at each evaluation."""
        return self._eval_updates * self.group.config.batch_size

    def populations(self) -> list[tuple[int, ...]]:
        """The points of each population."""
        points, size = self.group.points, self.size
        return [points[i : i + size] for i in range(0, len(points), size)]

    def plan(self, max_bytes: float | None) -> Cost:
        """Compiles for as many points at once as fit into memory, and times a little."""
        stopwatch = Stopwatch()
        limit = min(gather(_free_bytes() if max_bytes is None else max_bytes))
        # What is sure not to fit is not even made: an update has two states at once.
        leaves = jax.tree.leaves(self._one_run())
        least = 2 * len(self._keys) * sum(x.size * x.dtype.itemsize for x in leaves)
        while self.size > 1 and self.size * least > limit:
            self.size = math.ceil(self.size / 2)
        while True:
            state, task = self._start(self.group.points[: self.size])
            needed = max(gather(self._bytes(state, task)))
            if needed <= limit or self.size == 1:
                break
            self.size = math.ceil(self.size / 2)
        if needed > limit:
            log_line(
                f"warning: {len(self._keys)} seeds of one configuration take about "
                f"{needed / 1e9:.2g} GB, and {limit / 1e9:.2g} GB are free."
            )
        train(self._agents, state, task, 1, raise_if_diverged=False)
        updates = Stopwatch()
        train(self._agents, state, task, 2, raise_if_diverged=False)
        each = self._eval_updates[-1] * updates.seconds_run / 2
        evaluation = Stopwatch()
        self._evaluate(state, task, 0)
        each += len(self._eval_updates) * evaluation.seconds_run
        self.seconds_compile += stopwatch.seconds_compile
        num_runs = self.size * len(self._keys)
        return Cost(needed / num_runs, each * len(self.populations()))

    def run(
        self,
        points: tuple[int, ...],
        rungs: Rungs,
        path: Path | None,
        checkpoint_every: float,
        should_stop: Callable[[], str | None],
        name: str,
    ) -> tuple[Progress, BestAndWorst]:
        """Trains a population to its end, or reads its result."""
        folder = PopulationFolder(path, self._one_run())
        if (result := folder.result()) is not None:
            log_line(f"{name} was done before: {path}")
            return result
        halvings = {nearest(self._eval_updates, share) for share in rungs.shares}
        stopwatch, before_rungs = Stopwatch(), math.inf
        progress, state, task, metrics, solved = self._begin(points, folder)
        if len(progress.alive) < len(points):
            before_rungs = stopwatch.seconds_compile
        saved = time.monotonic()

        def save(state: Any, metrics: PooledMetrics) -> None:
            """Saves the population if that is due; raises if the sweep should stop."""
            nonlocal saved
            signal, now = should_stop(), time.monotonic()
            due = agree(now - saved >= checkpoint_every)
            if path is not None and (signal or due):
                runs = member((state, metrics), slice(progress.num_runs))
                folder.save(progress, *to_host(runs))
                saved = time.monotonic()
            if signal:
                where = f"{updates()} of {name}"
                raise stopped(signal, where, path and path.parents[1])

        def updates() -> str:
            return f"{progress.step:,}/{self._eval_updates[-1]:,} updates"

        while not progress.done():
            state = self._advance(progress, state, task, metrics, save)
            best = np.nanmax(np.append(progress.newest(), -np.inf))
            log_line(f"{name}: {updates()}, return of the best run {best:.4g}")
            if progress.num_evaluations - 1 in halvings:
                before = len(progress.alive)
                before_rungs = min(before_rungs, stopwatch.seconds_compile)
                new = self._solved(progress, state, rungs.target)
                for point, states in new.items():
                    folder.save_solved(point, states)
                solved |= new
                if rows := progress.halve(solved):
                    state, task = self._choose(state, task, rows)
                left = f"{len(new)} solved, {len(progress.alive)} go on"
                log_line(f"{name}: of {before} configurations {left}")
            metrics = no_metrics(self._agents, state, task)
            if not progress.done():
                save(state, metrics)
        self.seconds_compile += stopwatch.seconds_compile
        self.seconds_rungs += max(stopwatch.seconds_compile - before_rungs, 0)
        ends = self._ends(progress, state, solved)
        folder.finish(progress, ends)
        return progress, ends

    def _advance(
        self,
        progress: Progress,
        state: Any,
        task: Any,
        metrics: PooledMetrics,
        save: Callable[[Any, PooledMetrics], None],
    ) -> Any:
        """Trains up to the next evaluation, and makes it."""
        stopwatch = Stopwatch()
        found: dict[str, np.ndarray] = {}
        lost: np.ndarray = np.zeros(len(state.step), bool)

        def on_pause(state: Any, metrics: PooledMetrics) -> None:
            nonlocal stopwatch
            progress.train(updates_taken(state))
            progress.seconds += stopwatch.seconds_run
            save(state, metrics)
            stopwatch = Stopwatch()  # saving does not count

        def on_log(state: Any, entry: LogEntry) -> None:
            nonlocal lost
            progress.train(entry.step)
            found.update(entry.metrics)
            lost = entry.diverged

        if left := self._eval_updates[progress.num_evaluations] - progress.step:
            state = train(
                *(self._agents, state, task, int(left)),
                on_log=on_log,
                pause_every=_PAUSE_EVERY,
                on_pause=on_pause,
                metrics=metrics,
                raise_if_diverged=False,  # some may go on
            )
        evaluation = self._evaluate(state, task, progress.step)
        evaluation["finite"] = evaluation["finite"] & ~lost
        progress.record(evaluation, found)
        progress.seconds += stopwatch.seconds_run
        return state

    def _ends(
        self, progress: Progress, state: Any, solved: dict[int, BestAndWorst]
    ) -> BestAndWorst:
        """The final states of the best and the worst run of a population."""

        def state_of(run: tuple[int, int] | None, which: str) -> Any:
            if run is None or run[0] in solved:
                return run and getattr(solved[run[0]], which)
            return to_host(member(state, progress.rows([run[0]])[run[1]]))

        results = progress.results()
        return BestAndWorst(
            state_of(results.best(), "best"), state_of(results.worst(), "worst")
        )

    def _solved(
        self, progress: Progress, state: Any, target: float
    ) -> dict[int, BestAndWorst]:
        """The configurations solved at the last evaluation, and their final states."""
        new = {}
        for point in progress.solved(target):
            scores, rows = progress.newest()[point], progress.rows([point])
            ends = [rows[scores.argmax()], rows[scores.argmin()]]
            new[point] = BestAndWorst(*(to_host(member(state, x)) for x in ends))
        return new

    def _begin(
        self, points: Sequence[int], folder: PopulationFolder
    ) -> tuple[Progress, Any, Any, PooledMetrics, dict[int, BestAndWorst]]:
        """The start of a population, or where it was last saved."""
        state, task = self._start(points)
        shapes = metric_shapes(self._algorithm, folder.run, self._one_task())
        if saved := folder.saved(shapes):
            progress, runs, metrics, solved = saved
            if len(progress.alive) < len(points):
                chosen = rows_of(range(len(points)), progress.alive, len(self._keys))
                state, task = self._choose(state, task, chosen)
            first, last = jax.tree.leaves(state)[0], progress.num_runs - 1
            # The last run is repeated, as where a population starts.
            rows = np.minimum(np.arange(len(first)), last)
            runs = member((runs, metrics), rows)
            state, metrics = jax.tree.map(lambda x: put(x, first.sharding), runs)
            return progress, state, task, metrics, solved
        shape = len(points), len(self._keys)
        progress = Progress(
            returns=np.full((*shape, len(self._eval_updates)), np.nan),
            status=np.full(shape, FINISHED, dtype="<U8"),
            reached=np.zeros(len(points), int),
            alive=list(range(len(points))),
        )
        return progress, state, task, no_metrics(self._agents, state, task), {}

    def _start(self, points: Sequence[int]) -> tuple[Any, Any]:
        """First states and tasks; the last point of a smaller population is repeated."""
        where = [self.group.points.index(point) for point in points]
        where += where[-1:] * (self.size - len(where))
        count = len(self._devices)
        rows = _padded(np.repeat(where, len(self._keys)), count)
        seeds = _padded(np.tile(np.arange(len(self._keys)), len(where)), count)
        hyperparams = jax.tree.map(lambda x: x[rows], self.group.hyperparams)
        task = self.group.task
        if self.group.swept_task:
            task = jax.tree.map(lambda x: x[rows], task)
        init = jax.jit(self._agents.init)
        state = copied(init(member(self._keys, seeds), hyperparams, task))
        # Bound to the devices as restored states are, so that one program serves both.
        where = jax.tree.leaves(state)[0].sharding
        return jax.tree.map(lambda x: put(x, where), state), task

    def _choose(self, state: Any, task: Any, rows: list[int]) -> tuple[Any, Any]:
        """The members `rows` of a population, as a population."""
        chosen = _padded(np.asarray(rows), len(self._devices))
        sharding = jax.tree.leaves(state)[0].sharding
        chosen_states = member(state, chosen)
        state = jax.tree.map(lambda x: put(x, sharding), chosen_states)
        if self._task_axes is not None:
            task = jax.tree.map(lambda x: x[chosen], task)
        return state, task

    def _evaluate(self, state: Any, task: Any, step: int) -> dict[str, np.ndarray]:
        found = jax.jit(self._test)(state, task, self._keys_of(state, step))
        return to_host(found)

    def _keys_of(self, state: Any, step: int) -> jax.Array:
        """A key for each member: one for each seed, the same in every configuration."""
        key = jax.random.fold_in(self._evaluation_key, step)
        seeds = np.arange(len(jax.tree.leaves(state)[0])) % len(self._keys)
        return jax.random.split(key, len(self._keys))[seeds]

    def _bytes(self, state: Any, task: Any) -> float:
        """What training and evaluating take at their most, over all devices."""
        if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            return 0.0  # nothing is compiled that could be asked
        train = memory_needed(self._agents, state, task)
        test = jax.jit(self._test).lower(state, task, self._keys_of(state, 0))
        both = train, memory_of(test.compile())
        most = max(x.temporary + x.results for x in both)
        # A chunk overwrites a copy of the state before it.
        return len(self._devices) * (most + 2 * train.arguments)

    def _one_run(self) -> Any:
        """The shapes of one run's state."""
        first = jax.tree.map(lambda x: x[0], self.group.hyperparams)
        init, key = self._algorithm.init, member(self._keys, 0)
        return jax.eval_shape(init, key, first, self._one_task())

    def _one_task(self) -> Any:
        """The task of one run."""
        task = self.group.task
        return jax.tree.map(lambda x: x[0], task) if self.group.swept_task else task


@functools.lru_cache(maxsize=32)
def _tester(
    problem: Problem, network: Any, task_axes: int | None, devices: tuple[Any, ...]
) -> Any:
    """`(state, task, key) -> {"return", "finite"}` of members; cached: compiled once."""

    def test(state: Any, task: Any, key: jax.Array) -> dict[str, jax.Array]:
        returned = problem.evaluate(network, state, task, key)
        return {"return": returned, "finite": ~not_finite(state)}

    axes = (0, task_axes, 0)
    return map_over_devices(jax.vmap(test, in_axes=axes), axes, devices)


def nearest(updates: np.ndarray, share: float) -> int:
    """The evaluation nearest to a share of the run; never the first or the last."""
    nearest = int(np.abs(updates - share * updates[-1]).argmin())
    return min(max(nearest, 1), len(updates) - 2)


def _padded(rows: np.ndarray, multiple: int) -> np.ndarray:
    """Repeats the last row, whose results are dropped, up to a multiple."""
    return np.append(rows, np.repeat(rows[-1:], -len(rows) % multiple))


def _free_bytes() -> float:
    """Most of the memory that is free, over all devices."""
    stats = jax.local_devices()[0].memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return 0.8 * stats["bytes_limit"] * jax.device_count()
    try:
        with open("/proc/meminfo") as file:
            about = dict(line.split(":") for line in file)
        return 0.8 * 1024 * float(about["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not a Linux
        return math.inf
