"""Runs a sweep: populations one after another, each saved when it is done."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.sweeps.points import Point, plain
from rljax.sweeps.population_run import PopulationRunner, Rungs, nearest
from rljax.sweeps.problem import Group, Problem, group, in_words
from rljax.sweeps.results import Results, no_results
from rljax.training.files import RunError, dumps, read_json, write_atomically
from rljax.training.loggers import log_line
from rljax.training.manifest import differences


class Sweep(NamedTuple):
    """The outcome of a sweep.

    Attributes:
        results: every run's evaluations.
        best: the final state of the best configuration's best run; None if no run
            finished. Where some were solved at a rung, the best is of those.
        worst: that of the worst run.
        seconds_compile: seconds spent compiling, in this process.
        seconds_run: all other seconds of training and evaluating, in all processes.
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
    should_stop: Callable[[], str | None] = lambda: None,
) -> Sweep:
    """Trains every point with every seed, on all devices, and evaluates as it goes.

    Seed i has the same keys in every configuration. The plan is printed first.

    Args:
        problem: what is swept.
        points: the configurations, as `grid` or `random_points` make them.
        num_seeds: runs of each.
        seed: what the seeds' keys come from.
        num_evaluations: evaluations after the first, at equal distances.
        rungs: fractions of a run, each in (0, 1), at whose evaluation the worse half of
            the configurations of a population is dropped, those first that have diverged.
        target: a return; a configuration all of whose runs have it at a rung is solved,
            and ends there.
        folder: each population is saved there when it is done, and the sweep goes on
            from those; it holds nothing, or the same sweep.
        checkpoint_every: seconds after which an unfinished population is saved, too.
        max_bytes: of memory for all the runs of a population; by default most of what is
            free.
        should_stop: called between updates; returns the reason to stop, such as a
            signal's name, or None. What was done is then saved in the folder.

    Raises:
        RunError: it was stopped, or the folder holds another sweep.
        ValueError: nothing is to be swept, or a value cannot be; before any compiling.
    """
    points = [plain(point) for point in points]
    settings: dict[str, Any] = {
        "num_seeds": num_seeds,
        "num_evaluations": num_evaluations,
        "rungs": tuple(rungs),
        "target": target,
    }
    groups, eval_fractions = check_sweep(problem, points, **settings)
    seeds_key, evaluation_key = jax.random.split(jax.random.key(seed), 2)
    keys = jax.random.split(seeds_key, num_seeds)
    runners = [
        PopulationRunner(problem, group_, keys, evaluation_key, eval_fractions)
        for group_ in groups
    ]
    settings = _settings(problem, points, settings | {"seed": seed})
    _plan(runners, settings, len(points), num_seeds, folder, max_bytes)
    todo = [(runner, members) for runner in runners for members in runner.populations()]
    if rungs and len(todo) > len(runners):
        log_line(
            f"warning: rungs compare the configurations of one population only, and there "
            f"are {len(todo)} populations"
        )
    stops = Rungs(tuple(rungs), np.inf if target is None else target)
    results = no_results(points, num_seeds, len(eval_fractions))
    done = []
    for number, (runner, members) in enumerate(todo):
        path = None if folder is None else folder / "populations" / f"{number:03d}"
        name = f"population {number + 1}/{len(todo)}"
        result = runner.run(members, stops, path, checkpoint_every, should_stop, name)
        results.fill(list(members), runner.env_steps, result)
        done.append((members, result))
    env_steps = sum(result.env_steps for _, result in done)
    most_steps = num_seeds * int(results.env_steps[:, -1].sum())

    def state_of(run: tuple[int, int] | None, which: str) -> Any:
        for members, result in done:
            if run is not None and run[0] in members:
                return getattr(result.ends, which)
        return None

    return Sweep(
        results=results,
        best=state_of(results.best(), "best"),
        worst=state_of(results.worst(), "worst"),
        seconds_compile=sum(runner.seconds_compile for runner in runners),
        seconds_run=sum(result.seconds_run for _, result in done),
        num_compilations=len(groups),
        env_steps=env_steps,
        updates_saved=1 - env_steps / most_steps,
        seconds_rungs=sum(runner.seconds_rungs for runner in runners),
    )


def _plan(
    runners: Sequence[PopulationRunner],
    settings: dict[str, Any],
    num_points: int,
    num_seeds: int,
    folder: Path | None,
    max_bytes: float | None,
) -> None:
    """Decides how many points each population has, or reads it from the folder.

    How much memory was free at the start decides what the populations are, for good.
    """
    path = None if folder is None else folder / "plan.json"
    if path is not None and path.exists():
        stored = read_json(path)
        if other := differences(stored.get("settings", {}), settings):
            raise RunError(
                f"{folder} holds another sweep: {'; '.join(other[:3])}. Repeat that one, "
                f"or choose another folder."
            )
        sizes = stored.get("sizes", [])
        most = [len(runner.group.points) for runner in runners]
        if len(sizes) != len(runners) or any(
            type(size) is not int or not 0 < size <= count
            for size, count in zip(sizes, most, strict=True)
        ):
            raise RunError(
                f"{path} is not this sweep's: sizes are {sizes}, of {most} points. "
                f"Restore it, or choose another folder."
            )
        for runner, size in zip(runners, sizes, strict=True):
            runner.size = size
        return
    costs = [runner.plan(max_bytes) for runner in runners]
    count = sum(len(runner.populations()) for runner in runners)
    words = in_words(num_points, num_seeds, costs, count)
    log_line(words)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        sizes = [runner.size for runner in runners]
        plan = {"plan": words, "sizes": sizes, "settings": settings}
        write_atomically(path, dumps(plan, indent=1) + "\n")


def _settings(
    problem: Problem, points: Sequence[Point], settings: dict[str, Any]
) -> dict[str, Any]:
    """All that a sweep depends on, by name, as JSON reads it back."""
    by_name = {f"point {i}": str(point) for i, point in enumerate(points)}
    return json.loads(dumps(by_name | problem.described() | settings))


def check_sweep(
    problem: Problem,
    points: Sequence[Point],
    num_seeds: int,
    num_evaluations: int,
    rungs: Sequence[float],
    target: float | None,
) -> tuple[tuple[Group, ...], np.ndarray]:
    """Checks the arguments of `sweep`.

    Returns:
        The points by what they compile to, and the fractions of a run, from 0 to 1, at
        which it is evaluated.

    Raises:
        ValueError: nothing is to be swept, or a value cannot be.
    """
    groups = group(problem, points)
    most = min(num_evaluations, *(x.num_updates for x in groups))
    for name, value in (("num_seeds", num_seeds), ("num_evaluations", num_evaluations)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}. Raise it.")
    if wrong := [share for share in rungs if not 0 < share < 1]:
        raise ValueError(
            f"rungs must be shares of a run in (0, 1), got {wrong[0]}. Use 0.25, say."
        )
    eval_fractions = np.linspace(0, 1, most + 1)
    eval_updates = np.rint(eval_fractions * groups[0].num_updates)
    if rungs and (
        most < 2 or len({nearest(eval_updates, x) for x in rungs}) < len(rungs)
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
    return groups, eval_fractions
