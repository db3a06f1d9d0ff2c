"""Files of a finished sweep: figures, tables, curves, the best run, and one page."""

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

import rljax.training.checkpoint
from rljax.numerics.processes import is_main
from rljax.numerics.statistics import summarize
from rljax.report.pages import save_report
from rljax.report.plots import sweep_curves
from rljax.report.policy_replay import play_policies
from rljax.report.replay import replay
from rljax.sweeps.results import DIVERGED


def figures(done: Any, *, target: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """The best configuration's returns, and the cost of all runs, for `finish`.

    `done` is the result of `rljax.sweeps.runner.sweep`; a run whose return is at least
    `target` counts as solved.
    """
    best, status = done.results.summary()[0], done.results.status
    result = summarize(done.results.final[best["index"]]) | {
        "best": best["label"] if done.results.best() else None,
        "runs": status.size,
        "diverged": int((status == DIVERGED).sum()),
        "solved": int((done.results.final >= target).sum()),
        "compilations": done.num_compilations,
        "updates_saved": done.updates_saved,
        "seconds_compile": done.seconds_compile,
        "seconds_rungs": done.seconds_rungs,
    }
    return result, {"env_steps": done.env_steps, "seconds_run": done.seconds_run}


def save(
    folder: Path | str,
    done: Any,
    env: Any,
    policy: Callable[[Mapping[str, Any], Any], Any],
    make_task: Callable[[Mapping[str, Any]], Any],
    *,
    title: str,
    versions: Mapping[str, str],
    target: float,
    target_name: str,
    max_steps: int,
    ceiling: float | None = None,
    frames_per_second: float = 50.0,
    tensorboard: bool = False,
) -> None:
    """Writes `results.csv`, `runs/*.jsonl`, `learning_curves.png` and `report.html`.

    And checkpoints of the best and the worst run's states, in `best/` and `worst/`. All
    of several processes call it, and the first one writes.

    Args:
        folder: where to write them.
        done: the result of `rljax.sweeps.runner.sweep`.
        env: the environment.
        policy: makes `(observation, key) -> action` of a configuration and a run's state.
        make_task: the environment's parameters of a configuration.
        title: of the report.
        versions: of packages, by name.
        target: a return to mark.
        target_name: label of the mark.
        max_steps: bound on an episode's length.
        ceiling: the largest possible return, for the axis.
        frames_per_second: steps per second of the replays.
        tensorboard: also write a log of every run into `tensorboard/`.
    """
    folder = Path(folder)
    results, curves = done.results, folder / "learning_curves.png"
    ends = {"best": results.best(), "worst": results.worst()}
    for name in [name for name, run in ends.items() if run is not None]:
        state = getattr(done, name)
        rljax.training.checkpoint.save(folder / name, int(state.step), state, {})
    if not is_main():
        return
    results.save(folder, tensorboard=tensorboard)
    marks: Any = {"target": target, "target_name": target_name, "ceiling": ceiling}
    sweep_curves(curves, results, title=title, **marks)
    replays = []
    for name, run in ends.items():
        if run is not None:
            state = getattr(done, name)
            label = f"{name}: {results.label(run[0])}, seed {run[1]}"
            point = results.configurations[run[0]]
            task, policies = make_task(point), {label: policy(point, state)}
            key = jax.random.key(0)
            episodes = play_policies(key, env, task, policies, max_steps=max_steps)
            replays.append(replay(env, task, episodes[label], label))
    save_report(
        folder / "report.html",
        results,
        title=title,
        command=shlex.join(["python", *sys.argv]),
        versions=versions,
        replays=replays,
        frames_per_second=frames_per_second,
        target=target,
    )
