"""A part of a sweep: one population, trained, evaluated, and kept when it is done."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Algorithm, Metrics
from rljax.sweeps.halving import Progress, rows_of
from rljax.sweeps.problem import Cost, Group, Problem
from rljax.sweeps.results import FINISHED
from rljax.sweeps.store import Ends, Part, PartFolder
from rljax.training.loggers import say
from rljax.training.loop import compile_chunk, compiled, copied, jitted, train
from rljax.training.populations import member, population, map_over_devices
from rljax.training.run_folder import stopped

_WHILE = 5.0  # seconds between two moments at which a part can be saved


class Rungs(NamedTuple):
    """When configurations are stopped early, and which.

    Attributes:
        shares: of a run, each in (0, 1): at the evaluation nearest to each, the worse
            half of the configurations of a part is dropped.
        target: a return; a configuration all of whose runs have it at a rung is solved,
            and ends there.
    """

    shares: tuple[float, ...] = ()
    target: float = math.inf


class Worker:
    """Runs the points of one group, as many at once as fit: a part."""

    def __init__(
        self,
        problem: Problem,
        its: Group,
        keys: jax.Array,
        evaluation_key: jax.Array,
        moments: np.ndarray,
    ):
        self.group, self.seconds_compile, self.seconds_rungs = its, 0.0, 0.0
        self._keys, self._evaluation_key = keys, evaluation_key
        self._updates = np.rint(moments * its.num_updates).astype(int)
        self.size = len(its.points)
        self._seconds_of_update = _WHILE
        self._devices = tuple(jax.devices())
        self._algorithm = _logged(problem.algorithm(its.network, its.config))
        self._task_axes = task_axes = 0 if its.swept_task else None
        self._agents = population(self._algorithm, task_axes, self._devices)
        self._test = _tester(problem, its.network, task_axes, self._devices)

    def plan(self, max_bytes: float | None) -> Cost:
        """Compiles for as many points at once as fit into memory, and times a little."""
        limit = _free_bytes() if max_bytes is None else max_bytes
        # What is sure not to fit is not even made: an update has two states at once.
        leaves = jax.tree.leaves(self._one_run())
        least = 2 * len(self._keys) * sum(x.size * x.dtype.itemsize for x in leaves)
        while self.size > 1 and self.size * least > limit:
            self.size = math.ceil(self.size / 2)
        while True:
            state, task = self._start(self.group.points[: self.size])
            self.seconds_compile += compile_chunk(self._agents, state, task)[1]
            needed = self._bytes(state, task)
            if needed <= limit or self.size == 1:
                break
            self.size = math.ceil(self.size / 2)
        if needed > limit:
            say(
                f"warning: {len(self._keys)} seeds of one configuration take about "
                f"{needed / 1e9:.2g} GB, and {limit / 1e9:.2g} GB are free."
            )
        train(self._agents, state, task, 1)
        started = time.perf_counter()
        train(self._agents, state, task, 2)
        update = self._seconds_of_update = (time.perf_counter() - started) / 2
        started = time.perf_counter()
        self._evaluate(state.own, task, 0)
        test = time.perf_counter() - started
        each = self._updates[-1] * update + len(self._updates) * test
        num_runs = self.size * len(self._keys)
        return Cost(needed / num_runs, each * len(self.parts()))

    @property
    def env_steps(self) -> np.ndarray:
        """`[E]` environment steps of one run at each evaluation."""
        return self._updates * self.group.config.batch_size

    def parts(self) -> list[tuple[int, ...]]:
        """The points of each part."""
        points, size = self.group.points, self.size
        return [points[i : i + size] for i in range(0, len(points), size)]

    def run(
        self,
        points: tuple[int, ...],
        rungs: Rungs,
        place: Path | None,
        checkpoint_every: float,
        asked_to_stop: Callable[[], str | None],
        name: str,
    ) -> Part:
        """Trains a part to its end, or reads what came of it."""
        one = self._one_run()
        folder = PartFolder(place, one.own, one)
        if (done := folder.part()) is not None:
            say(f"{name} was done before: {place}")
            return done
        halvings = {nearest(self._updates, share) for share in rungs.shares}
        progress, state, task, solved = self._begin(points, folder)
        saved = time.monotonic()
        while not progress.done():
            state = self._advance(progress, state, task)
            now = f"{progress.step:,}/{self._updates[-1]:,} updates"
            evaluated = progress.step == self._updates[progress.moments - 1]
            if evaluated:
                best = np.nanmax(np.append(progress.newest(), -np.inf))
                say(f"{name}: {now}, return of the best run {best:.4g}")
            if evaluated and progress.moments - 1 in halvings:
                before = len(progress.alive)
                new = self._solved(progress, state, rungs.target)
                for point, ends in new.items():
                    folder.save_solved(point, ends)
                solved |= new
                if rows := progress.halve(solved):
                    state, task = self._choose(state, task, rows)
                left = f"{len(new)} solved, {len(progress.alive)} go on"
                say(f"{name}: of {before} configurations {left}")
            asked, late = asked_to_stop(), time.monotonic() - saved >= checkpoint_every
            if progress.done() or not (asked or late):
                continue
            if place is not None:
                folder.save(progress, jax.device_get(self._runs(progress, state)))
                saved = time.monotonic()
            if asked:
                raise stopped(asked, f"{now} of {name}", place and place.parents[1])
        done = self._finish(progress, state, solved)
        folder.finish(done)
        return done

    def _finish(self, progress: Progress, state: Any, solved: dict[int, Ends]) -> Part:
        """What came of a part, with its best and its worst run."""

        def state_of(run: tuple[int, int] | None, which: str) -> Any:
            if run is None or run[0] in solved:
                return run and getattr(solved[run[0]], which)
            return jax.device_get(member(state.own, progress.rows([run[0]])[run[1]]))

        its = progress.results()
        return Part(
            progress.returns,
            progress.status,
            progress.reached,
            progress.metrics,
            Ends(state_of(its.best(), "best"), state_of(its.worst(), "worst")),
            progress.seconds,
            progress.updates * len(self._keys) * self.group.config.batch_size,
        )

    def _solved(self, progress: Progress, state: Any, target: float) -> dict[int, Ends]:
        """The configurations solved at the last evaluation, and where they ended."""
        new = {}
        for point in progress.solved(target):
            scores, rows = progress.newest()[point], progress.rows([point])
            of = [rows[scores.argmax()], rows[scores.argmin()]]
            new[point] = Ends(*(jax.device_get(member(state.own, x)) for x in of))
        return new

    def _advance(self, progress: Progress, state: Any, task: Any) -> Any:
        """Trains for a while; at an evaluation's time, makes it."""
        compiling = self.seconds_compile
        started = time.perf_counter()
        if left := int(self._updates[progress.moments]) - progress.step:
            chunk, seconds = compile_chunk(self._agents, state, task)
            self.seconds_compile += seconds
            count = min(left, max(1, int(_WHILE / self._seconds_of_update)))
            began = time.perf_counter()
            state, _ = jax.block_until_ready(chunk(state, task, jnp.int32(count)))
            progress.train(count)
            self._seconds_of_update = (time.perf_counter() - began) / count
        if progress.step == self._updates[progress.moments]:
            found = self._evaluate(state.own, task, progress.step)
            progress.take(found, jax.device_get(state.said))
            said = jax.tree.map(_zeros, state.said)
            state = state._replace(said=said)
        compiling = self.seconds_compile - compiling
        if len(progress.alive) < len(progress.status):
            self.seconds_rungs += compiling
        progress.seconds += time.perf_counter() - started - compiling
        return state

    def _begin(
        self, points: Sequence[int], folder: PartFolder
    ) -> tuple[Progress, Any, Any, dict[int, Ends]]:
        """The start of a part, or where a killed process left off."""
        state, task = self._start(points)
        if (saved := folder.saved()) is not None:
            progress, everyone = saved.progress, range(len(points))
            if len(progress.alive) < len(points):
                rows = rows_of(everyone, progress.alive, len(self._keys))
                state, task = self._choose(state, task, rows)
            return progress, self._filled(saved.state, state), task, saved.solved
        shape = len(points), len(self._keys)
        progress = Progress(
            returns=np.full((*shape, len(self._updates)), np.nan),
            status=np.full(shape, FINISHED, dtype="<U8"),
            reached=np.zeros(len(points), int),
            alive=list(range(len(points))),
        )
        return progress, state, task, {}

    def _start(self, points: Sequence[int]) -> tuple[Any, Any]:
        """States before the first update, and tasks; a short part's last is repeated."""
        where = [self.group.points.index(point) for point in points]
        where += where[-1:] * (self.size - len(where))
        rows = _padded(np.repeat(where, len(self._keys)), len(self._devices))
        seeds = _padded(
            np.tile(np.arange(len(self._keys)), len(where)), len(self._devices)
        )
        hyperparams = jax.tree.map(lambda x: x[rows], self.group.hyperparams)
        task = self.group.task
        if self.group.swept_task:
            task = jax.tree.map(lambda x: x[rows], task)
        init = member(self._keys, seeds), hyperparams, task
        program, seconds = compiled(jitted(self._agents.init), *init)
        self.seconds_compile += seconds
        return copied(program(*init)), task

    def _choose(self, state: Any, task: Any, rows: list[int]) -> tuple[Any, Any]:
        """The members `rows` of a population, as a population."""
        chosen = _padded(np.asarray(rows), len(self._devices))
        where = jax.tree.leaves(state)[0].sharding
        state = jax.device_put(member(state, chosen), where)
        if self._task_axes is not None:
            task = jax.tree.map(lambda x: x[chosen], task)
        return state, task

    def _runs(self, progress: Progress, state: Any) -> Any:
        """Of a population the members that are read: on more devices there are more."""
        return member(state, slice(len(progress.alive) * len(self._keys)))

    def _filled(self, its: Any, like: Any) -> Any:
        """The members that are read, with as many others as a population needs."""
        count, whole = (jax.tree.leaves(x)[0].shape[0] for x in (its, like))
        rows = np.minimum(np.arange(whole), count - 1)
        return jax.device_put(member(its, rows), jax.tree.leaves(like)[0].sharding)

    def _evaluate(self, state: Any, task: Any, updates: int) -> dict[str, np.ndarray]:
        keys = self._keys_of(state, jax.random.fold_in(self._evaluation_key, updates))
        program, seconds = compiled(jitted(self._test), state, task, keys)
        self.seconds_compile += seconds
        return {name: np.asarray(x) for name, x in program(state, task, keys).items()}

    def _keys_of(self, state: Any, key: jax.Array) -> jax.Array:
        """A key for each member: of a seed's own, the same in every configuration."""
        seeds = np.arange(jax.tree.leaves(state)[0].shape[0]) % len(self._keys)
        return jax.random.split(key, len(self._keys))[seeds]

    def _bytes(self, state: Any, task: Any) -> float:
        """What training and evaluating take at their most, over all devices."""
        keys = self._keys_of(state, jax.random.clone(self._evaluation_key))
        programs = (
            compile_chunk(self._agents, state, task)[0],
            compiled(jitted(self._test), state.own, task, keys)[0],
        )
        memory = [program.memory_analysis() for program in programs]
        most = max(
            x.temp_size_in_bytes + x.output_size_in_bytes - x.alias_size_in_bytes
            for x in memory
        )
        # A chunk writes over the state that it is given, a copy of the one before.
        return len(self._devices) * (most + 2 * memory[0].argument_size_in_bytes)

    def _one_run(self) -> Any:
        """The shapes of one run's state."""
        first = jax.tree.map(lambda x: x[0], self.group.hyperparams)
        task = self.group.task
        if self.group.swept_task:
            task = jax.tree.map(lambda x: x[0], task)
        return jax.eval_shape(self._algorithm.init, member(self._keys, 0), first, task)


class _Logged(NamedTuple):
    """A learner's state, and what it has said since its last evaluation."""

    own: Any
    said: Metrics

    @property
    def step(self) -> jax.Array:
        """Updates taken."""
        return self.own.step


@functools.lru_cache(maxsize=32)
def _logged(algorithm: Algorithm[Any]) -> Algorithm[Any]:
    """Pools metrics in the state, so that where a chunk ends changes no bit of them."""

    def init(key: jax.Array, hyperparams: Any, task: Any) -> _Logged:
        own = algorithm.init(key, hyperparams, task)
        _, said = jax.eval_shape(algorithm.step, own, task)
        return _Logged(own, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), said))

    def step(state: _Logged, task: Any) -> tuple[_Logged, Metrics]:
        own, said = algorithm.step(state.own, task)
        return _Logged(own, jax.tree.map(jnp.add, state.said, said)), {}

    return Algorithm(init, step)


def _zeros(x: jax.Array) -> jax.Array:
    return jax.device_put(np.zeros(x.shape, x.dtype), x.sharding)


@functools.lru_cache(maxsize=32)
def _tester(
    problem: Problem, network: Any, task_axes: int | None, devices: tuple[Any, ...]
) -> Any:
    """`(state, task, key) -> {"return", "finite"}` of members; made, and compiled, once."""

    def test(state: Any, task: Any, key: jax.Array) -> dict[str, jax.Array]:
        leaves = jax.tree.leaves(state.params)
        finite = jnp.all(jnp.array([jnp.isfinite(x).all() for x in leaves]))
        return {"return": problem.evaluate(network, state, task, key), "finite": finite}

    axes = (0, task_axes, 0)
    return map_over_devices(jax.vmap(test, in_axes=axes), axes, devices)


def nearest(updates: np.ndarray, share: float) -> int:
    """The evaluation nearest to a share of the run; never the first or the last."""
    nearest = int(np.abs(updates - share * updates[-1]).argmin())
    return min(max(nearest, 1), len(updates) - 2)


def _padded(rows: np.ndarray, multiple: int) -> np.ndarray:
    """Repeats the last row, whose results nobody reads, up to a multiple."""
    return np.append(rows, np.repeat(rows[-1:], -len(rows) % multiple))


def _free_bytes() -> float:
    """Most of the memory that is free, over all devices."""
    stats = jax.devices()[0].memory_stats()
    if stats is not None and "bytes_limit" in stats:
        return 0.8 * stats["bytes_limit"] * jax.device_count()
    try:
        with open("/proc/meminfo") as file:
            about = dict(line.split(":") for line in file)
        return 0.8 * 1024 * float(about["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not a Linux: nobody says
        return math.inf
