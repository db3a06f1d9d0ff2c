"""Runs a sweep: populations one after another, each saved when it is done."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.numerics.identity import identity
from rljax.numerics.processes import agree, is_main
from rljax.numerics.validation import check_at_least
from rljax.sweeps.points import Point, plain
from rljax.sweeps.population_run import PopulationRunner, Rungs, nearest
from rljax.sweeps.problem import Group, Problem, group, in_words
from rljax.sweeps.results import Results, no_results
from rljax.sweeps.store import BestAndWorst
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
        num_compilations: programs that train.
        env_steps: environment steps of all runs together.
        updates_saved: share of the updates that rungs saved.
        seconds_rungs: seconds of `seconds_compile` after the first rung; what this
            process had compiled before takes none.
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
    folder: Path | str | None = None,
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
        seed: seeds all runs.
        num_evaluations: evaluations after the first, at equal distances.
        rungs: fractions of a run, each in (0, 1), at whose evaluation the worse half of
            the configurations of a population is dropped, those first that have diverged.
        target: a return; a configuration all of whose runs have it at a rung is solved,
            and ends there.
        folder: of the populations that are done, from which the sweep goes on; new, or
            of the same sweep.
        checkpoint_every: seconds after which an unfinished population is saved, too.
        max_bytes: memory for a population's runs; by default most of what is free.
        should_stop: called between updates; returns the reason to stop, such as a
            signal's name, or None. Progress is then saved in the folder.

    Raises:
        RunError: it was stopped, or the folder holds another sweep.
        ValueError: an argument is out of its range; before any compiling.
    """
    points = [plain(point) for point in points]
    folder = None if folder is None else Path(folder)
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
    by_name = {f"point {i}": identity(point) for i, point in enumerate(points)}
    settings = by_name | problem.described() | settings | {"seed": seed}
    settings = json.loads(dumps(settings))
    _plan(runners, settings, len(points), num_seeds, folder, max_bytes)
    todo = [(runner, members) for runner in runners for members in runner.populations()]
    if rungs and len(todo) > len(runners):
        log_line(
            f"warning: rungs compare the configurations of one population only, and there "
            f"are {len(todo)} populations"
        )
    stops = Rungs(tuple(rungs), np.inf if target is None else target)
    results = no_results(points, num_seeds, len(eval_fractions))
    ends: dict[int, BestAndWorst] = {}
    env_steps, seconds_run = 0, 0.0
    for number, (runner, members) in enumerate(todo):
        path = None if folder is None else folder / "populations" / f"{number:03d}"
        name = f"population {number + 1}/{len(todo)}"
        progress, states = runner.run(
            members, stops, path, checkpoint_every, should_stop, name
        )
        results.fill(list(members), runner.env_steps, progress)
        ends |= dict.fromkeys(members, states)
        env_steps += runner.env_steps_of(progress)
        seconds_run += progress.seconds
    most_steps = num_seeds * int(results.env_steps[:, -1].sum())
    best, worst = results.best(), results.worst()
    return Sweep(
        results=results,
        best=best and ends[best[0]].best,
        worst=worst and ends[worst[0]].worst,
        seconds_compile=sum(runner.seconds_compile for runner in runners),
        seconds_run=seconds_run,
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
    """Sets each population's size: by the memory free at first, then as stored."""
    path = None if folder is None else folder / "plan.json"
    if agree(path is not None and path.exists()):
        assert path is not None
        stored = read_json(path)
        if other := differences(stored.get("settings", {}), settings):
            raise RunError(
                f"{folder} holds another sweep: {'; '.join(other[:3])}. Repeat that one, "
                f"or choose another folder."
            )
        sizes = stored.get("sizes", [])
        most = [len(runner.group.points) for runner in runners]
        if len(sizes) != len(runners) or not all(
            type(size) is int and 0 < size <= count
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
    log_line(words := in_words(num_points, num_seeds, costs, count))
    if path is not None and is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        sizes = [runner.size for runner in runners]
        plan = {"plan": words, "sizes": sizes, "settings": settings}
        write_atomically(path, dumps(plan, indent=1) + "\n")


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
        ValueError: one is out of its range.
    """
    groups = group(problem, points)
    most = min(num_evaluations, *(x.num_updates for x in groups))
    check_at_least(1, num_seeds=num_seeds, num_evaluations=num_evaluations)
    if wrong := [share for share in rungs if not 0 < share < 1]:
        raise ValueError(
            f"rungs must be shares of a run in (0, 1), got {wrong[0]}. Use 0.25, say."
        )
    eval_fractions = np.linspace(0, 1, most + 1)
    eval_updates = np.rint(eval_fractions * groups[0].num_updates)
    halvings = {nearest(eval_updates, share) for share in rungs}
    if rungs and (most < 2 or len(halvings) < len(rungs)):
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
