"""Optuna proposes, populations try: alone, and two processes on one storage."""

import subprocess
import sys

import optuna
import pytest
from climber import CLIMB
from test_runner import PROBLEM

import rljax.sweeps.optuna_search
from rljax.sweeps.optuna_search import search, trained
from rljax.sweeps.points import LogUniform, OneOf, Uniform
from rljax.training.files import RunError


@pytest.mark.slow
def test_it_finds_the_steepest_climb(capfd):
    study = search(
        CLIMB, {"rate": Uniform(-5.0, 5.0)}, num_trials=64, batch_size=16, num_seeds=1
    )
    assert len(study.trials) == 64
    assert study.best_value == pytest.approx(8 * study.best_params["rate"], rel=1e-5)
    assert study.best_params["rate"] > 4.5
    # Far fewer trials go where the climb leads down than a blind search would send.
    downwards = sum(trial.params["rate"] < 0 for trial in study.trials[16:])
    assert downwards < 12


@pytest.mark.slow
def test_it_makes_no_more_trials_than_asked_for(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    about = {"batch_size": 4, "num_seeds": 1, "storage": storage}
    for num_trials in (6, 6, 7):
        study = search(CLIMB, {"rate": Uniform(0, 5)}, num_trials=num_trials, **about)
        assert len(study.trials) == num_trials
    # Who goes on does not propose again what was tried.
    assert len({trial.params["rate"] for trial in study.trials}) == 7


def test_without_a_storage_it_proposes_the_same_again():
    about = {"num_trials": 4, "batch_size": 4, "num_seeds": 1}
    first, again, other = (
        search(CLIMB, {"rate": Uniform(0, 5)}, seed=seed, **about).trials
        for seed in (0, 0, 1)
    )
    assert [x.params for x in first] == [x.params for x in again]
    assert [x.params for x in first] != [x.params for x in other]


def test_a_search_that_is_stopped_goes_on(tmp_path, monkeypatch):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    about = {"num_trials": 6, "batch_size": 2, "num_seeds": 1, "storage": storage}
    spaces = {"rate": Uniform(0, 5)}
    with pytest.raises(RunError, match="stopped by SIGTERM after 2 of 6 trials"):
        search(CLIMB, spaces, **about, should_stop=lambda: "SIGTERM")
    with monkeypatch.context() as patched:
        patched.setattr(rljax.sweeps.optuna_search, "sweep", stopped_at_once)
        with pytest.raises(KeyboardInterrupt):
            search(CLIMB, spaces, **about)
    study = search(CLIMB, spaces, **about)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 2 + ["FAIL"] * 2 + ["COMPLETE"] * 4
    assert len(trained(study)) == 6


def stopped_at_once(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_study_of_another_search_is_refused(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    about = {"num_trials": 1, "batch_size": 1, "storage": storage}
    search(CLIMB, {"rate": Uniform(0, 5)}, num_seeds=1, **about)
    for what, spaces, num_seeds in (
        ("rate is", {"rate": Uniform(0, 6)}, 1),
        ("slope is absent", {"rate": Uniform(0, 5), "slope": Uniform(0, 1)}, 1),
        ("num_seeds is 1 there and 2", {"rate": Uniform(0, 5)}, 2),
    ):
        with pytest.raises(RunError, match=f"of another search: {what}"):
            search(CLIMB, spaces, num_seeds=num_seeds, **about)


@pytest.mark.parametrize("storage", ["nonsense", "sqlite:////proc/none/study.db"])
def test_a_storage_that_cannot_be_used_is_named(storage):
    about = {"num_trials": 1, "batch_size": 1, "num_seeds": 1}
    with pytest.raises(RunError, match=f"the storage '{storage}' cannot be used"):
        search(CLIMB, {"rate": Uniform(0, 5)}, storage=storage, **about)


def test_trials_that_diverge_are_told_as_failed():
    study = search(
        CLIMB, {"rate": OneOf((1.0, 3e38))}, num_trials=8, batch_size=8, num_seeds=1
    )
    states = {trial.params["rate"]: trial.state.name for trial in study.trials}
    assert states == {1.0: "COMPLETE", 3e38: "FAIL"}


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    code = f"""
import sys; sys.path.insert(0, "tests")
from climber import CLIMB
from rljax.sweeps.optuna_search import search
from rljax.sweeps.points import Uniform
search(CLIMB, {{"rate": Uniform(0.0, 5.0)}}, num_trials=24, batch_size=4, num_seeds=1,
       storage={storage!r})
"""
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    study = optuna.load_study(study_name="rljax", storage=storage)
    assert 24 <= len(study.trials) <= 28
    assert len({trial.params["rate"] for trial in study.trials}) == len(study.trials)


@pytest.mark.parametrize(
    ("spaces", "match"),
    [
        ({}, "at least one space"),
        ({"gama": Uniform(0, 1)}, "Did you mean gamma"),
        ({"gamma": Uniform(0, 2)}, r"gamma must lie in \[0, 1\], got 2"),
        ({"learning_rate": LogUniform(0, 1)}, "low > 0"),
        ({"gamma": OneOf((0.9, 1.5, 0.95))}, r"gamma must lie in \[0, 1\], got 1.5"),
        ({"hidden": OneOf(((8,), (8, 8)))}, "a search takes numbers"),
    ],
)
def test_it_refuses_what_cannot_be_searched(spaces, match):
    with pytest.raises(ValueError, match=match):
        search(PROBLEM, spaces, num_trials=1, batch_size=1, num_seeds=1)
