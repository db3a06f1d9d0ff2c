import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.training import checkpoint, files
from rljax.training.checkpoint import CheckpointError, DamagedCheckpointError
from rljax.training.run_folder import RunOptions

STATE = {
    "key": jax.random.key_data(jax.random.key(1)),
    "nested": ({"w": jnp.arange(6.0).reshape(2, 3)}, ()),
    "tiny": jnp.float32(1e-45),
    "nan": jnp.float32(jnp.nan),
    "flag": jnp.bool_(True),
    "count": jnp.int32(7),
}


def test_an_array_of_no_elements_is_kept(tmp_path):
    state = {"a": jnp.zeros((0, 3)), "b": jnp.arange(3)}
    checkpoint.save(tmp_path, 1, state, {})
    found, _ = checkpoint.restore_latest(tmp_path, state)
    assert found["a"].shape == (0, 3)
    assert found["b"].tolist() == [0, 1, 2]


def given_away():
    x = jnp.arange(3.0)
    jax.jit(lambda x: x + 1, donate_argnums=0)(x)
    return x


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (lambda: {"a.b": jnp.int32(1), "a": {"b": jnp.int32(2)}}, "a.b twice"),
        (lambda: {"x": np.array([1 / 3])}, "float64 at state.*would become float32"),
        (lambda: {"x": np.array([2**40 + 1])}, "int64 at state.*would become int32"),
        (lambda: {}, "got none"),
        (lambda: {"x": given_away()}, "was given away"),
    ],
    ids=["one name", "float64", "int64", "empty", "donated"],
)
def test_what_would_not_come_back_is_refused(state, words, tmp_path):
    with jax.enable_x64(False), pytest.raises(TypeError, match=words):
        checkpoint.save(tmp_path, 1, state(), {})
    assert not list(tmp_path.iterdir())


def test_a_folder_may_be_given_as_text(tmp_path):
    folder, state = str(tmp_path / "a"), {"w": jnp.arange(3.0)}
    path = checkpoint.save(folder, 1, state, {})
    assert checkpoint.steps(folder) == [1]
    assert checkpoint.checksums(str(path)) == checkpoint.checksums(path)
    for restored in (
        checkpoint.restore(str(path), state),
        checkpoint.restore_latest(folder, state),
    ):
        chex.assert_trees_all_equal(restored[0], state)
    assert RunOptions(out=folder).out == Path(folder)


def test_a_state_comes_back_bit_for_bit(tmp_path):
    state = STATE | {"typed": jax.random.split(jax.random.key(3), 4)}
    path = checkpoint.save(tmp_path, 12, state, {"note": "x"})
    restored, metadata = checkpoint.restore(path, jax.eval_shape(lambda: state))
    assert metadata == {"note": "x"}
    assert restored["typed"].dtype == state["typed"].dtype
    restored["typed"] = jax.random.key_data(restored["typed"])
    state["typed"] = jax.random.key_data(state["typed"])
    chex.assert_trees_all_equal_structs(state, restored)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_restored_state_runs_the_program_of_the_one_that_was_saved(tmp_path):
    """Arrays tied to a device would be lowered, and compiled, differently."""
    state = STATE | {"typed": jax.random.key(3)}
    assert not any(x.committed for x in jax.tree.leaves(state))
    path = checkpoint.save(tmp_path, 1, state, {})
    restored, _ = checkpoint.restore(path, jax.eval_shape(lambda: state))
    assert not any(x.committed for x in jax.tree.leaves(restored))


def test_a_state_is_restored_to_the_devices_of_the_one_it_resembles(tmp_path):
    there = jax.device_put(STATE, jax.devices()[1])
    path = checkpoint.save(tmp_path, 1, there, {})
    restored, _ = checkpoint.restore(path, there)
    assert {x.device for x in jax.tree.leaves(restored)} == {jax.devices()[1]}


def test_the_newest_few_are_kept(tmp_path):
    for step in (1, 2, 10, 11):
        checkpoint.save(tmp_path, step, STATE, {}, keep=2)
    assert checkpoint.steps(tmp_path) == [10, 11]


def test_saving_the_same_step_again_replaces_it(tmp_path):
    checkpoint.save(tmp_path, 1, STATE, {"n": 1})
    checkpoint.save(tmp_path, 1, STATE, {"n": 2})
    assert checkpoint.restore_latest(tmp_path, STATE)[1] == {"n": 2}


@pytest.mark.some_cases(3)
@pytest.mark.parametrize(
    "damage", ["flip", "truncate", "remove", "add", "no sums", "list"]
)
def test_a_damaged_one_falls_back_to_the_one_before_with_a_warning(tmp_path, damage):
    checkpoint.save(tmp_path, 1, STATE, {"n": 1})
    newest = checkpoint.save(tmp_path, 2, STATE, {"n": 2})
    harm(newest, damage)
    with pytest.raises(DamagedCheckpointError, match="is damaged"):
        checkpoint.restore(newest, STATE)
    with pytest.warns(UserWarning, match="is damaged.*Going back to the one before"):
        _, metadata = checkpoint.restore_latest(tmp_path, STATE)
    assert metadata == {"n": 1}
    assert checkpoint.steps(tmp_path) == [1]  # the damaged one is out of the way


def test_names_that_are_not_checkpoints_are_passed_over(tmp_path):
    checkpoint.save(tmp_path, 7, STATE, {})
    for name in ("²", "8", "000000000009x"):
        (tmp_path / name).mkdir()
    (tmp_path / "000000000010").write_text("a file")
    assert checkpoint.steps(tmp_path) == [7]


def test_what_was_just_saved_is_never_removed(tmp_path):
    checkpoint.save(tmp_path, 10, STATE, {}, keep=1)
    assert checkpoint.save(tmp_path, 5, STATE, {}, keep=1).exists()


def test_if_all_are_damaged_it_says_so(tmp_path):
    harm(checkpoint.save(tmp_path, 1, STATE, {}), "truncate")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(CheckpointError, match=r"all 1 checkpoints .* are damaged"),
    ):
        checkpoint.restore_latest(tmp_path, STATE)


def test_an_empty_or_missing_folder_holds_none(tmp_path):
    assert checkpoint.restore_latest(tmp_path, STATE) is None
    assert checkpoint.restore_latest(tmp_path / "missing", STATE) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tiny": jnp.zeros(2, jnp.float32)},
            r"\['tiny'\] is float32\[\] in it and float32\[2\] here",
        ),
        ({"count": jnp.float32(0)}, r"\['count'\] is int32\[\] in it and float32\[\]"),
        ({"more": jnp.float32(0)}, r"\['more'\] is absent in it and float32\[\] here"),
    ],
)
def test_a_foreign_one_is_refused_and_the_leaf_named(tmp_path, change, message):
    checkpoint.save(tmp_path, 1, STATE, {})
    with pytest.raises(CheckpointError, match=message):
        checkpoint.restore_latest(tmp_path, STATE | change)


def test_a_disk_about_to_be_full_is_found_before_writing(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, STATE, {"n": 1})
    usage = checkpoint.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CheckpointError, match=r"1,000 bytes are free.*Make room"):
        checkpoint.save(tmp_path, 2, STATE, {"n": 2})
    assert os.listdir(tmp_path) == ["000000000001"]


@pytest.mark.slow
def test_a_full_disk_leaves_the_earlier_ones_whole(tmp_path):
    """A process that may write no file over 4 kB stands in for a full disk."""
    checkpoint.save(tmp_path, 1, STATE, {"n": 1})
    script = f"""
import resource, signal, sys, jax.numpy as jnp, jax
from rljax.training import checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
state = dict(x=jax.random.normal(jax.random.key(0), (100_000,)))
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    checkpoint.save({str(tmp_path)!r}, 2, state, dict())
except checkpoint.CheckpointError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert "could not write the checkpoint" in done.stdout, done.stderr
    assert "earlier checkpoints are whole" in done.stdout
    assert os.listdir(tmp_path) == ["000000000001"]
    assert checkpoint.restore_latest(tmp_path, STATE)[1] == {"n": 1}


@pytest.mark.slow
def test_a_process_killed_while_saving_leaves_whole_ones_only(tmp_path):
    """Killed at random; what is newest is then whole, and the next process goes on."""
    script = f"""
import jax.numpy as jnp
from rljax.training import checkpoint
first = (checkpoint.steps({str(tmp_path)!r}) or [0])[-1]
for step in range(first + 1, first + 10_000):
    state = dict(x=jnp.full(1000, step), step=jnp.int32(step))
    checkpoint.save({str(tmp_path)!r}, step, state, dict(n=step))
    print(step, flush=True)
"""
    like, draw, newest = (
        jax.eval_shape(lambda: {"x": jnp.zeros(1000, int), "step": jnp.int32(0)}),
        Random(0),
        0,
    )
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
        ) as process:
            process.stdout.readline()
            time.sleep(draw.uniform(0.0, 0.3))
            process.kill()
        state, metadata = checkpoint.restore_latest(tmp_path, like)
        assert int(state["step"]) == metadata["n"] > newest
        assert (np.asarray(state["x"]) == metadata["n"]).all()
        newest = metadata["n"]


def test_one_written_by_an_earlier_version_is_refused(tmp_path):
    path = checkpoint.save(tmp_path, 1, STATE, {})
    for name in ("about.json", "sha256.json"):
        (path / "state" / name).rename(path / name)
    with pytest.raises(CheckpointError, match=r"earlier version of rljax.*another"):
        checkpoint.restore_latest(tmp_path, STATE)


def harm(path, how):
    path = path / "state"
    sums = path / "sha256.json"
    victim = path / max(
        json.loads(sums.read_text()), key=lambda n: (path / n).stat().st_size
    )
    data = victim.read_bytes()
    if how == "flip":
        victim.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "truncate":
        victim.write_bytes(data[: len(data) // 2])
    elif how == "remove":
        victim.unlink()
    elif how == "add":
        (path / "stray").write_text("x")
    elif how == "list":
        sums.write_text("[]")
    else:
        sums.unlink()


@pytest.mark.parametrize(
    ("state", "step", "metadata", "words"),
    [
        ({"a": 3}, 1, {}, r"the int 3 at state\['a'\]. Make it .*jnp.int32"),
        ({"a": np.float64(0.5)}, 1, {}, "the float64 .* at state"),
        ({"a": None, "b": True}, 1, {}, "the bool True"),
        (
            {"a": jnp.ones(2)},
            1.5,
            {},
            "step must be a whole number of updates, got 1.5",
        ),
        ({"a": jnp.ones(2)}, -1, {}, "step must be a whole number"),
        ({"a": jnp.ones(2)}, 1, {"x": np.float32(1)}, "metadata must be JSON"),
    ],
)
def test_what_is_no_checkpoint_is_told_before_anything_is_written(
    state, step, metadata, words, tmp_path
):
    with pytest.raises(TypeError, match=words):
        checkpoint.save(tmp_path / "it", step, state, metadata)
    assert not (tmp_path / "it").exists()


@pytest.mark.parametrize("reason", [errno.EINVAL, errno.ENOTSUP])
def test_a_disk_that_cannot_flush_is_one_warning(reason, tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(reason, os.strerror(reason))

    files._warn_about_sync.cache_clear()
    monkeypatch.setattr(os, "fsync", fsync)
    state = {"a": jnp.ones(2)}
    with pytest.warns(UserWarning, match="cannot flush to the disk") as told:
        checkpoint.save(tmp_path, 1, state, {})
    assert len([x for x in told if "flush" in str(x.message)]) == 1
    checkpoint.save(tmp_path, 2, state, {})
    assert checkpoint.steps(tmp_path) == [1, 2]
    files._warn_about_sync.cache_clear()
