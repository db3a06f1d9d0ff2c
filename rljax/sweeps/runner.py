"""A sweep run: populations one after another, each a part that is kept when it is done."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.sweeps.points import Point, plain
from rljax.sweeps.population_run import Rungs, Worker, nearest
from rljax.sweeps.problem import Group, Problem, group, in_words
from rljax.sweeps.results import DROPPED, Results
from rljax.training.files import RunError, dumps, read_json, write_atomically
from rljax.training.loggers import say
from rljax.training.manifest import differences


class Sweep(NamedTuple):
    """What came of a sweep.

    Attributes:
        results: every run's evaluations.
        best: the state of the best configuration's best run, at its end; None if no run
            finished. Where some were solved at a rung, the best is of those.
        worst: likewise of the worst.
        seconds_compile: seconds spent compiling, in this process.
        seconds_run: seconds since, in all processes that had a part.
        num_compilations: programs compiled to learn with.
        env_steps: environment steps of all runs together.
        updates_saved: share of the updates that rungs saved.
        seconds_rungs: seconds of compiling that rungs took, in this process.
    """

    results: Results
    best: Any
    worst: Any
    seconds_compile: float
    seconds_run: float
    num_compilations: int
    env_steps: int
    updates_saved: float
    seconds_rungs: float


def sweep(
    problem: Problem,
    points: Sequence[Point],
    *,
    num_seeds: int,
    seed: int = 0,
    num_evaluations: int = 20,
    rungs: Sequence[float] = (),
    target: float | None = None,
    folder: Path | None = None,
    checkpoint_every: float = 60.0,
    max_bytes: float | None = None,
    asked_to_stop: Callable[[], str | None] = lambda: None,
) -> Sweep:
    """Trains every point with every seed, on all devices, and evaluates as it goes.

    Seed i has the same keys in every configuration. What was planned is printed first.

    Args:
        problem: what is swept.
        points: the configurations, as `grid` or `random_points` make them.
        num_seeds: runs of each.
        seed: what the seeds' keys come from.
        num_evaluations: evaluations after the first, at equal distances.
        rungs: shares of a run, each in (0, 1), at whose evaluation the worse half of
            the configurations of a part is dropped, those first that have diverged.
        target: a return; a configuration all of whose runs have it at a rung is solved,
            and ends there.
        folder: keeps each part there as soon as it is done, and goes on from those; it
            holds nothing, or the same sweep.
        checkpoint_every: seconds after which a part in the making is kept there, too.
        max_bytes: of memory for all the runs of a part; by default most of what is free.
        asked_to_stop: called between updates; the name of who asks, a signal say, or
            None. What was done is then kept in the folder.

    Raises:
        RunError: it was asked to stop, or the folder holds another sweep.
        ValueError: nothing is to be swept, or a value cannot be; before any compiling.
    """
    points = [plain(point) for point in points]
    how: dict[str, Any] = {
        "num_seeds": num_seeds,
        "num_evaluations": num_evaluations,
        "rungs": tuple(rungs),
        "target": target,
    }
    groups, moments = check_sweep(problem, points, **how)
    seeds_key, evaluation_key = jax.random.split(jax.random.key(seed), 2)
    seed_keys = jax.random.split(seeds_key, num_seeds)
    workers = [Worker(problem, g, seed_keys, evaluation_key, moments) for g in groups]
    # How much memory was free at the start decides what the parts are, for good.
    plan = None if folder is None else folder / "plan.json"
    asked = _asked(problem, points, how | {"seed": seed})
    if plan is not None and plan.exists():
        stored = read_json(plan)
        if other := differences(stored.get("asked", {}), asked):
            raise RunError(
                f"{folder} holds another sweep: {'; '.join(other[:3])}. Repeat that one, "
                f"or choose another folder."
            )
        sizes = stored.get("sizes", [])
        most_points = [len(worker.group.points) for worker in workers]
        if len(sizes) != len(workers) or any(
            type(size) is not int or not 0 < size <= count
            for size, count in zip(sizes, most_points, strict=True)
        ):
            raise RunError(
                f"{plan} is not this sweep's: sizes are {sizes}, of {most_points} points. "
                f"Restore it, or choose another folder."
            )
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
            about = {"plan": words, "sizes": sizes, "asked": asked}
            write_atomically(plan, dumps(about, indent=1) + "\n")
    parts = [(worker, part) for worker in workers for part in worker.parts()]
    if rungs and len(parts) > len(workers):
        say(
            f"warning: rungs compare the configurations of one part only, and there are "
            f"{len(parts)} parts"
        )

    stops = Rungs(tuple(rungs), np.inf if target is None else target)
    returns = np.full((len(points), num_seeds, len(moments)), np.nan)
    env_steps = np.zeros((len(points), len(moments)), np.int64)
    reached = np.zeros(len(points), int)
    status = np.full((len(points), num_seeds), DROPPED, dtype="<U8")
    metrics: dict[str, np.ndarray] = {}
    done = []
    for number, (worker, part) in enumerate(parts):
        place = None if folder is None else folder / "parts" / f"{number:03d}"
        name = f"part {number + 1}/{len(parts)}"
        done.append(
            worker.run(part, stops, place, checkpoint_every, asked_to_stop, name)
        )
        where = list(part)
        returns[where], status[where] = done[-1].returns, done[-1].status
        env_steps[where], reached[where] = worker.env_steps, done[-1].reached
        for metric, values in done[-1].metrics.items():
            metrics.setdefault(metric, np.full_like(returns, np.nan))[where] = values
    results = Results(
        tuple(points),
        tuple(range(num_seeds)),
        env_steps,
        returns,
        status,
        reached,
        metrics,
    )
    taken = sum(part.env_steps for part in done)
    whole = num_seeds * int(env_steps[:, -1].sum())

    def state_of(run: tuple[int, int] | None, which: str) -> Any:
        for (_, points), part in zip(parts, done, strict=True):
            if run is not None and run[0] in points:
                return getattr(part.ends, which)
        return None

    return Sweep(
        results,
        state_of(results.best(), "best"),
        state_of(results.worst(), "worst"),
        sum(worker.seconds_compile for worker in workers),
        sum(part.seconds_run for part in done),
        len(groups),
        taken,
        1 - taken / whole,
        sum(worker.seconds_rungs for worker in workers),
    )


def _asked(
    problem: Problem, points: Sequence[Point], how: dict[str, Any]
) -> dict[str, Any]:
    """All that a sweep depends on, by name, as it is after it was a file."""
    its_points = {f"point {i}": str(point) for i, point in enumerate(points)}
    return json.loads(dumps(its_points | problem.described() | how))


def check_sweep(
    problem: Problem,
    points: Sequence[Point],
    num_seeds: int,
    num_evaluations: int,
    rungs: Sequence[float],
    target: float | None,
) -> tuple[tuple[Group, ...], np.ndarray]:
    """Checks what `sweep` is given.

    Returns:
        The points by what they compile to, and at which shares of a run, from 0 to 1,
        it is evaluated.

    Raises:
        ValueError: nothing is to be swept, or a value cannot be.
    """
    groups = group(problem, points)
    most = min(num_evaluations, *(its.num_updates for its in groups))
    for name, value in (("num_seeds", num_seeds), ("num_evaluations", num_evaluations)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}. Raise it.")
    if wrong := [share for share in rungs if not 0 < share < 1]:
        raise ValueError(
            f"rungs must be shares of a run in (0, 1), got {wrong[0]}. Use 0.25, say."
        )
    moments = np.linspace(0, 1, most + 1)
    its_updates = np.rint(moments * groups[0].num_updates)
    if rungs and (
        most < 2 or len({nearest(its_updates, x) for x in rungs}) < len(rungs)
    ):
        raise ValueError(
            f"rungs need an evaluation each, between the first and the last, got the "
            f"rungs {list(rungs)} and {most} evaluations. Raise num_evaluations, or "
            f"total_steps."
        )
    if target is not None and (not rungs or not np.isfinite(target)):
        raise ValueError(
            f"target, the return to stop at, must be finite, and is looked at on rungs, "
            f"got {target} and {len(rungs)} rungs. Add rungs, or leave it out."
        )
    return groups, moments
