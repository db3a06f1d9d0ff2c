"""Stages: killed anywhere and repeated, a recipe ends with the same table."""

import dataclasses
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from rljax.base import Algorithm, Mean
from rljax.rlhf.recipes import Stages
from rljax.training import checkpoint, run_folder
from rljax.training.files import RunError
from rljax.training.run_folder import RunOptions, UsageError

WANTED = np.linspace(-1.0, 1.0, 8, dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Settings:
    updates: int = 4


class Descent(struct.PyTreeNode):
    """Walks to what the task wants, with noise, so that its key matters."""

    key: jax.Array
    step: jax.Array
    params: jax.Array


def init(key, rate, task):
    return Descent(key, jnp.int32(0), task["params"] + 0 * rate)


def step(state, task):
    key, noise = jax.random.split(state.key)
    error = task["wanted"] - state.params + 0.1 * jax.random.normal(noise, (8,))
    loss = Mean.of((error**2).mean())
    params = state.params + 0.5 * error
    return state.replace(key=key, step=state.step + 1, params=params), {"loss": loss}


def walk(calls):
    """An algorithm like any other, whose checks are counted."""
    return Algorithm(init, step, lambda state, task: calls.append("train"))


def recipe(folder, *, calls=None, fail=None, settings=Settings()):
    """Two trainings with something computed between them; fails where it is told to."""
    calls = [] if calls is None else calls

    def evaluate(params):
        calls.append("evaluate")
        if fail == ("evaluate", calls.count("evaluate")):
            raise RuntimeError("pulled out")
        return {"near": -((params - WANTED) ** 2), "first": params[0]}

    def on_log(params):
        calls.append("log")
        if fail == ("log", calls.count("log")):
            raise RuntimeError("pulled out")
        return {"nearest": jnp.abs(params - WANTED).max()}

    def half(params):
        calls.append("half")
        return {"ids": jnp.arange(3), "wanted": params / 2, "none": None}, {"kept": 3}

    options = RunOptions(out=folder, checkpoint_every=0.0)
    stages, params = Stages("walk", settings, options), jnp.zeros(8)
    stages.measure("start", lambda: evaluate(params))
    wanted, before = jnp.asarray(WANTED), "start"
    for i, stage in enumerate(("out", "back")):
        params = stages.train(
            stage, walk(calls), {"params": params, "wanted": wanted}, jnp.float32(0.5),
            key=jax.random.key(i), num_updates=settings.updates, rows_per_update=4,
            params_of=lambda state: state.params, evaluate=evaluate,
            improves="near", before=stages.measured[before], log_every=2,
            on_log_evaluate=on_log,
        )  # fmt: skip
        before, wanted = stage, jnp.asarray(WANTED)
        if stage == "out":
            found = stages.compute("half", lambda found=params: half(found))
            assert found["ids"].dtype == jnp.int32
            assert "none" not in found
            wanted = found["wanted"]
    return stages.table, np.asarray(params)


def without_times(table):
    return [
        {name: x for name, x in row.items() if not name.startswith("seconds")}
        for row in table
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture(scope="module")
def whole(folder):
    return recipe(folder)


def check_same(found, whole):
    assert without_times(found[0]) == without_times(whole[0])
    np.testing.assert_array_equal(found[1], whole[1])


def test_the_table_has_what_each_stage_improved(whole):
    start, out, half, back = whole[0]
    near = -(WANTED**2)
    assert start["near"] == pytest.approx(near.mean(), rel=1e-6)
    assert out["before"] == pytest.approx(near.mean(), rel=1e-6)
    assert out["difference"] == pytest.approx(out["after"] - out["before"])
    assert out["interval"][0] > 0
    assert out["improves"] == "near"
    assert out["rows"] == 16
    assert half["rows"] == 8
    assert half["kept"] == 3
    assert back["before"] == out["near"]
    assert back["difference"] < 0
    assert [row["stage"] for row in whole[0]] == ["start", "out", "half", "back"]


def test_nothing_is_kept_without_a_folder(whole):
    check_same(recipe(None), whole)


def test_what_is_finished_is_not_run_again(whole, folder):
    calls = []
    check_same(recipe(folder, calls=calls), whole)
    assert not calls


@pytest.mark.some_cases(2)
@pytest.mark.parametrize(
    "fail",
    [
        ("log", 4),
        ("log", 1),
        ("log", 2),
        ("evaluate", 3),
        ("evaluate", 1),
        ("evaluate", 2),
    ],
)
def test_a_recipe_that_failed_goes_on_where_it_was(whole, tmp_path, fail):
    with pytest.raises(RuntimeError, match="pulled out"):
        recipe(tmp_path / "run", fail=fail)
    calls = []
    check_same(recipe(tmp_path / "run", calls=calls), whole)
    finished = [row.parent.name for row in tmp_path.glob("run/*/result.json")]
    assert sorted(finished) == ["back", "half", "out", "start"]
    if fail == ("log", 4):  # at the end of the second training, after one of two logs
        assert calls == ["train", "log", "evaluate"]


def test_a_signal_stops_it_and_the_same_command_goes_on(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "should_stop", lambda folder: "SIGTERM")
        with pytest.raises(
            RunError, match="SIGTERM at update 2 of 4: the same command"
        ):
            recipe(tmp_path / "run")
    check_same(recipe(tmp_path / "run"), whole)


def test_a_signal_while_measuring_stops_it_between_two_stages(whole, tmp_path):
    def interrupt(params):
        signal.raise_signal(signal.SIGTERM)
        return {}

    settings, options = Settings(), RunOptions(out=tmp_path / "run")
    stages = Stages("walk", settings, options)
    with pytest.raises(RunError, match="stopped by SIGTERM at the end of out"):
        stages.train(
            "out", walk([]), {"params": jnp.zeros(8), "wanted": jnp.asarray(WANTED)},
            jnp.float32(0.5), key=jax.random.key(0), num_updates=4, rows_per_update=4,
            params_of=lambda state: state.params, evaluate=interrupt,
        )  # fmt: skip
    assert (tmp_path / "run/out/result.json").exists()


def test_other_settings_and_lost_files_are_refused(whole, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    with pytest.raises(UsageError, match="updates is 4 there and 7 here"):
        recipe(tmp_path / "run", settings=Settings(7))
    arrays = tmp_path / "run/half/arrays.npz"
    for damaged in (b"", arrays.read_bytes()[:-40], b"no archive"):
        arrays.write_bytes(damaged)
        with pytest.raises(RunError, match=r"arrays\.npz cannot be read"):
            recipe(tmp_path / "run")
    for step in checkpoint.steps(tmp_path / "run/out/checkpoints"):
        (tmp_path / f"run/out/checkpoints/{step:012d}").rename(tmp_path / str(step))
    with pytest.raises(RunError, match="has no checkpoint any more"):
        recipe(tmp_path / "run")


def test_one_name_for_two_stages_is_refused():
    stages = Stages("walk", Settings(), RunOptions())
    stages.measure("start", lambda: {"near": np.zeros(3)})
    with pytest.raises(ValueError, match="name of its own, got 'start' twice"):
        stages.measure("start", dict)


def test_a_measure_that_is_missing_is_named():
    stages = Stages("walk", Settings(), RunOptions())
    task = {"params": jnp.zeros(8), "wanted": jnp.asarray(WANTED)}
    with pytest.raises(ValueError, match="measures before a stage must have 'near'"):
        stages.train(
            "out", walk([]), task, jnp.float32(0.5), key=jax.random.key(0),
            num_updates=1, rows_per_update=4, params_of=lambda state: state.params,
            evaluate=lambda params: {"near": params}, improves="near", before={"x": 0},
        )  # fmt: skip


def test_the_means_are_in_each_stages_result(whole, folder):
    result = json.loads((folder / "out/result.json").read_text())
    assert {name: result[name] for name in ("near", "first")} == {
        name: whole[0][1][name] for name in ("near", "first")
    }
