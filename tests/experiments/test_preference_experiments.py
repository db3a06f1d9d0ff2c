"""Experiments that learn from preferences: figures, pictures, and going on after a kill."""

import dataclasses
import json

import cartpole_preferences
import numpy as np
import preferences_report
import pytest
import sweep_preferences
import thermostat_preferences

from rljax.algorithms.ppo import PPOConfig
from rljax.envs import HARD_PLANT, Thermostat, ThermostatParams
from rljax.rlhf.segments import PreferenceConfig, PreferenceHyperparams
from rljax.training.run_folder import RunOptions
from rljax.training.run_logger import RunLogger

TINY = PreferenceConfig(
    num_rounds=3,
    max_comparisons=8,
    collect_envs=2,
    collect_steps=20,
    fit_steps=2,
    fit_batch=4,
    policy_updates=1,
    agent=PPOConfig(num_envs=2, num_steps=8, num_epochs=1, num_minibatches=1),
)
NUMBERS = PreferenceHyperparams(num_comparisons=7)
HEADLINE = {
    "device", "seconds_compile", "seconds_run", "env_steps", "env_steps_per_second",
    "returns", "return_iqm", "return_ci95", "comparisons",
}  # fmt: skip


def thermostat(folder, **options):
    return thermostat_preferences.Experiment(
        config=TINY,
        hyperparams=NUMBERS,
        num_seeds=2,
        num_episodes=3,
        run=RunOptions(out=folder, **options),
    )


def rows(folder):
    """A run's rows without what depends on the clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    clock = ("seconds_run", "env_steps_per_second")
    return [
        {name: x for name, x in json.loads(line).items() if name not in clock}
        for line in lines
    ]


@pytest.mark.slow
def test_the_thermostat_is_learned_drawn_and_after_a_kill_goes_on_with_the_same_bits(
    tmp_path, monkeypatch, capsys
):
    whole = thermostat_preferences.main(thermostat(tmp_path / "whole"))
    assert whole.keys() >= HEADLINE | {"return_optimum", "within_1_percent"}
    assert len(whole["returns"]) == 2
    assert whole["comparisons"] == 7
    assert whole["env_steps"] == 2 * 3 * (2 * 20 + 16)
    assert max(whole["returns"]) <= whole["return_optimum"] + 0.5 <= 200.5
    assert "the most that is possible" in capsys.readouterr().err
    for name in ("rewards.png", "returns.png", "episodes.png", "replay.gif"):
        assert (tmp_path / "whole" / name).stat().st_size > 10_000
    entries = rows(tmp_path / "whole")
    assert [np.mean(row.get("comparisons", 0)) for row in entries] == [0, 2, 4, 7]
    assert np.shape(entries[-1]["learned_reward"]) == (2, 2, 81)

    killed = thermostat(tmp_path / "killed", checkpoint_every=0)
    on_log = RunLogger.on_log

    def die(self, state, entry):
        stop = on_log(self, state, entry)
        if entry.step == 2:
            raise InterruptedError
        return stop

    with monkeypatch.context() as patch:
        patch.setattr(RunLogger, "on_log", die)
        with pytest.raises(InterruptedError):
            thermostat_preferences.main(killed)
    resumed = thermostat_preferences.main(killed)
    assert "going on from update 2" in capsys.readouterr().err
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    for name in ("returns", "return_optimum", "within_1_percent", "env_steps"):
        assert resumed[name] == whole[name]
    assert thermostat_preferences.main(killed) == resumed


@pytest.mark.parametrize("room", [ThermostatParams(), HARD_PLANT])
def test_the_reward_is_drawn_over_the_temperature_that_a_step_leads_to(room):
    env = Thermostat()
    observations, actions = preferences_report._before(room)
    for heater in (0, 1):
        for i in (0, 30, 80):
            now = room.target + 10 * observations[heater, i, 0]
            state, _ = env.reset_from_noise(np.zeros(1, np.float32), room)
            state = state.replace(temperature=np.float32(now))
            noise = np.full(1, 0.5, np.float32)
            after, _ = env.step_from_noise(noise, state, actions[heater, i], room)
            wanted = room.target + np.linspace(-10, 10, 81)[i]
            assert float(after.temperature) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.slow
def test_numbers_of_comparisons_are_swept_and_drawn(tmp_path):
    experiment = sweep_preferences.Experiment(
        config=TINY,
        comparisons=(3, 7),
        num_seeds=2,
        num_episodes=3,
        run=RunOptions(out=tmp_path),
    )
    result = sweep_preferences.main(experiment)
    assert result.keys() >= HEADLINE - {"comparisons"} | {"best", "runs"}
    assert (result["runs"], result["compilations"]) == (4, 1)
    for name in ("preferences.png", "learning_curves.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    assert "num_comparisons" in (tmp_path / "results.csv").read_text()
    assert sweep_preferences.main(experiment) == result


def test_a_sweep_needs_room_for_its_comparisons(tmp_path):
    with pytest.raises(ValueError, match="at most max_comparisons, got 9 and 8"):
        sweep_preferences.Experiment(config=TINY, comparisons=(3, 9))
    with pytest.raises(ValueError, match="room must be default or hard"):
        sweep_preferences.Experiment(room="cellar")


@pytest.mark.slow
def test_cartpole_is_learned_from_preferences_by_the_same_code(tmp_path):
    config = dataclasses.replace(
        TINY, utility=cartpole_preferences.standing_in_the_middle, centred=False
    )
    experiment = cartpole_preferences.Experiment(
        config=config,
        hyperparams=NUMBERS,
        num_seeds=2,
        num_episodes=3,
        run=RunOptions(out=tmp_path),
    )
    result = cartpole_preferences.main(experiment)
    assert result.keys() >= HEADLINE
    assert (tmp_path / "learning_curve.png").stat().st_size > 10_000
    assert cartpole_preferences.main(experiment) == result
