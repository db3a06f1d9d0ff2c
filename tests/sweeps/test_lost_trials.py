"""Jobs come and go: what one leaves behind when it is killed, another one tries again."""

import subprocess
import sys
import threading
import time

import optuna
import pytest
from climber import CLIMB

import rljax.sweeps.lost_trials
import rljax.sweeps.optuna_search
from rljax.sweeps.lost_trials import MAX_RETRIES, fail_lost, heartbeat
from rljax.sweeps.optuna_search import search, trained
from rljax.sweeps.points import LogUniform, OneOf, Uniform

# SQLite stores on another thread, too, and a journal compares workers by theirs.
STORAGES = "memory", "sqlite", "journal"
ABOUT = {"batch_size": 2, "num_seeds": 1, "name": "study"}
SPACES = {"rate": Uniform(0, 5)}


def only(*names):  # where the storage matters less, the quick ones
    return pytest.mark.parametrize("storage", names, indirect=True)


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory):
    path = tmp_path_factory.mktemp("sqlite") / "study.db"
    return optuna.storages.RDBStorage(f"sqlite:///{path}")


@pytest.fixture(params=STORAGES)
def storage(request, tmp_path):
    if request.param == "memory":
        yield optuna.storages.InMemoryStorage()
    elif request.param == "sqlite":
        yield (database := request.getfixturevalue("sqlite"))  # its tables take a while
        optuna.delete_study(storage=database, study_name="study")
    else:
        backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal"))
        yield optuna.storages.JournalStorage(backend)


@pytest.fixture
def study(storage):
    return optuna.create_study(storage=storage, study_name="study")


def start(study, heartbeat_ago=None):
    trial = study.ask()
    trial.suggest_float("rate", 0, 5)
    if heartbeat_ago is not None:
        trial.set_user_attr("heartbeat", time.time() - heartbeat_ago)
    return trial


def states(study):
    return [trial.state.name for trial in study.trials]


def test_only_trials_without_a_recent_heartbeat_are_lost(study, capfd):
    alive, lost = start(study, 100), start(study, 140)
    start(study)  # it has just begun
    fail_lost(study)
    assert states(study) == ["RUNNING", "FAIL", "RUNNING", "WAITING"]
    line = "trial 1 was lost with its job; it is tried again\n"
    assert capfd.readouterr().err == line
    fail_lost(study, grace=90)
    assert states(study)[:3] == ["FAIL", "FAIL", "RUNNING"]
    fail_lost(study, grace=-1)  # whatever runs
    assert states(study)[:3] == ["FAIL"] * 3
    again = [start(study) for _ in range(3)]
    assert [x.params for x in again] == [study.trials[i].params for i in (1, 0, 2)]
    assert [x.user_attrs for x in again] == [{"retried": i} for i in (1, 0, 2)]
    assert alive.params != lost.params


@only("sqlite")
def test_values_of_all_kinds_are_tried_again_exactly(storage, monkeypatch):
    seen = []

    def stopped_at_once(problem, points, **settings):
        seen.append(points)
        raise KeyboardInterrupt

    monkeypatch.setattr(rljax.sweeps.optuna_search, "sweep", stopped_at_once)
    spaces = {"rate": LogUniform(1e-5, 1.0), "slope": Uniform(0, 1)}
    spaces |= {"width": OneOf((1, 2, 3)), "batch_size": OneOf((1, 2))}
    monkeypatch.setattr(rljax.sweeps.lost_trials, "MAX_RETRIES", 1)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            search(CLIMB, spaces, num_trials=2, storage=storage, **ABOUT)
    first, again, other = seen
    assert again == first
    assert other != first  # it may be the points that stop it
    study = optuna.load_study(storage=storage, study_name="study")
    assert (
        states(study)[-2:] == ["WAITING"] * 2
    )  # the other points are tried again, too


@only("memory")
def test_a_point_that_kills_its_jobs_is_given_up(study, capfd):
    params = start(study, 140).params
    for _ in range(MAX_RETRIES):
        fail_lost(study)
        assert start(study, 140).params == params
    fail_lost(study)
    assert states(study) == ["FAIL"] * (1 + MAX_RETRIES)
    *again, given_up = capfd.readouterr().err.splitlines()
    assert all("tried again" in line for line in again)
    assert given_up == "trial 3 was lost with its job; it is given up after 4 tries"


@only("memory")
def test_a_retry_that_was_lost_before_its_parameters_were_read(study):
    params = start(study, 140).params
    fail_lost(study)
    study.ask()
    fail_lost(study, grace=-1)
    assert start(study).params == params


def test_of_two_jobs_that_find_the_same_trials_one_retries_each(
    study, storage, monkeypatch
):
    for _ in range(3):
        start(study, 140)
    other = optuna.load_study(storage=storage, study_name="study")
    tell = other.tell

    def tell_too_late(*args, **kwargs):
        monkeypatch.undo()
        fail_lost(study)
        tell(*args, **kwargs)

    monkeypatch.setattr(other, "tell", tell_too_late)
    fail_lost(other)
    assert states(study) == ["FAIL"] * 3 + ["WAITING"] * 3


def test_heartbeats_go_on_while_the_block_runs(study):
    trials = [start(study, 140), start(study, 140)]

    def times():
        return [trial.user_attrs["heartbeat"] for trial in study.trials]

    with heartbeat(trials, interval=0.01):
        first = times()
        assert min(first) > time.time() - 60
        while min(times()) <= max(first):
            assert time.time() < max(first) + 10
            time.sleep(0.01)
        num_threads = threading.active_count()
    assert threading.active_count() == num_threads - 1
    last = times()
    time.sleep(0.05)
    assert times() == last


def test_heartbeats_that_the_storage_refuses_end_nothing(study, capfd):
    trials = [start(study), start(study)]
    study.tell(trials[0], 1.0)
    with heartbeat(trials, interval=0.01):
        time.sleep(0.05)
    assert "heartbeat" in study.trials[1].user_attrs
    refused = "Trial#0 has already finished and can not be updated."
    line = f"warning: trial 0 has no heartbeat: {refused}\n"
    assert capfd.readouterr().err == line


@only("memory", "journal")
def test_lost_trials_are_trained_and_cost_no_others(storage):
    study = search(CLIMB, SPACES, num_trials=2, storage=storage, **ABOUT)
    lost = [start(study, 140) for _ in range(3)]
    # This one's job was killed between its costs and its value.
    lost[2].set_user_attr("env_steps", 8)
    study = search(CLIMB, SPACES, num_trials=6, storage=storage, **ABOUT)
    assert states(study) == ["COMPLETE"] * 2 + ["FAIL"] * 3 + ["COMPLETE"] * 4
    assert [x.params for x in study.trials[5:8]] == [x.params for x in lost]
    assert len(trained(study)) == 6


@only("sqlite", "journal")
def test_a_job_taken_for_lost_drops_what_it_found(storage, monkeypatch, capfd):
    sweep = rljax.sweeps.optuna_search.sweep

    def sleeps_too_long(*args, **kwargs):
        made = sweep(*args, **kwargs)
        fail_lost(optuna.load_study(storage=storage, study_name="study"), grace=-1)
        monkeypatch.undo()
        return made

    monkeypatch.setattr(rljax.sweeps.optuna_search, "sweep", sleeps_too_long)
    study = search(CLIMB, SPACES, num_trials=2, storage=storage, **ABOUT)
    assert states(study) == ["FAIL"] * 2 + ["COMPLETE"] * 2
    assert study.trials[0].params == study.trials[2].params
    assert "trial 0 was taken for lost" in capfd.readouterr().err


JOB = """
import functools, sys, time
sys.path.insert(0, "tests")
from climber import CLIMB
from rljax.sweeps import optuna_search
from rljax.sweeps.lost_trials import heartbeat
from rljax.sweeps.points import Uniform
def train_for_ever(*args, **kwargs):
    print("training", flush=True)
    time.sleep(100)
optuna_search.sweep = train_for_ever
optuna_search.heartbeat = functools.partial(heartbeat, interval=0.1)
optuna_search.search(CLIMB, {{"rate": Uniform(0, 5)}}, num_trials=6, batch_size=2,
                     num_seeds=1, name="study", storage={storage!r})
"""


@pytest.mark.slow
def test_a_job_killed_while_training_loses_nothing(tmp_path, monkeypatch, capfd):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    code = JOB.format(storage=storage)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as job:
        try:
            assert job.stdout.readline() == b"training\n"
            study = optuna.load_study(storage=storage, study_name="study")
            time.sleep(3)
            fail_lost(study, grace=2)
            assert states(study) == ["RUNNING"] * 2  # it lives
        finally:
            job.kill()
    time.sleep(2.2)
    monkeypatch.setattr(
        rljax.sweeps.optuna_search, "fail_lost", lambda study: fail_lost(study, grace=2)
    )
    search(CLIMB, SPACES, num_trials=6, storage=storage, **ABOUT)
    assert states(study) == ["FAIL"] * 2 + ["COMPLETE"] * 6
    assert [x.params for x in study.trials[2:4]] == [x.params for x in study.trials[:2]]
    assert len(trained(study)) == 6
    assert capfd.readouterr().err.count("was lost with its job; it is tried again") == 2
