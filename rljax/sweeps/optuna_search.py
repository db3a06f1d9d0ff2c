"""Search for good hyperparameters: Optuna proposes, populations try many at once."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rljax.extras import require
from rljax.numerics.identity import identity
from rljax.numerics.processes import agree, is_main, num_processes
from rljax.numerics.statistics import interquartile_mean
from rljax.numerics.validation import check_at_least
from rljax.sweeps.lost_trials import enqueue_again, fail, fail_lost, heartbeat
from rljax.sweeps.points import (
    LogUniform,
    OneOf,
    Point,
    Space,
    check_space,
    plain_value,
)
from rljax.sweeps.problem import Problem, group
from rljax.sweeps.runner import sweep
from rljax.training.files import RunError
from rljax.training.loggers import log_line
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

    Optuna proposes a batch of trials, which are trained as one population; the value of
    each is the interquartile mean over its seeds. A trial with a run that diverged has
    failed. A trial's user attributes are its share of the population's `env_steps`,
    `seconds_run` and `seconds_compile`. Processes may share a study of one storage, and
    come and go: the trials of one that was killed, or stopped, are tried again.

    Args:
        problem: what is swept.
        spaces: the space of each value.
        num_trials: trials of the whole study that are to be finished, by all processes;
            each that shares it may finish up to a batch more.
        batch_size: trials in one population.
        num_seeds: runs of each.
        seed: seeds the runs, alike in all trials; without a storage, the sampler, too.
        name: the study's.
        storage: an Optuna storage, or its URL; by default the study is in memory.
        sampler: an Optuna sampler; by default TPE, aware of unfinished trials.
        should_stop: called between populations; returns the reason to stop, such as a
            signal's name, or None.

    Returns:
        The `optuna.Study`; its `best_params` are a point. Their value is too high, as
        the best of many: train them anew, with another seed, for an unbiased one.

    Raises:
        ImportError: Optuna, or the storage's database driver, is not installed.
        ValueError: an argument is out of its range; before anything compiles.
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
    if num_processes() > 1 and storage is None:
        raise ValueError(
            "a search by several processes needs a storage that all of them can read, got "
            "none. Name a database, such as sqlite:///study.db."
        )
    study = None
    if is_main():
        study = _study(name, storage, sampler)
    agree(None)  # there is a study that the others find
    study = study or _study(name, storage, sampler)
    settings = {what: identity(space) for what, space in spaces.items()}
    settings |= problem.described() | {"num_seeds": num_seeds, "seed": seed}
    stored = study.user_attrs.get("settings", {} if study.trials else settings)
    if other := differences(stored, settings):
        raise RunError(
            f"the study {name!r} is of another search: {'; '.join(other[:3])}. Repeat "
            f"that one, or name another study."
        )
    study.set_user_attr("settings", settings)
    while (left := agree(num_trials - len(trained(study)))) > 0:
        trials = []
        if is_main():
            fail_lost(study)
            trials = [study.ask() for _ in range(min(left, batch_size))]
        try:
            with heartbeat(trials):
                points = agree([_point(trial, spaces) for trial in trials])
                made = sweep(
                    problem, points, num_seeds=num_seeds, seed=seed, num_evaluations=1
                )
        except BaseException:
            for trial in trials:  # they must not look as if they were still running
                if fail(study, trial):
                    enqueue_again(study, trial)
            raise
        costs = {
            "seconds_run": made.seconds_run / len(points),
            "seconds_compile": made.seconds_compile / len(points),
            "env_steps": made.env_steps // len(points),
        }
        # Only the first process has trials to tell the values of.
        for trial, scores in zip(trials, made.results.final, strict=False):
            _tell(study, trial, scores, costs)
        done = agree(len(trained(study)))
        if (reason := should_stop()) and done < num_trials:
            kept = "nothing was kept" if storage is None else "the same command goes on"
            so_far = f"{done} of {num_trials} trials"
            raise RunError(f"stopped by {reason} after {so_far}: {kept}.")
    return study


def trained(study: Any) -> list[Any]:
    """The trials of a study that were trained to their ends, diverged or not."""
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get("retried") for trial in trials}
    return [
        trial
        for trial in trials
        if trial.state.is_finished()
        and "env_steps" in trial.user_attrs
        and trial.number not in retried  # its job was killed while it told the value
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
    check_at_least(1, **counts, num_seeds=num_seeds)
    if not spaces:
        raise ValueError("a search needs at least one space, got none. Add one.")
    for what, space in spaces.items():
        check_space(what, space)
        for choice in space.values if isinstance(space, OneOf) else ():
            if isinstance(choice, tuple):
                raise ValueError(
                    f"a search takes numbers, got {space}. Use grid for those."
                )
            group(problem, [{what: choice}])
    for quantile in (0.0, 0.5, 1.0):
        group(problem, [{what: space.at(quantile) for what, space in spaces.items()}])


def _study(name: str, storage: Any, sampler: Any) -> Any:
    """A new study, or the one of this name that the storage has."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    reason = None
    settings = {"study_name": name, "storage": storage, "sampler": sampler}
    for _ in range(3):
        try:
            return optuna.create_study(
                direction="maximize", load_if_exists=True, **settings
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
        if isinstance(space, OneOf):
            choices = list(map(plain_value, space.values))
            point[name] = trial.suggest_categorical(name, choices)
        else:
            log = isinstance(space, LogUniform)
            point[name] = trial.suggest_float(name, space.low, space.high, log=log)
    return point


def _tell(study: Any, trial: Any, scores: Any, costs: dict[str, float]) -> None:
    """Stores a trial's costs and value, or that it diverged."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    try:
        for what, cost in costs.items():
            trial.set_user_attr(what, cost)
        if np.isfinite(scores).all():
            study.tell(trial, interquartile_mean(scores), skip_if_finished=True)
        else:
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
    except UpdateFinishedTrialError:
        log_line(f"trial {trial.number} was taken for lost; what it found is dropped")
