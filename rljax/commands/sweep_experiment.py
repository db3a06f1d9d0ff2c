"""A sweep as an experiment: a run directory, a table, a report."""

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Any

from rljax.base import AlgorithmModule
from rljax.extras import require
from rljax.report import sweep_report
from rljax.report.policy_replay import require_pictures
from rljax.report.tables import say_results
from rljax.sweeps.points import Point
from rljax.sweeps.problem import make_problem, replaced
from rljax.sweeps.runner import check_sweep, sweep
from rljax.training.manifest import manifest
from rljax.training.populations import field_names
from rljax.training.run_folder import RunFolder


def check_flags(settings: Any, swept: Collection[str]) -> None:
    """Raises a ValueError if a setting was changed that is swept anyway."""
    for field in dataclasses.fields(settings):
        if field.name not in ("config", "hyperparams"):
            continue
        assert field.default_factory is not dataclasses.MISSING
        part, default = getattr(settings, field.name), field.default_factory()
        for name in set(field_names(part)) & set(swept):
            if getattr(part, name) != getattr(default, name):
                flag = "--" + name.replace("_", "-")
                raise ValueError(
                    f"{name} is swept, so that {getattr(part, name)} would change "
                    f"nothing. Leave {flag} out."
                )


def run_sweep(
    name: str,
    settings: Any,
    algorithm: AlgorithmModule,
    env: Any,
    network: Any,
    task: Any,
    points: Sequence[Point],
    *,
    title: str,
    target: float,
    target_name: str,
    ceiling: float | None = None,
    frames_per_second: float = 50.0,
) -> dict[str, Any]:
    """Sweeps, or goes on, or repeats the result; writes tables, a report and replays.

    `settings` is the experiment: it has `config`, `hyperparams`, `total_steps`,
    `num_episodes`, `seed`, `num_seeds`, `num_evaluations`, `rungs`, `stop_at_return`
    and `run`. `algorithm` is a module, such as `rljax.algorithms.ppo`; `network` is
    hashable. A run counts as solved from the return `target`; no return exceeds
    `ceiling`.

    Returns:
        The best configuration's figures, and what all runs took.
    """
    folder = settings.run.out
    problem = make_problem(
        algorithm,
        env,
        network,
        task,
        total_steps=settings.total_steps,
        num_episodes=settings.num_episodes,
        config=settings.config,
        hyperparams=settings.hyperparams,
    )
    names = ("num_seeds", "num_evaluations", "rungs")
    how = {name: getattr(settings, name) for name in names}
    how["target"] = settings.stop_at_return
    # Before there is a run directory.
    check_flags(settings, points[0])
    check_sweep(problem, points, **how)
    with RunFolder(name, settings, settings.run) as run:
        if run.result is not None:
            return run.result
        if folder is not None:
            require_pictures()
        if settings.run.tensorboard:
            require("tensorboardX", "TensorBoard logs need", "log")
        done = sweep(
            problem,
            points,
            **how,
            seed=settings.seed,
            folder=folder,
            checkpoint_every=settings.run.checkpoint_every,
            should_stop=run.should_stop,
        )
        say_results(done.results)
        if folder is not None:
            sweep_report.save(
                folder,
                done,
                env,
                lambda point, state: functools.partial(
                    algorithm.act, replaced(network, point), state, greedy=True
                ),
                functools.partial(replaced, task),
                title=title,
                versions=manifest("", settings)["versions"],
                target=target,
                target_name=target_name,
                max_steps=task.max_steps,
                ceiling=ceiling,
                frames_per_second=frames_per_second,
                tensorboard=settings.run.tensorboard,
            )
        return run.finish(*sweep_report.figures(done, target=target))
