"""A sweep run: populations one after another, each a part that is kept when it is done."""

import functools
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rljax.checkpoint
from rljax.files import dumps, write_atomically
from rljax.metrics import say
from rljax.plan import Cost, Group, Problem, group, in_words
from rljax.report.results import DIVERGED, DROPPED, FINISHED, Results
from rljax.report.statistics import interquartile_mean
from rljax.sweep import Point, member, population, share_out
from rljax.train import compile_chunk, compiled, jitted, train


class Sweep(NamedTuple):
    """What came of a sweep.

    Attributes:
        results: every run's evaluations.
        best: the state of the best configuration's best run, at its end; None if no run
            finished.
        worst: likewise of the worst.
        seconds_compile: seconds spent compiling, in this process.
        seconds_run: seconds since, in all processes that had a part.
        num_compilations: programs compiled to learn with.
        env_steps: environment steps of all runs together.
        updates_saved: share of the updates that rungs saved.
    """

    results: Results
    best: Any
    worst: Any
    seconds_compile: float
    seconds_run: float
    num_compilations: int
    env_steps: int
    updates_saved: float


def sweep(
    problem: Problem,
    points: Sequence[Point],
    *,
    num_seeds: int,
    seed: int = 0,
    num_evaluations: int = 20,
    rungs: Sequence[float] = (),
    folder: Path | None = None,
    max_bytes: float | None = None,
) -> Sweep:
    """Trains every point with every seed, on all devices, and evaluates as it goes.

    Seed i has the same keys in every configuration. What was planned is printed first.

    Args:
        problem: what is swept.
        points: the configurations, as `grid` or `scatter` make them.
        num_seeds: runs of each.
        seed: what the seeds' keys come from.
        num_evaluations: evaluations after the first, at equal distances.
        rungs: shares of a run, each in (0, 1), at whose evaluation the worse half of
            the configurations of a part is dropped, and the runs that have diverged.
        folder: keeps each part there as soon as it is done, and goes on from those.
        max_bytes: of memory for all the runs of a part; by default most of what is free.

    Raises:
        ValueError: nothing is to be swept, or a value cannot be; before any compiling.
    """
    _check(num_seeds, num_evaluations, rungs)
    groups = group(problem, points)
    most = min(g.num_updates for g in groups)
    moments = np.linspace(0, 1, min(num_evaluations, most) + 1)
    seeds_key, evaluation_key = jax.random.split(jax.random.key(seed), 2)
    seed_keys = jax.random.split(seeds_key, num_seeds)
    workers = [_Worker(problem, g, seed_keys, evaluation_key, moments) for g in groups]
    # How much memory was free at the start decides what the parts are, for good.
    plan = None if folder is None else folder / "plan.json"
    if plan is not None and plan.exists():
        sizes = json.loads(plan.read_text())["sizes"]
        for worker, size in zip(workers, sizes, strict=True):
            worker.size = size
    else:
        costs = [worker.plan(max_bytes) for worker in workers]
        sizes = [worker.size for worker in workers]
        count = sum(len(worker.parts()) for worker in workers)
        words = in_words(len(points), num_seeds, costs, count)
        say(words)
        if plan is not None:
            plan.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(plan, dumps({"sizes": sizes, "plan": words}) + "\n")
    parts = [(worker, part) for worker in workers for part in worker.parts()]

    returns = np.full((len(points), num_seeds, len(moments)), np.nan)
    status = np.full((len(points), num_seeds), DROPPED, dtype="<U8")
    done = []
    for number, (worker, part) in enumerate(parts):
        place = None if folder is None else folder / "parts" / f"{number:03d}"
        done.append(worker.run(part, rungs, place, f"part {number + 1}/{len(parts)}"))
        returns[list(part)], status[list(part)] = done[-1].returns, done[-1].status
    results = Results(
        tuple(dict(point) for point in points),
        tuple(range(num_seeds)),
        np.rint(moments * problem.total_steps).astype(np.int64),
        returns,
        status,
    )
    best, worst = results.best(), results.worst()
    whole = num_seeds * sum(
        its.num_updates * its.config.batch_size * len(its.points) for its in groups
    )

    def part_of(run: tuple[int, int] | None) -> int:
        return next(i for i, (_, part) in enumerate(parts) if run and run[0] in part)

    return Sweep(
        results,
        None if best is None else done[part_of(best)].best,
        None if worst is None else done[part_of(worst)].worst,
        sum(worker.seconds_compile for worker in workers),
        sum(part.seconds_run for part in done),
        len(groups),
        sum(part.env_steps for part in done),
        1 - sum(part.env_steps for part in done) / whole,
    )


class _Part(NamedTuple):
    """What came of a part: returns `[P, S, E]`, status `[P, S]`, states of members."""

    returns: np.ndarray
    status: np.ndarray
    best: Any
    worst: Any
    seconds_run: float
    env_steps: int


class _Worker:
    """Runs the points of one group, as many at once as fit: a part."""

    def __init__(
        self,
        problem: Problem,
        its: Group,
        keys: jax.Array,
        evaluation_key: jax.Array,
        moments: np.ndarray,
    ):
        self.group, self.seconds_compile = its, 0.0
        self._keys, self._evaluation_key = keys, evaluation_key
        self._updates = np.rint(moments * its.num_updates).astype(int)
        self.size = len(its.points)
        self._devices = tuple(jax.devices())
        self._algorithm = problem.algorithm(its.config)
        self._task_axes = task_axes = 0 if its.swept_task else None
        self._agents = population(self._algorithm, task_axes, self._devices)
        evaluate = functools.partial(problem.evaluate, its.config)

        def test(state: Any, task: Any, key: jax.Array) -> dict[str, jax.Array]:
            leaves = jax.tree.leaves(state.params)
            finite = jnp.all(jnp.array([jnp.isfinite(x).all() for x in leaves]))
            return {"return": evaluate(state, task, key), "finite": finite}

        axes = (0, task_axes, None)
        self._test = share_out(jax.vmap(test, in_axes=axes), axes, self._devices)

    def plan(self, max_bytes: float | None) -> Cost:
        """Compiles for as many points at once as fit into memory, and times a little."""
        limit = _free_bytes() if max_bytes is None else max_bytes
        while True:
            state, task = self._start(self.group.points[: self.size])
            self.seconds_compile += compile_chunk(self._agents, state, task)[1]
            needed = self._bytes(state, task)
            if needed <= limit or self.size == 1:
                break
            self.size = math.ceil(self.size / 2)
        train(self._agents, state, task, 1)
        started = time.perf_counter()
        train(self._agents, state, task, 2)
        update = (time.perf_counter() - started) / 2
        started = time.perf_counter()
        self._evaluate(state, task, 0)
        test = time.perf_counter() - started
        each = self._updates[-1] * update + len(self._updates) * test
        num_runs = self.size * len(self._keys)
        return Cost(needed / num_runs, self.seconds_compile, each * len(self.parts()))

    def parts(self) -> list[tuple[int, ...]]:
        """The points of each part."""
        points, size = self.group.points, self.size
        return [points[i : i + size] for i in range(0, len(points), size)]

    def run(
        self,
        points: tuple[int, ...],
        rungs: Sequence[float],
        place: Path | None,
        name: str,
    ) -> _Part:
        """Trains a part to its end, or reads what came of it."""
        if place is not None and (place / "part.json").exists():
            say(f"{name} was done before: {place}")
            return self._read(place)
        started, compiling = time.perf_counter(), self.seconds_compile
        num_seeds, moments = len(self._keys), len(self._updates)
        returns = np.full((len(points), num_seeds, moments), np.nan)
        status = np.full((len(points), num_seeds), FINISHED, dtype="<U8")
        alive = list(range(len(points)))
        halvings = {_nearest(self._updates, share) for share in rungs}
        state, task = self._start(points)
        updates = 0
        for moment, now in enumerate(self._updates):
            if moment:
                taken = now - self._updates[moment - 1]
                self.seconds_compile += compile_chunk(self._agents, state, task)[1]
                state = train(self._agents, state, task, int(taken))
                updates += taken * len(alive)
            found = self._evaluate(state, task, now)
            shape = len(alive), num_seeds
            score, finite = (
                found[name][: math.prod(shape)].reshape(shape)
                for name in ("return", "finite")
            )
            score = np.where(finite & (status[alive] == FINISHED), score, np.nan)
            returns[alive, :, moment] = score
            status[alive] = np.where(np.isnan(score), DIVERGED, FINISHED)
            best = np.nanmax(np.append(score, -np.inf))
            say(
                f"{name}: {now:,}/{self._updates[-1]:,} updates, best return {best:.4g}"
            )
            if moment in halvings and len(alive) > 1:
                kept = _better_half(alive, returns[:, :, moment], status)
                dropped = [point for point in alive if point not in kept]
                lost = status[dropped] == FINISHED
                status[dropped] = np.where(lost, DROPPED, status[dropped])
                rows = [
                    alive.index(p) * num_seeds + s
                    for p in kept
                    for s in range(num_seeds)
                ]
                state, task = self._choose(state, task, rows)
                alive = kept
        its = Results(({},) * len(points), tuple(range(num_seeds)),
                      np.zeros(moments), returns, status)  # fmt: skip
        best, worst = (
            None
            if run is None
            else member(state, alive.index(run[0]) * num_seeds + run[1])
            for run in (its.best(), its.worst())
        )
        seconds = time.perf_counter() - started - (self.seconds_compile - compiling)
        env_steps = int(updates) * num_seeds * self.group.config.batch_size
        best, worst = jax.device_get((best, worst))
        done = _Part(returns, status, best, worst, seconds, env_steps)
        if place is not None:
            self._write(place, done)
        return done

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
        return program(*init), task

    def _choose(self, state: Any, task: Any, rows: list[int]) -> tuple[Any, Any]:
        """The members `rows` of a population, as a population."""
        chosen = _padded(np.asarray(rows), len(self._devices))
        axes = (0, self._task_axes)
        where = jax.tree.leaves(state)[0].sharding
        state = jax.device_put(member(state, chosen), where)
        if axes[1] is not None:
            task = jax.tree.map(lambda x: x[chosen], task)
        return state, task

    def _evaluate(self, state: Any, task: Any, updates: int) -> dict[str, np.ndarray]:
        key = jax.random.fold_in(self._evaluation_key, int(updates))
        program, seconds = compiled(jitted(self._test), state, task, key)
        self.seconds_compile += seconds
        return {name: np.asarray(x) for name, x in program(state, task, key).items()}

    def _bytes(self, state: Any, task: Any) -> float:
        """What training and evaluating take at their most, over all devices."""
        programs = (
            compile_chunk(self._agents, state, task)[0],
            compiled(jitted(self._test), state, task, self._evaluation_key)[0],
        )
        memory = [program.memory_analysis() for program in programs]
        most = max(
            x.temp_size_in_bytes + x.output_size_in_bytes - x.alias_size_in_bytes
            for x in memory
        )
        # A chunk writes over the state that it is given, a copy of the one before.
        return len(self._devices) * (most + 2 * memory[0].argument_size_in_bytes)

    def _write(self, place: Path, done: _Part) -> None:
        for name in ("best", "worst"):
            if (state := getattr(done, name)) is not None:
                rljax.checkpoint.save(place / name, int(state.step), state, {})
        about = done._replace(best=None, worst=None)._asdict()
        write_atomically(place / "part.json", dumps(about) + "\n")

    def _read(self, place: Path) -> _Part:
        about = json.loads((place / "part.json").read_text())
        first = jax.tree.map(lambda x: x[0], self.group.hyperparams)
        task = self.group.task
        if self.group.swept_task:
            task = jax.tree.map(lambda x: x[0], task)
        key = member(self._keys, 0)
        like = jax.eval_shape(self._algorithm.init, key, first, task)
        for name in ("best", "worst"):
            found = rljax.checkpoint.restore_latest(place / name, like)
            about[name] = None if found is None else found[0]
        about["returns"] = np.array(about["returns"], np.float64)  # null becomes NaN
        about["status"] = np.array(about["status"])
        return _Part(**about)


def _better_half(alive: list[int], scores: np.ndarray, status: np.ndarray) -> list[int]:
    """The largest power of two of configurations that is fewer, the best ones."""

    def rank(point: int) -> tuple[int, float]:
        finished = scores[point][status[point] == FINISHED]
        mean = interquartile_mean(finished) if len(finished) else -math.inf
        return int((status[point] != FINISHED).sum()), -mean

    count = 1 << ((len(alive) - 1).bit_length() - 1)
    return sorted(sorted(alive, key=rank)[:count])


def _nearest(updates: np.ndarray, share: float) -> int:
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
        return 0.8 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not a Linux: nobody says
        return math.inf


def _check(num_seeds: int, num_evaluations: int, rungs: Sequence[float]) -> None:
    for name, value in (("num_seeds", num_seeds), ("num_evaluations", num_evaluations)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}. Raise it.")
    if wrong := [share for share in rungs if not 0 < share < 1]:
        raise ValueError(
            f"rungs must be shares of a run in (0, 1), got {wrong[0]}. Use 0.25, say."
        )
