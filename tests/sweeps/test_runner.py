"""Sweeps: each run is its solo run, in any parts, resumed or not; the worse are dropped."""

import csv
import dataclasses
import functools
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from climber import CLIMB, RATES, Rate, Shape, Slope

import rljax.sweeps.population_run
from rljax.algorithms import ppo
from rljax.algorithms.networks import ActorCritic
from rljax.envs import CartPole, CartPoleParams
from rljax.report.sweep_report import figures
from rljax.rollouts.rollout import evaluate
from rljax.sweeps.points import grid
from rljax.sweeps.population_run import PopulationRunner
from rljax.sweeps.problem import Problem, group, make_problem
from rljax.sweeps.runner import sweep
from rljax.training.files import RunError
from rljax.training.loop import train
from rljax.training.populations import member, population, replicate

ENV, NETWORK = CartPole(), ActorCritic(num_actions=2, hidden=(16,))
CONFIG = ppo.PPOConfig(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2)


def mean_return(network, state, task, key):
    act = functools.partial(ppo.act, network, state, greedy=True)
    episodes = evaluate(key, ENV, task, act, num_episodes=8, max_steps=60)
    return episodes.returns.mean()


PROBLEM = Problem(
    algorithm=functools.partial(ppo.ppo, ENV),
    evaluate=mean_return,
    network=NETWORK,
    config=CONFIG,
    hyperparams=ppo.PPOHyperparams(),
    task=CartPoleParams(),
    total_steps=2 * CONFIG.batch_size,
    prepare=lambda h, n: h.replace(decay_updates=n),
    check=ppo.check_hyperparams,
    check_task=ENV.check_params,
)
POINTS = grid(learning_rate=[1e-3, 1e-2, 3e-2], masspole=[0.1, 0.5])
SIZES = {"num_seeds": 2, "num_evaluations": 2}


@functools.cache
def whole():
    return sweep(PROBLEM, POINTS, **SIZES)


@pytest.mark.slow
def test_every_run_is_its_solo_run():
    done = whole()
    seeds_key, evaluation_key = jax.random.split(jax.random.key(0), 2)
    solo = PROBLEM.algorithm(NETWORK, CONFIG)
    at_end = jax.random.fold_in(evaluation_key, 2)
    keys = jax.random.split(seeds_key, 2)
    for c, point in enumerate(POINTS):
        for s in range(2):
            key = member(keys, s)
            hyperparams = ppo.PPOHyperparams(learning_rate=point["learning_rate"])
            task = CartPoleParams(masspole=jnp.float32(point["masspole"]))
            state = jax.jit(solo.init)(key, hyperparams.replace(decay_updates=2), task)
            state = train(solo, state, task, 2)
            its_key = jax.random.split(jax.random.clone(at_end), 2)[s]
            wanted = mean_return(NETWORK, state, task, its_key)
            np.testing.assert_allclose(done.results.final[c, s], wanted, rtol=1e-4)
            if (c, s) == done.results.best():
                best = jax.tree.map(jnp.asarray, done.best)
                chex.assert_trees_all_close(best.params, state.params, rtol=1e-4)
                chex.assert_trees_all_equal(best.key, state.key)
                chex.assert_trees_all_equal(best.hyperparams, state.hyperparams)
    assert (done.results.status == "finished").all()
    assert done.results.env_steps.tolist() == [[0, 32, 64]] * 6
    assert (done.env_steps, done.updates_saved) == (12 * 64, 0)


def test_env_steps_are_those_taken_not_the_budget():
    problem = dataclasses.replace(CLIMB, total_steps=11)
    points = grid(batch_size=[1, 3], rate=[1.0])
    done = sweep(problem, points, num_seeds=2, num_evaluations=3)
    assert done.results.env_steps.tolist() == [[0, 4, 7, 11], [0, 3, 6, 9]]
    assert done.env_steps == 2 * (11 + 9)
    assert [row["env_steps"] for row in done.results.summary()] == [11, 9]


def test_what_training_says_is_kept_for_every_run():
    """A height is a mean over the updates since the evaluation before."""
    points = grid(rate=[1.0, 10.0])
    done = sweep(CLIMB, points, num_seeds=2, num_evaluations=4, max_bytes=1.0)
    wanted = np.array([np.nan, 1.5, 3.5, 5.5, 7.5])
    heights = done.results.metrics["height"]
    np.testing.assert_allclose(heights[0], [wanted] * 2)
    np.testing.assert_allclose(heights[1], [10 * wanted] * 2)
    last = done.results.rows()[-1]
    assert (last["env_steps"], last["return"], last["train/height"]) == (8, 80.0, 75.0)


@pytest.mark.slow
def test_keys_and_start_states_are_those_of_a_solo_run_bit_for_bit():
    solo, devices = PROBLEM.algorithm(NETWORK, CONFIG), tuple(jax.devices())
    hyperparams, keys = ppo.PPOHyperparams(), jax.random.split(jax.random.key(0), 24)
    many = population(solo, devices=devices).init
    states = jax.jit(many)(keys, replicate(hyperparams, 24), CartPoleParams())
    for i in (0, 11, 23):
        alone = jax.jit(solo.init)(member(keys, i), hyperparams, CartPoleParams())
        chex.assert_trees_all_equal(member(states.key, i), alone.key)
        chex.assert_trees_all_equal(member(states.envs, i), alone.envs)


@pytest.mark.slow
def test_parts_give_what_the_whole_gives(capfd):
    parts = sweep(PROBLEM, POINTS, **SIZES, max_bytes=1.0)
    words = "6 configurations x 2 seeds = 12 runs in 1 compilation, in 6 populations one after"
    assert words in capfd.readouterr().err
    wanted = whole()
    np.testing.assert_allclose(parts.results.returns, wanted.results.returns, rtol=1e-4)
    chex.assert_trees_all_close(parts.best.params, wanted.best.params, rtol=1e-4)


def test_what_cannot_fit_is_never_made(monkeypatch):
    start_, made = PopulationRunner._start, []

    def start(self, points):
        made.append(len(points))
        return start_(self, points)

    monkeypatch.setattr(PopulationRunner, "_start", start)
    # A run has a key, a step, two numbers, and what they say: 28 bytes; there are two.
    sweep(CLIMB, RATES, num_seeds=1, max_bytes=120.0)
    assert max(made) == 2


@pytest.mark.slow
def test_static_values_make_programs_of_their_own():
    points = grid(num_steps=[4, 8], hidden=[(16,), (8, 8)], gamma=[0.9, 0.99, 1.0])
    assert [len(its.points) for its in group(PROBLEM, points)] == [3] * 4
    done = sweep(PROBLEM, points, **SIZES)
    assert done.num_compilations == 4
    alone = sweep(PROBLEM, points[3:4], **SIZES)
    np.testing.assert_allclose(
        done.results.returns[3], alone.results.returns[0], rtol=1e-4
    )
    assert done.results.label(3) == "num_steps 4, hidden 8 x 8, gamma 0.9"


@pytest.mark.slow
def test_what_compiles_to_the_same_is_compiled_once():
    points = grid(width=[1, 2], rate=[1.0, 2.0], slope=[1.0])
    assert sweep(CLIMB, points, num_seeds=1).num_compilations == 2
    count = [0]

    def compiling(event, seconds, **_):
        del seconds
        count[0] += event.endswith("backend_compile_duration")

    jax.monitoring.register_event_duration_secs_listener(compiling)
    try:
        again = grid(width=[2, 1], rate=[3.0, 4.0], slope=[2.0])
        sweep(CLIMB, again, num_seeds=1)
        assert count == [0]
        sweep(CLIMB, grid(width=[3, 1], rate=[3.0, 4.0], slope=[2.0]), num_seeds=1)
        assert count[0] > 0
    finally:
        jax.monitoring.unregister_event_duration_listener(compiling)


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_killed(tmp_path, monkeypatch, capfd):
    whole = sweep(CLIMB, RATES, num_seeds=2)
    advance, calls = PopulationRunner._advance, []

    def killed(*args, **kwargs):
        calls.append(args)
        if len(calls) == 22:  # in the third part
            raise KeyboardInterrupt
        return advance(*args, **kwargs)

    monkeypatch.setattr(PopulationRunner, "_advance", killed)
    with pytest.raises(KeyboardInterrupt):
        sweep(CLIMB, RATES, num_seeds=2, folder=tmp_path, max_bytes=1.0)
    kept = sorted((tmp_path / "populations").glob("*/result.json"))
    assert len(kept) == 2
    before = [path.stat().st_mtime_ns for path in kept]
    capfd.readouterr()
    # What is free by then does not matter: the parts stay what they were.
    done = sweep(CLIMB, RATES, num_seeds=2, folder=tmp_path)
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert "population 2/8 was done before" in capfd.readouterr().err
    np.testing.assert_array_equal(done.results.returns, whole.results.returns)
    np.testing.assert_array_equal(done.best.params, whole.best.params)
    np.testing.assert_array_equal(done.worst.params, whole.worst.params)


@pytest.mark.some_cases(1)
@pytest.mark.parametrize(
    "rungs",
    [{}, {"rungs": (0.25, 0.5)}, {"rungs": (0.25, 0.5), "target": 10.0}],
    ids=["none", "rungs", "solved"],
)
def test_a_part_goes_on_in_its_middle(rungs, tmp_path, monkeypatch, capfd):
    sizes = {"num_seeds": 2, "num_evaluations": 8, **rungs}
    whole = sweep(CLIMB, RATES, **sizes)
    advance, calls = PopulationRunner._advance, []

    def killed(*args, **kwargs):
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return advance(*args, **kwargs)

    monkeypatch.setattr(PopulationRunner, "_advance", killed)
    with pytest.raises(KeyboardInterrupt):
        sweep(CLIMB, RATES, **sizes, folder=tmp_path, checkpoint_every=0.0)
    monkeypatch.setattr(PopulationRunner, "_advance", advance)
    capfd.readouterr()
    done = sweep(CLIMB, RATES, **sizes, folder=tmp_path)
    said = capfd.readouterr().err
    assert "going on from update 6" in said
    assert "7/8 updates" in said
    assert "6/8 updates" not in said
    np.testing.assert_array_equal(done.results.returns, whole.results.returns)
    np.testing.assert_array_equal(done.results.status, whole.results.status)
    np.testing.assert_equal(done.results.metrics, whole.results.metrics)
    np.testing.assert_array_equal(done.best.params, whole.best.params)
    np.testing.assert_array_equal(done.worst.params, whole.worst.params)
    assert done.env_steps == whole.env_steps
    assert not (tmp_path / "populations" / "000" / "state").exists()


@pytest.mark.slow
def test_a_sweep_that_should_stop_keeps_what_was_done(tmp_path, capfd):
    whole = sweep(CLIMB, RATES, num_seeds=2)
    asks = iter([None, None, None, "SIGTERM"])
    about = {"num_seeds": 2, "folder": tmp_path}
    with pytest.raises(
        RunError, match=r"stopped by SIGTERM at 3/8 updates of population 1/1"
    ):
        sweep(CLIMB, RATES, **about, should_stop=lambda: next(asks))
    done = sweep(CLIMB, RATES, **about)
    assert "going on from update 3 " in capfd.readouterr().err
    np.testing.assert_array_equal(done.results.returns, whole.results.returns)
    with pytest.raises(RunError, match="nothing was kept"):
        sweep(CLIMB, RATES, num_seeds=1, should_stop=lambda: "SIGINT")


def test_between_evaluations_it_can_be_stopped_too(tmp_path, monkeypatch, capfd):
    """Where an update takes longer than a part may go unsaved: after each."""
    about = {"num_seeds": 2, "num_evaluations": 2}
    whole = sweep(CLIMB, RATES, **about)
    monkeypatch.setattr(rljax.sweeps.population_run, "_PAUSE_EVERY", 1e-9)
    asks = iter([None] * 3 + ["SIGTERM"])
    with pytest.raises(RunError, match="stopped by SIGTERM at 3/8 updates"):
        sweep(CLIMB, RATES, **about, folder=tmp_path, should_stop=lambda: next(asks))
    done = sweep(CLIMB, RATES, **about, folder=tmp_path)
    assert "going on from update 3 " in capfd.readouterr().err
    np.testing.assert_array_equal(done.results.returns, whole.results.returns)
    np.testing.assert_equal(done.results.metrics, whole.results.metrics)


@pytest.mark.slow
def test_a_sweep_goes_on_on_fewer_devices_or_more(tmp_path, monkeypatch):
    devices = jax.devices()
    points, asks = RATES[:3], {"should_stop": lambda: "SIGTERM"}
    about = {"num_seeds": 1, "folder": tmp_path, "rungs": [0.25], "num_evaluations": 8}
    for several in (devices, devices[:1]):
        monkeypatch.setattr(jax, "devices", lambda several=several: several)
        with pytest.raises(RunError, match="stopped by SIGTERM"):
            sweep(CLIMB, points, **about, **asks)
    monkeypatch.setattr(jax, "devices", lambda: devices)
    done = sweep(CLIMB, points, **about)
    np.testing.assert_allclose(done.results.final[:, 0], [np.nan, 40.0, 8.0])


def test_a_folder_of_another_sweep_is_refused(tmp_path):
    about = {"num_seeds": 1, "folder": tmp_path}
    done = sweep(CLIMB, RATES[:2], **about)
    with pytest.raises(
        RunError, match=r"point 1 is .'rate': 5.0. there and .'rate': 1.0"
    ):
        sweep(CLIMB, RATES[::2][:2], **about)
    for other in ({"seed": 1}, {"num_evaluations": 2}, {"rungs": [0.5]}):
        with pytest.raises(RunError, match=next(iter(other))):
            sweep(CLIMB, RATES[:2], **about, **other)
    elsewhere = dataclasses.replace(CLIMB, evaluate=lambda *_: jnp.float32(0))
    with pytest.raises(RunError, match=r"evaluate is .*there and .*here"):
        sweep(elsewhere, RATES[:2], **about)
    longer = dataclasses.replace(CLIMB, total_steps=9)
    with pytest.raises(RunError, match="total_steps is 8 there and 9 here"):
        sweep(longer, RATES[:2], **about)
    again = sweep(CLIMB, RATES[:2], **about)
    np.testing.assert_array_equal(again.results.returns, done.results.returns)
    plan = tmp_path / "plan.json"
    text = json.loads(plan.read_text())
    for wrong in ([0], [3], [], [1, 1]):
        plan.write_text(json.dumps(text | {"sizes": wrong}))
        with pytest.raises(RunError, match="is not this sweep's: sizes are"):
            sweep(CLIMB, RATES[:2], **about)


class Floor:
    """What a sweep is evaluated in; two of them print alike."""

    def __init__(self, heights):
        self.heights = heights

    def __call__(self, network, state, task, key):
        return state.params[0] + self.heights.sum()

    def __repr__(self):
        return "a floor"


LEVEL = np.zeros((40, 40), np.float32)
ROW = np.ones(16, np.float32)
NEXT = np.where(np.arange(16) == 9, np.nextafter(ROW, 2), ROW)
BUMP = np.where(np.arange(1600).reshape(40, 40) == 820, 1.0, LEVEL).astype(np.float32)


@pytest.mark.some_cases(1)
@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("evaluate", Floor(LEVEL), Floor(BUMP)),
        ("hyperparams", Rate(0.1), Rate(np.nextafter(0.1, 1))),
        ("task", Slope(ROW), Slope(NEXT)),
        ("network", Shape(1), Shape(True)),
    ],
    ids=["map in a plain object", "floats that print alike", "map", "kinds of number"],
)
def test_a_folder_never_answers_for_what_only_prints_alike(name, one, other, tmp_path):
    first, second = (
        dataclasses.replace(CLIMB, **{"network": Shape(16), "total_steps": 2, name: x})
        for x in (one, other)
    )
    about = {"num_seeds": 1, "num_evaluations": 1, "folder": tmp_path}
    sweep(first, RATES[:1], **about)
    with pytest.raises(RunError, match=rf"{name}\S* is .*there and .*here"):
        sweep(second, RATES[:1], **about)


@pytest.mark.slow
def test_a_default_written_as_a_whole_number_takes_any():
    problem = make_problem(
        ppo, ENV, ActorCritic(2, hidden=(4,)),
        CartPoleParams(length=1, max_steps=9), total_steps=8, num_episodes=2,
        config=ppo.PPOConfig(num_envs=2, num_steps=4, num_epochs=1, num_minibatches=1),
        hyperparams=ppo.PPOHyperparams(ent_coef=0, gamma=1, max_grad_norm=1),
    )  # fmt: skip
    points = [
        {"ent_coef": 0.01, "gamma": 0.5, "max_grad_norm": 0.1, "length": 0.25},
        {"ent_coef": 0, "gamma": 1, "max_grad_norm": 2, "length": 1},
    ]
    done = sweep(problem, points, num_seeds=1, num_evaluations=1)
    assert np.isfinite(done.results.final).all()
    kept = done.results.configurations
    assert kept[0] == points[0]
    with pytest.raises(ValueError, match="max_steps"):
        sweep(problem, [{"max_steps": 2.5}], num_seeds=1)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["torn", "none", "empty", "checkpoint", "no best"])
@pytest.mark.parametrize("when", ["done", "in its middle"])
def test_a_damaged_part_is_made_again(damage, when, tmp_path, capfd):
    whole, place = sweep(CLIMB, RATES, num_seeds=2), tmp_path / "populations" / "000"
    about = {"num_seeds": 2, "folder": tmp_path}
    if when == "done":
        sweep(CLIMB, RATES, **about)
        file, state = place / "result.json", place / "best"
    else:
        with pytest.raises(RunError):
            sweep(CLIMB, RATES, **about, should_stop=lambda: "SIGTERM")
        file, state = place / "progress.json", place / "state"
    if damage == "checkpoint":
        (checkpoint,) = state.iterdir()
        (checkpoint / "state" / "about.json").write_text("{}")
    elif damage == "no best":
        shutil.rmtree(state)
    else:
        text = {"torn": file.read_text()[:-9], "none": "", "empty": "{}"}
        file.write_text(text[damage])
    done = sweep(CLIMB, RATES, **about)
    assert f"{place} is damaged, and made again: " in capfd.readouterr().err
    np.testing.assert_array_equal(done.results.returns, whole.results.returns)
    np.testing.assert_array_equal(done.best.params, whole.best.params)


@pytest.mark.slow
def test_rungs_drop_the_worse_half_and_keep_the_winner():
    # Of a width that no other test compiles, so that rungs do compile.
    problem = dataclasses.replace(CLIMB, network=Shape(7))
    full = sweep(problem, RATES, num_seeds=2, num_evaluations=4)
    done = sweep(problem, RATES, num_seeds=2, num_evaluations=4, rungs=[0.25, 0.5])
    assert done.results.best() == full.results.best() == (1, 0)
    assert float(done.best.params[0]) == 40.0
    order = [row["index"] for row in done.results.summary()]
    assert order == [row["index"] for row in full.results.summary()]
    last = (~np.isnan(done.results.returns[:, 0])).sum(axis=1)
    by_rate = [last[i] for i in order]
    assert by_rate == [5, 5, 3, 3, 2, 2, 2, 2]
    # 8 for two updates, 4 for two, 2 for four, of 8 for 8.
    assert done.updates_saved == pytest.approx(1 - (16 + 8 + 8) / 64)
    assert 0 < done.seconds_rungs < done.seconds_compile
    assert full.seconds_rungs == 0


def test_rungs_end_what_is_solved(capfd):
    """At 2 updates 5.0 has 10, at 4 updates 3.0 and 4.0 have; 2.0 wins the rest."""
    rungs = {"rungs": [0.25, 0.5], "target": 10.0}
    done = sweep(CLIMB, RATES, num_seeds=2, num_evaluations=4, **rungs)
    results = done.results
    rates = [results.configurations[i]["rate"] for i in results.ranking()]
    assert rates == [5.0, 4.0, 3.0, 2.0, 1.0, 0.3, 0.2, 0.1]
    assert results.final[1].tolist() == [10.0, 10.0]
    assert float(done.best.params[0]) == 10.0
    assert float(done.worst.params[0]) == 10.0
    best, *_, last = results.summary()
    assert (best["env_steps"], best["finished"], best["dropped"]) == (2, 2, 0)
    assert (last["env_steps"], last["finished"], last["dropped"]) == (2, 0, 2)
    ended = [(results.status[i] == "finished").all() for i in results.ranking()]
    assert ended == [True] * 4 + [False] * 4
    # 8 for two updates, then 4, of which two are solved and one is dropped, then one.
    assert done.updates_saved == pytest.approx(1 - (16 + 8 + 4) / 64)
    said = capfd.readouterr().err
    assert "of 8 configurations 1 solved, 4 go on" in said
    assert "of 4 configurations 2 solved, 1 go on" in said


def test_a_sweep_all_of_which_is_solved_ends(capfd):
    points = grid(rate=[20.0, 10.0])
    rungs = {"rungs": [0.25, 0.5], "target": 10.0}
    done = sweep(CLIMB, points, num_seeds=1, num_evaluations=4, **rungs)
    assert done.results.final.tolist() == [[40.0], [20.0]]
    assert (float(done.best.params[0]), float(done.worst.params[0])) == (40.0, 20.0)
    assert "4/8 updates" not in capfd.readouterr().err


def test_a_run_that_diverged_is_marked_and_never_averaged_in():
    points = grid(rate=[1.0, 3e38])
    done = sweep(CLIMB, points, num_seeds=2, num_evaluations=4)
    assert done.results.status.tolist() == [["finished"] * 2, ["diverged"] * 2]
    assert np.isnan(done.results.returns[1, :, 1:]).all()
    best, worst = done.results.summary()
    assert (best["return_iqm"], worst["return_iqm"]) == (8.0, None)
    assert worst["diverged"] == 2
    assert worst["env_steps"] == 8  # as the others: it is trained on


def test_where_every_run_diverges_the_sweep_goes_on(tmp_path):
    about = {"num_seeds": 2, "folder": tmp_path, "max_bytes": 1.0}
    points = grid(rate=[1e38, 1.0, 3e38])
    for _ in range(2):
        done = sweep(CLIMB, points, **about)
        assert done.results.status[:, 0].tolist() == [
            "diverged",
            "finished",
            "diverged",
        ]
        assert done.results.best() == (1, 0)
        assert done.env_steps == 2 * sum(
            row["env_steps"] for row in done.results.summary()
        )
    alone = sweep(CLIMB, points[:1], num_seeds=1)
    assert alone.best is alone.worst is None
    assert figures(alone, target=1.0)[0]["best"] is None


def test_results_as_files(tmp_path):
    done = sweep(CLIMB, grid(rate=[1.0, 3e38]), num_seeds=2, num_evaluations=2)
    done.results.save(tmp_path)
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3
    assert rows[5] | {"configuration": "0", "seed": "1", "rate": "1.0"} == rows[5]
    assert (rows[5]["env_steps"], rows[5]["return"]) == ("8", "8.0")
    lines = (tmp_path / "runs" / "0001-seed-0.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert (last["status"], last["return"]) == ("diverged", None)


@pytest.mark.parametrize(
    ("points", "match"),
    [
        ((), "at least one point"),
        (({"gama": 1.0},), "has no 'gama'. Did you mean gamma"),
        (({"gamma": 2.0},), r"gamma must lie in \[0, 1\], got 2"),
        (({"gamma": 1.0}, {}), "only some have 'gamma'"),
        (({"hiden": (8, 8)},), "has no 'hiden'. Did you mean hidden"),
        (({"gamma": (8, 8)},), r"gamma must be numbers, got \(8, 8\)"),
        (({"num_minibatches": 5},), "must be divisible by num_minibatches"),
        (({"masspole": np.inf},), "masspole must be finite"),
        (({"masspole": -1.0},), "masspole must lie in"),
        (({"length": 0.0},), r"length must lie in \(0, inf\), got 0"),
        (({"max_steps": 20.5},), "max_steps must be whole numbers .* got 20.5"),
        (({"hidden": 32},), r"hidden must be a tuple .* such as \(16,\), got 32"),
        (({"hidden": (0,)},), r"whole numbers above 0, such as \(16,\), got \(0,\)"),
        (
            ({"num_actions": 2.5},),
            "num_actions must be of type int, such as 2, got 2.5",
        ),
        (({"num_steps": True},), "num_steps must be of type int"),
        (({"num_envs": 64},), "total_steps must pay for at least one update"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_compiles(
    points, match, monkeypatch
):
    for name in ("train", "memory_needed", "copied"):
        monkeypatch.setattr(rljax.sweeps.population_run, name, None)
    with pytest.raises(ValueError, match=match):
        sweep(PROBLEM, points, **SIZES)


def test_seeds_evaluations_and_rungs_are_checked():
    for wrong in (
        {"num_seeds": 0},
        {"num_evaluations": 0},
        {"rungs": [1.0]},
        {"rungs": [0.5], "num_evaluations": 1},
        {"rungs": [0.25, 0.5], "num_evaluations": 2},
        {"target": 1.0},
        {"target": np.nan, "rungs": [0.5]},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            sweep(CLIMB, RATES, **{"num_seeds": 1} | wrong)


def test_names_of_a_results_columns_are_refused():
    @dataclasses.dataclass(frozen=True)
    class Seeded:
        seed: int = 0

    with pytest.raises(ValueError, match="'seed' is a column"):
        group(dataclasses.replace(CLIMB, network=Seeded()), [{"seed": 1}])


def test_a_name_in_two_places_is_ambiguous():
    twice = dataclasses.replace(CLIMB, task=Rate())
    with pytest.raises(ValueError, match="it is in the hyperparams and task"):
        group(twice, RATES)


def test_an_episode_longer_than_evaluations_is_refused():
    problem = make_problem(ppo, ENV, NETWORK, CartPoleParams(), total_steps=50_000)
    with pytest.raises(ValueError, match="max_steps must be at most 500"):
        group(problem, [{"max_steps": 600}])
