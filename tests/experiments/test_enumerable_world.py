"""A sweep of a world whose best policies are known: figures, page, and going on."""

import functools
import json
import re
import types
from pathlib import Path

import enumerable_world
import enumerated
import jax
import numpy as np
import pytest

from rljax.rlhf import policy
from rljax.sweeps.results import Results
from rljax.training.files import RunError
from rljax.training.run_folder import RunFolder, RunOptions


def tiny(folder, **more):
    options = {"betas": (0.5, 2.0), "num_seeds": 2, "num_updates": 2}
    run = RunOptions(out=folder, **more)
    return enumerable_world.Experiment(num_samples=8, run=run, **options)


@pytest.fixture(scope="module")
def world():
    """Another one, as `make_world` takes its time."""
    init = functools.partial(enumerated.MODULE.init, method="logits")
    params = jax.jit(init)(jax.random.key(0), np.zeros((1, 1), np.int32))["params"]
    return enumerated.World(params, jax.random.normal(jax.random.key(1), (625,)))


@pytest.mark.slow
def test_the_distance_from_the_best_follows_from_the_objective(world):
    """J* - J is beta KL(pi || pi*): beside a direct sum, in float64."""
    other = jax.tree.map(lambda x: 1.5 * x, world.params)
    log_probs = jax.jit(enumerated.log_probs)
    tables = log_probs(world.params), log_probs(other), world.rewards
    reference, found, rewards = (np.asarray(x, np.float64) for x in tables)
    best = enumerated.best_of(world, [0.5, 2.0])

    @jax.jit
    def objective(params, task, beta):
        numbers = policy.PolicyHyperparams(beta=beta)
        state = types.SimpleNamespace(params=params, hyperparams=numbers)
        return enumerated.objective(enumerated.MODULE, state, task, None)

    for i, beta in enumerate([0.5, 2.0]):
        weights = np.exp(reference + rewards / beta)
        star = np.log(weights / weights.sum())
        kl = (np.exp(star) * (star - reference)).sum()
        assert best.kl[i] == pytest.approx(kl, rel=1e-4)
        mean = (np.exp(star) * rewards).sum()
        assert best.reward[i] == pytest.approx(mean, rel=1e-4)
        largest = beta * np.log(weights.sum())
        assert best.objective[i] == pytest.approx(largest, rel=1e-4)
        distance = (np.exp(found) * (found - star)).sum()
        assert distance > 0.1
        reached = objective(other, enumerated.make_task(world), beta)
        assert best.objective[i] - reached == pytest.approx(beta * distance, rel=1e-4)


def test_betas_are_compared_with_the_best_there_can_be(world):
    best = enumerated.best_of(world, [0.5, 2.0])
    returns = best.objective[:, None, None] - np.array([0.1, 0.2, np.nan])[:, None]
    returns = np.broadcast_to(returns, (2, 3, 1)).copy()
    metrics = {"kl": np.arange(6.0).reshape(2, 3, 1), "reward": np.ones((2, 3, 1))}
    status = np.array([["finished", "finished", "diverged"]] * 2)
    points = ({"beta": 0.5}, {"beta": 2.0})
    steps, reached = np.ones((2, 1), int), np.zeros(2, int)
    results = Results(points, (0, 1, 2), steps, returns, status, reached, metrics)
    low, high = enumerated.compare(results, (0.5, 2.0), best)
    assert low["distance"] == pytest.approx(0.3, abs=1e-5)
    assert low["largest_distance"] == pytest.approx(0.4, abs=1e-5)
    assert high["distance"] == pytest.approx(0.075, abs=1e-5)
    assert (low["kl"], high["kl"]) == (0.5, 3.5)
    assert (low["best_kl"], low["best_reward"]) == best.places[0]


@pytest.mark.slow
def test_betas_are_swept_in_one_program_and_shown_beside_the_frontier(tmp_path):
    result = enumerable_world.main(tiny(tmp_path))
    assert (result["runs"], result["finished"], result["compilations"]) == (4, 4, 1)
    assert result["completions"] == 4 * 2 * 8
    low, high = result["betas"]
    assert (low["beta"], high["beta"]) == (0.5, 2.0)
    assert low["best_kl"] > high["best_kl"] > 0
    assert low["best_reward"] > high["best_reward"]
    distances = [row["largest_distance"] for row in result["betas"]]
    assert result["largest_distance"] == max(distances) > min(distances) > 0
    chart = trade_off(tmp_path)
    assert [len(ends) for ends in chart["ends"]] == [2, 2]
    ends = np.array(chart["ends"])[:, :, 1:].mean(axis=1)
    means = [[row["kl"], row["reward"]] for row in (low, high)]
    np.testing.assert_allclose(sorted(ends.tolist()), sorted(means), rtol=1e-4)
    assert len(chart["line"]) == 100
    goals = [[row["best_kl"], row["best_reward"]] for row in (low, high)]
    np.testing.assert_allclose(sorted(chart["goals"]), sorted(goals), rtol=1e-6)
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
    assert enumerable_world.main(tiny(tmp_path)) == result


@pytest.mark.slow
def test_stopped_in_the_middle_it_goes_on_to_the_same_result(tmp_path, monkeypatch):
    whole = enumerable_world.main(tiny(tmp_path / "whole"))
    calls = iter([None])
    with monkeypatch.context() as patch:
        stop = lambda self: next(calls, "SIGTERM")  # noqa: E731
        patch.setattr(RunFolder, "should_stop", stop)
        with pytest.raises(RunError, match="stopped by SIGTERM at 1/2 updates"):
            enumerable_world.main(tiny(tmp_path / "cut"))
    assert not (tmp_path / "cut" / "result.json").exists()
    again = enumerable_world.main(tiny(tmp_path / "cut"))
    for name in ("betas", "largest_distance", "completions"):
        assert again[name] == whole[name]
    both = [(tmp_path / name / "results.csv").read_bytes() for name in ("cut", "whole")]
    assert both[0] == both[1]
    assert trade_off(tmp_path / "cut") == trade_off(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "dpo"}, "method must be one of reinforce, rloo, "),
        ({"betas": (0.0, 1.0)}, "betas must be numbers above 0"),
        (
            {"hyperparams": policy.PolicyHyperparams(beta=0.3)},
            "beta is swept, so that 0.3 would change nothing. Leave --beta out",
        ),
    ],
)
def test_it_refuses(options, words):
    with pytest.raises(ValueError, match=words):
        enumerable_world.Experiment(**options)


def trade_off(folder: Path):
    page = (folder / "report.html").read_text()
    (text,) = re.findall(r'type="application/json">(.*?)</script>', page)
    return json.loads(text)["trade_off"]
