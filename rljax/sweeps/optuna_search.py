"""Search for good hyperparameters: Optuna proposes, populations try many at once."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rljax.extras import require
from rljax.numerics.statistics import interquartile_mean
from rljax.sweeps.points import LogUniform, OneOf, Point, Space, Uniform, check_space
from rljax.sweeps.problem import Problem, group
from rljax.sweeps.results import FINISHED
from rljax.sweeps.runner import sweep
from rljax.training.files import RunError
from rljax.training.manifest import differences


def search(
    problem: Problem,
    spaces: dict[str, Space],
    *,
    num_trials: int,
    batch_size: int,
    num_seeds: int,
    seed: int = 0,
    name: str = "rljax",
    storage: Any = None,
    sampler: Any = None,
    should_stop: Callable[[], str | None] = lambda: None,
) -> Any:
    """Looks for the configuration of the highest final return.

    Asks Optuna for a batch of trials, trains them as one population, tells it the
    interquartile mean of each one's seeds, and so on. A trial of which a run diverged is
    told as failed. A trial's user attributes are its share of the population's `env_steps`,
    `seconds_run` and `seconds_compile`. Processes that name the same study in one storage
    share its trials.

    Args:
        problem: what is swept.
        spaces: where each value is looked for.
        num_trials: trials of the whole study that are to be finished, whoever ran them;
            processes that share it may finish up to a batch each more.
        batch_size: trials in one population.
        num_seeds: runs of each.
        seed: what the runs' keys come from, the same for all trials; and the sampler's
            choices, without a storage.
        name: the study's.
        storage: an Optuna storage, or its URL; by default the study is in memory.
        sampler: an Optuna sampler; by default TPE, aware of what others are trying.
        should_stop: called between populations; returns the reason to stop, such as a
            signal's name, or None.

    Returns:
        The `optuna.Study`; its `best_params` are a point. What was best of many was also
        lucky: train it anew, with another seed, to know how good it is.

    Raises:
        ImportError: Optuna, or the storage's database driver, is not installed.
        ValueError: nothing is to be tried, or cannot be; before anything compiles.
        RunError: the storage cannot be used, its study is of another search, or it was
            stopped.

    References:
        Akiba et al. (2019), https://arxiv.org/abs/1907.10902.
    """
    optuna = require("optuna", "a search needs", "sweep")
    check_search(problem, spaces, num_trials, batch_size, num_seeds)
    if sampler is None:
        # Processes that share a study must not all propose the same.
        sampler_seed = seed if storage is None else None
        sampler = optuna.samplers.TPESampler(seed=sampler_seed, constant_liar=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _study(name, storage, sampler)
    settings = {what: repr(space) for what, space in spaces.items()}
    settings |= problem.described() | {"num_seeds": num_seeds, "seed": seed}
    stored = study.user_attrs.get("settings", settings)
    if other := differences(stored, settings):
        raise RunError(
            f"the study {name!r} is of another search: {'; '.join(other[:3])}. Repeat "
            f"that one, or name another study."
        )
    study.set_user_attr("settings", settings)
    while (count := min(num_trials - len(trained(study)), batch_size)) > 0:
        trials = [study.ask() for _ in range(count)]
        points = [_point(trial, spaces) for trial in trials]
        try:
            made = sweep(
                problem, points, num_seeds=num_seeds, seed=seed, num_evaluations=1
            )
        except BaseException:
            for trial in trials:  # they must not look as if they were still running
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            raise
        results = made.results
        for trial, scores, status in zip(
            trials, results.final, results.status, strict=True
        ):
            trial.set_user_attr("env_steps", made.env_steps // len(trials))
            for what in ("seconds_run", "seconds_compile"):
                trial.set_user_attr(what, getattr(made, what) / len(trials))
            if np.all(status == FINISHED):
                study.tell(trial, interquartile_mean(scores))
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if (reason := should_stop()) and len(trained(study)) < num_trials:
            kept = "nothing was kept" if storage is None else "the same command goes on"
            so_far = f"{len(trained(study))} of {num_trials} trials"
            raise RunError(f"stopped by {reason} after {so_far}: {kept}.")
    return study


def trained(study: Any) -> list[Any]:
    """The trials of a study that were trained to their ends, diverged or not."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and "env_steps" in trial.user_attrs
    ]


def check_search(
    problem: Problem,
    spaces: dict[str, Space],
    num_trials: int,
    batch_size: int,
    num_seeds: int,
) -> None:
    """Raises a ValueError if there is nothing to try, or something that cannot be."""
    counts = {"num_trials": num_trials, "batch_size": batch_size}
    for what, value in (counts | {"num_seeds": num_seeds}).items():
        if value < 1:
            raise ValueError(f"{what} must be at least 1, got {value}. Raise it.")
    if not spaces:
        raise ValueError("a search needs at least one space, got none. Add one.")
    for what, space in spaces.items():
        check_space(what, space)
        if isinstance(space, OneOf) and any(isinstance(x, tuple) for x in space.values):
            raise ValueError(
                f"a search takes numbers, got {space}. Use grid for those."
            )
        if isinstance(space, OneOf):
            for choice in space.values:
                group(problem, [{what: choice}])
    for quantile in (0.0, 0.5, 1.0):
        group(problem, [{what: space.at(quantile) for what, space in spaces.items()}])


def _study(name: str, storage: Any, sampler: Any) -> Any:
    """A new study, or the one of this name that the storage has."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    reason = None
    for _ in range(3):
        try:
            return optuna.create_study(
                direction="maximize",
                study_name=name,
                storage=storage,
                sampler=sampler,
                load_if_exists=True,
            )
        except (ValueError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
            reason = error
            time.sleep(0.3)  # another process may be making the same tables
    raise RunError(
        f"the storage {storage!r} cannot be used: {str(reason).splitlines()[0]}. Name a "
        f"database, such as sqlite:///study.db, that can be written."
    ) from reason


def _point(trial: Any, spaces: dict[str, Space]) -> Point:
    point: Point = {}
    for name, space in spaces.items():
        match space:
            case OneOf(values):
                point[name] = trial.suggest_categorical(name, list(values))
            case LogUniform(low, high):
                point[name] = trial.suggest_float(name, low, high, log=True)
            case Uniform(low, high):
                point[name] = trial.suggest_float(name, low, high)
    return point
