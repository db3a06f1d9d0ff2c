"""Every experiment runs, as a function and as a command."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path

import cartpole_ppo
import numpy as np
import pytest
import robustness_cartpole
import score_completions
import search_cartpole
import sweep_cartpole
import sweep_thermostat
import thermostat_ppo
from PIL import Image

from rljax.algorithms.ppo import PPOConfig, PPOHyperparams
from rljax.commands.launch import launch
from rljax.training.files import RunError
from rljax.training.run_folder import RunOptions

ROOT = Path(__file__).parents[2]

TINY = PPOConfig(num_envs=2, num_steps=8, num_epochs=1, num_minibatches=1)
HEADLINE = {
    "device", "seconds_compile", "seconds_run", "env_steps", "env_steps_per_second",
    "returns", "return_iqm", "return_ci95",
}  # fmt: skip


def command(*flags, script="cartpole_ppo"):
    """Runs an experiment as its users do."""
    path = ROOT / "experiments" / f"{script}.py"
    arguments = [sys.executable, path, *map(str, flags)]
    environment = os.environ | {"COLUMNS": "80", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.run(
        arguments, capture_output=True, text=True, env=environment, timeout=300
    )


@pytest.fixture
def launched(monkeypatch, capfd):
    """Runs an experiment's command line in this process, which is quicker."""

    def run(*flags, script=cartpole_ppo):
        monkeypatch.setattr(sys, "argv", [script.__file__, *map(str, flags)])
        monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
        monkeypatch.setenv("COLUMNS", "80")
        code = 0
        try:
            launch(script.main, script.Experiment, script.__doc__)
        except SystemExit as end:
            code = end.code
        return subprocess.CompletedProcess(flags, code, *capfd.readouterr())

    return run


@pytest.mark.slow
def test_cartpole_trains_and_draws(tmp_path):
    experiment = cartpole_ppo.Experiment(
        config=TINY,
        num_seeds=2,
        total_steps=70,
        num_evaluations=2,
        num_episodes=3,
        run=RunOptions(out=tmp_path),
    )
    result = cartpole_ppo.main(experiment)
    assert result.keys() >= HEADLINE
    assert result["env_steps"] == 2 * 64  # the largest number of updates in the budget
    assert len(result["returns"]) == 2
    assert (tmp_path / "learning_curve.png").stat().st_size > 10_000
    assert "untrained" in (tmp_path / "replay.html").read_text()
    with Image.open(tmp_path / "replay.gif") as replay:
        assert replay.n_frames > 5
    assert cartpole_ppo.main(experiment) == result


@pytest.mark.slow
def test_the_thermostat_trains_compares_and_draws(tmp_path, capsys):
    experiment = thermostat_ppo.Experiment(
        hard=True,
        config=TINY,
        num_seeds=2,
        total_steps=40,
        num_evaluations=2,
        num_episodes=3,
        run=RunOptions(out=tmp_path),
    )
    result = thermostat_ppo.main(experiment)
    assert result.keys() >= HEADLINE
    assert result["env_steps"] == 2 * 32
    for name in ("returns", "returns_untrained", "critic_errors"):
        assert len(result[name]) == 2
    best = [result["return_best_policy"], result["return_optimum"]]
    assert best == [pytest.approx(196, abs=3)] * 2
    table = capsys.readouterr().err
    for row in (
        "untrained",
        "on below the target",
        "learned",
        "best",
        "optimum, exact",
    ):
        assert row in table
    assert max(map(len, table.splitlines())) <= 80
    for name in ("learning_curve.png", "policy.png", "episodes.png", "replay.gif"):
        assert (tmp_path / name).stat().st_size > 10_000
    assert "on below the target" in (tmp_path / "replay.html").read_text()
    assert thermostat_ppo.main(experiment) == result
    assert capsys.readouterr().err == table[table.index("policy ") :]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "values"),
    [
        (sweep_cartpole, {"learning_rates": (1e-3, 1e-2)}),
        pytest.param(
            sweep_thermostat,
            {"heatings": (1.0, 3.0), "gammas": (0.9,)},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_sweep_trains_and_reports(script, values, tmp_path, capsys):
    experiment = script.Experiment(
        config=TINY, num_seeds=2, total_steps=40, num_evaluations=2, num_episodes=3,
        run=RunOptions(out=tmp_path, tensorboard=True), **values,
    )  # fmt: skip
    result = script.main(experiment)
    assert result.keys() >= HEADLINE | {"best", "runs", "diverged", "solved"}
    assert (result["runs"], result["compilations"]) == (4, 1)
    assert result["env_steps"] == 4 * 32
    said = capsys.readouterr().err
    assert "2 configurations x 2 seeds = 4 runs in 1 compilation, about" in said
    assert max(map(len, said.splitlines())) <= 80
    names = [f"000{c}-seed-{s}" for c in range(2) for s in range(2)]
    assert sorted(path.stem for path in (tmp_path / "runs").iterdir()) == names
    for name in names:
        *_, last = (tmp_path / "runs" / f"{name}.jsonl").read_text().splitlines()
        assert json.loads(last).keys() >= {"return", "status", "train/learning_rate"}
        (log,) = (tmp_path / "tensorboard" / name).iterdir()
        assert b"train/value_loss" in log.read_bytes()
    assert (tmp_path / "learning_curves.png").stat().st_size > 10_000
    page = (tmp_path / "report.html").read_text()
    assert result["best"] in page
    assert script.main(experiment) == result
    assert (tmp_path / "best").is_dir()


@pytest.mark.slow
def test_a_search_proposes_and_tries_the_best_anew(tmp_path):
    experiment = search_cartpole.Experiment(
        config=TINY, num_trials=2, batch_size=2, num_seeds=2, num_seeds_at_end=4,
        total_steps=40, num_episodes=3, run=RunOptions(out=tmp_path),
    )  # fmt: skip
    result = search_cartpole.main(experiment)
    assert result.keys() >= HEADLINE
    assert (result["trials"], len(result["returns"])) == (2, 4)
    assert result["best"].keys() == {"learning_rate", "gamma"}
    assert result["env_steps"] == 2 * 2 * 32 + 4 * 32
    assert (tmp_path / "study.db").exists()
    assert search_cartpole.main(experiment) == result


@pytest.mark.parametrize(
    ("script", "wrong", "words"),
    [
        (sweep_cartpole, {"learning_rates": (-1.0,)}, "learning_rate must lie in"),
        (sweep_cartpole, {"learning_rates": ()}, "learning_rate needs at least one"),
        (sweep_cartpole, {"stop_at_return": 475.0}, "the return to stop at"),
        (sweep_cartpole, {"rungs": (2.0,)}, "rungs must be shares"),
        (
            sweep_cartpole,
            {"hyperparams": PPOHyperparams(learning_rate=0.5)},
            "Leave --learning-rate out",
        ),
        (sweep_thermostat, {"gammas": (0.9, 1.0)}, "gammas must be below 1"),
        (robustness_cartpole, {"num_lengths": 1}, "num_lengths must be at least 2"),
        (search_cartpole, {"lowest_gamma": 2.0}, "gamma must be drawn from"),
    ],
)
def test_a_sweep_that_cannot_be_leaves_no_trace(script, wrong, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        script.main(script.Experiment(run=RunOptions(out=tmp_path / "it"), **wrong))
    assert not (tmp_path / "it").exists()


@pytest.mark.slow
def test_robustness_trains_and_draws_a_map(tmp_path):
    experiment = robustness_cartpole.Experiment(
        config=TINY, total_steps=40, num_lengths=3, num_masses=5, num_episodes=2,
        run=RunOptions(out=tmp_path),
    )  # fmt: skip
    result = robustness_cartpole.main(experiment)
    assert result.keys() >= HEADLINE
    assert result["plants"] == 15
    assert (tmp_path / "robustness.png").stat().st_size > 10_000
    table = np.loadtxt(tmp_path / "robustness.csv", delimiter=",", skiprows=1)
    assert table.shape == (15, 3)
    assert np.all(np.diff(table[:, 0]) >= 0)
    assert robustness_cartpole.main(experiment) == result


def test_a_return_to_stop_at_is_a_number():
    with pytest.raises(ValueError, match="stop_at_return must be a number"):
        cartpole_ppo.Experiment(stop_at_return=math.nan)


@pytest.mark.slow
def test_it_stops_early_once_every_run_has_the_return_asked_for():
    experiment = cartpole_ppo.Experiment(
        config=TINY, num_seeds=2, total_steps=640, num_evaluations=4, num_episodes=3,
        stop_at_return=1.0,
    )  # fmt: skip
    assert cartpole_ppo.main(experiment)["env_steps"] == 0


def test_the_last_line_is_the_result_and_progress_goes_to_stderr(tmp_path, launched):
    flags = [
        *("--num-envs", 2, "--num-steps", 8, "--num-minibatches", 1, "--num-seeds", 1),
        *("--total-steps", 64, "--num-episodes", 2, "--out", tmp_path / "run"),
    ]
    done = command(*flags)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line).keys() >= HEADLINE
    assert json.loads(line)["return_ci95"] is None  # one run says nothing of spread
    assert "update 4/4" in done.stderr

    again = command(*flags)
    assert (again.returncode, again.stdout) == (0, done.stdout)

    other = launched(*flags, "--seed", 1)
    assert other.returncode == 2
    assert other.stdout == ""
    assert other.stderr.startswith("error: ")
    assert "seed is 0 there and 1 here" in other.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning-rat", "1"], "Unrecognized options"),
        (["--num-seeds", "many"], "--num-seeds"),
        (["--num-seeds", "0"], "num_seeds must be at least 1"),
        (["--total-steps", "511"], "at least one update, got"),
        (["--num-minibatches", "5"], "must be divisible by"),
        (["--seed", "4294967296"], "seed must lie in"),
        (["--num-envs", "20000000000"], "must be less than 2**31"),
        (["--tensorboard"], "tensorboard needs a directory"),
        (["--gamma", "1.5"], "gamma must lie in"),
        (["--checkpoint-every", "-1"], "checkpoint_every must be"),
    ],
)
def test_bad_usage_is_one_message_and_exit_status_2(flags, message, launched):
    done = launched(*flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_what_an_experiment_refuses_is_one_message_and_exit_status_2():
    done = command("--gamma", "1", script="thermostat_ppo")
    assert done.returncode == 2
    assert "gamma must be below 1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_run_that_diverges_is_one_line_and_exit_status_1(launched):
    done = launched(
        *("--num-envs", 2, "--num-steps", 8, "--num-minibatches", 1, "--num-seeds", 1),
        *("--total-steps", 64, "--num-episodes", 2, "--learning-rate", 1e30),
    )
    assert (done.returncode, done.stdout) == (1, "")
    *_, last = done.stderr.splitlines()
    assert last.startswith("error: training diverged: the run has ")
    assert "found at update 1;" in last


def test_a_directory_that_cannot_be_made_is_one_line_and_exit_status_1(launched):
    done = launched("--out", "/proc/nothing/can/be/made/here")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("script", [cartpole_ppo, thermostat_ppo])
def test_help_describes_every_flag(script, launched):
    text = launched("--help", script=script).stdout
    for flag in ("--seed", "--num-envs", "--learning-rate", "--out", "--total-steps"):
        assert flag in text
    assert max(len(line) for line in text.splitlines()) <= 84


@pytest.mark.slow
def test_completions_are_scored_and_drawn(tmp_path):
    experiment = score_completions.Experiment(num_pairs=40, out=tmp_path)
    result = score_completions.main(experiment)
    assert result.keys() >= {
        "device", "seconds_compile", "seconds_run", "pairs", "tokens",
        "tokens_per_second", "compile_count", "padding_share", "length_correlation",
    }  # fmt: skip
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == result["pairs"] == 40
    scores = [row["score"] for row in rows]
    lengths = [len(row["completion"]) for row in rows]
    expected = np.corrcoef(scores, lengths)[0, 1]
    assert result["length_correlation"] == pytest.approx(expected)
    assert (tmp_path / "scores.png").stat().st_size > 10_000
    assert score_completions.main(experiment) == result
    with pytest.raises(RunError, match="num_pairs is 40 there and 41 here"):
        score_completions.main(dataclasses.replace(experiment, num_pairs=41))


@pytest.mark.slow
def test_pairs_are_judged(tmp_path):
    row = {"prompt": "is it warm", "chosen": "not very", "rejected": "very"}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    result = score_completions.main(
        score_completions.Experiment(input=tmp_path / "in.jsonl")
    )
    assert result["pairs"] == 2
    assert result["pair_accuracy"] in (0, 1)
