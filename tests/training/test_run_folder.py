import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import counter
import jax
import numpy as np
import pytest
from counter import COUNTER

from rljax.commands.launch import use_compile_cache
from rljax.training import checkpoint
from rljax.training.checkpoint import CheckpointError
from rljax.training.files import RunError
from rljax.training.loop import train
from rljax.training.run_folder import RunFolder, RunOptions, UsageError
from rljax.training.run_logger import RunLogger

UPDATES = 40
CLOCK = ("seconds", "env_steps_per_second")


@dataclasses.dataclass(frozen=True)
class Settings:
    seed: int = 0
    scale: float = float("inf")
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )


def go(out, on_row=None, settings=None, checkpoint_every=0.0, **options):
    """A whole experiment: 40 updates of the counter, a log entry after every fourth."""
    options = RunOptions(out=out, checkpoint_every=checkpoint_every, **options)
    with RunFolder("counter", settings or Settings(), options) as folder:
        if folder.result is not None:
            return {k: v for k, v in folder.result.items() if not k.startswith(CLOCK)}
        run = RunLogger(
            folder, num_updates=UPDATES, steps_per_update=10, headline="total"
        )
        state = run.start(counter.init, jax.random.key(0), 0.0, None)

        def on_log(state, entry):
            stop = run.on_log(state, entry)
            if on_row is not None:
                stop = on_row(entry) or stop
            return stop

        state = train(
            COUNTER, state, 1.0, run.updates_left, log_every=4, on_log=on_log,
            evaluate=lambda s, k: {"total": s.total}, evaluate_every=8,
            evaluation_key=jax.random.key(1),
        )  # fmt: skip
        run.check_finished()
        result = run.finish({"total": run.last["total"], "none": float("nan")})
        return {k: v for k, v in result.items() if not k.startswith(CLOCK)}


def kill_at(step):
    """Leaves the run as a process killed after that report would."""

    def on_row(entry):
        if entry.step == step:
            raise KilledError

    return on_row


class KilledError(Exception):
    pass


@pytest.fixture
def straight():
    return go(None)


def test_a_run_leaves_its_settings_rows_and_result(tmp_path, straight):
    out = tmp_path / "new" / "run"
    result = go(out)
    assert result == straight
    assert result["none"] is None
    stored = json.loads((out / "result.json").read_text())
    assert stored.items() >= result.items()
    assert stored["seconds_run"] > 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"] == {"experiment": "counter", "seed": 0, "scale": "inf"}
    assert manifest["versions"]["jax"] == jax.__version__
    rows = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, *range(4, 41, 4)]
    assert [row["env_steps"] for row in rows] == [10 * row["step"] for row in rows]
    assert rows[1]["never"] is None
    assert checkpoint.steps(out / "checkpoints") == [32, 36, 40]


def test_a_finished_run_repeats_its_result(tmp_path):
    result = go(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert go(tmp_path) == result
    assert {
        p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.name != ".lock"
    } == {p: t for p, t in before.items() if p.name != ".lock"}


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("step", [0, 4, 20, 40])
@pytest.mark.parametrize("checkpoint_every", [0.0, 1e9])
def test_a_killed_run_goes_on_to_the_same_result(
    tmp_path, straight, step, checkpoint_every
):
    with pytest.raises(KilledError):
        go(tmp_path, on_row=kill_at(step), checkpoint_every=checkpoint_every)
    assert not (tmp_path / "result.json").exists()
    assert go(tmp_path) == straight
    rows = [
        json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in rows] == [0, *range(4, 41, 4)]


def test_rows_after_the_checkpoint_and_a_torn_line_are_cut_away(tmp_path, straight):
    with pytest.raises(KilledError):
        go(tmp_path, on_row=kill_at(20))
    log = tmp_path / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 24, "total": 99}\n{"step": 28, "to')
    assert go(tmp_path) == straight
    rows = [json.loads(x) for x in log.read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, *range(4, 41, 4)]
    assert 99 not in [row.get("total") for row in rows]


def test_a_damaged_checkpoint_costs_only_the_updates_since_the_one_before(
    tmp_path, straight
):
    with pytest.raises(KilledError):
        go(tmp_path, on_row=kill_at(20))
    (tmp_path / "checkpoints" / "000000000020" / "state" / "about.json").write_text("{")
    with pytest.warns(UserWarning, match="damaged.*one before"):
        assert go(tmp_path) == straight


def test_a_foreign_checkpoint_is_refused(tmp_path):
    with pytest.raises(KilledError):
        go(tmp_path, on_row=kill_at(20))
    checkpoint.save(
        tmp_path / "checkpoints", 24, {"other": np.zeros(2, np.float32)}, {}
    )
    with pytest.raises(CheckpointError, match="state of another program"):
        go(tmp_path)


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on(
    tmp_path, straight, number, capsys
):
    def on_row(entry):
        if entry.step == 12:
            os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RunError, match=f"stopped by {number.name} at update 16 of 40"):
        go(tmp_path, on_row=on_row, checkpoint_every=1e9)
    assert checkpoint.steps(tmp_path / "checkpoints") == [16]
    assert go(tmp_path) == straight
    assert "going on from update 16" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_after_the_last_update_does_not_undo_it(tmp_path, straight):
    def on_row(entry):
        if entry.step == 40:
            os.kill(os.getpid(), signal.SIGTERM)

    assert go(tmp_path, on_row=on_row) == straight


def test_without_a_directory_a_signal_says_that_nothing_was_kept():
    def on_row(entry):
        if entry.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunError, match="nothing was kept; with --out DIR"):
        go(None, on_row=on_row)


def test_a_run_that_reached_its_goal_stays_stopped_after_a_kill(tmp_path):
    for _ in range(2):
        with RunFolder("counter", Settings(), RunOptions(out=tmp_path)) as folder:
            run = RunLogger(
                folder,
                num_updates=40,
                steps_per_update=1,
                headline="total",
                stop_at=4.0,
            )
            state = run.start(counter.init, jax.random.key(0), 0.0, None)
            state = train(
                COUNTER, state, 1.0, run.updates_left, log_every=4, on_log=run.on_log,
                evaluate=lambda s, k: {"total": s.total}, evaluate_every=4,
                evaluation_key=jax.random.key(1),
            )  # fmt: skip
            run.check_finished()  # and killed before `finish`
            assert run.updates_left == 0
            assert run.rows[-2]["total"] < 4.0 <= run.rows[-1]["total"]
            assert 4 < run.rows[-1]["step"] == int(state.step) < 40


def test_other_settings_are_refused_and_named(tmp_path):
    go(tmp_path)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    differences = "scale is inf there and 2.0 here; seed is 0 there and 1 here"
    with pytest.raises(UsageError, match=f"{differences}.*choose another --out"):
        go(tmp_path, settings=Settings(seed=1, scale=2.0))
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_options_that_change_no_result_may_differ(tmp_path, straight):
    with pytest.raises(KilledError):
        go(tmp_path, on_row=kill_at(20))
    assert go(tmp_path, checkpoint_every=5.0) == straight


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds 'thesis.tex' and no manifest.json"):
        go(tmp_path)
    with pytest.raises(UsageError, match="must be a directory, got the file"):
        go(tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_manifest_that_is_not_a_runs_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "web app"}')
    with pytest.raises(UsageError, match=r"manifest.json is not a run's"):
        go(tmp_path)
    (tmp_path / "manifest.json").write_text('{"settings": 3, "versions": {}}')
    with pytest.raises(UsageError, match=r"manifest.json is not a run's"):
        go(tmp_path)
    (tmp_path / "manifest.json").write_text('{"settings"')
    with pytest.raises(RunError, match=r"manifest.json cannot be read: .*Restore it"):
        go(tmp_path)


def test_lost_rows_are_reported_once_they_are_needed(tmp_path):
    with pytest.raises(KilledError):
        go(tmp_path, on_row=kill_at(40))
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match=r"metrics.jsonl does not reach update 40"):
        go(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match=r"metrics.jsonl does not reach update 40"):
        go(tmp_path)


def test_a_bad_row_among_good_ones_is_named_and_the_file_left_alone(tmp_path):
    with pytest.raises(KilledError):
        go(tmp_path, on_row=kill_at(20))
    log = tmp_path / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:2], b"\xff\xfe\n", *lines[3:]])
    log.write_bytes(damaged)
    with pytest.raises(
        RunError, match=r"line 3 of .*metrics.jsonl is not a row.*Restore"
    ):
        go(tmp_path)
    assert log.read_bytes() == damaged


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    for seed in (0, 1):
        with pytest.raises(KilledError):
            go(tmp_path / str(seed), on_row=kill_at(20), settings=Settings(seed=seed))
    shutil.rmtree(tmp_path / "0" / "checkpoints")
    shutil.copytree(tmp_path / "1" / "checkpoints", tmp_path / "0" / "checkpoints")
    with pytest.raises(CheckpointError, match="not of this run: seed is 1 there and 0"):
        go(tmp_path / "0")


def test_a_result_that_is_not_one_is_refused(tmp_path, straight):
    go(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(RunError, match=r"result.json .* is not a run's result.*Remove"):
        go(tmp_path)
    (tmp_path / "result.json").unlink()
    assert go(tmp_path) == straight


@pytest.mark.slow
def test_another_machine_or_version_is_a_warning(tmp_path, straight):
    with pytest.raises(KilledError):
        go(tmp_path, on_row=kill_at(20))
    manifest = tmp_path / "manifest.json"
    about = json.loads(manifest.read_text())
    about["versions"]["jax"] = "0.1"
    manifest.write_text(json.dumps(about))
    with pytest.warns(UserWarning, match=r"jax is 0.1 there and .* here"):
        assert go(tmp_path) == straight


def test_tensorboard_without_a_directory_is_refused():
    with pytest.raises(ValueError, match=r"tensorboard needs a directory.*--out"):
        RunOptions(tensorboard=True)


def test_two_processes_do_not_share_a_directory(tmp_path):
    def on_row(entry):
        if entry.step == 8:
            with pytest.raises(RunError, match="another process is at work"):
                go(tmp_path)

    go(tmp_path, on_row=on_row)


def test_tensorboard_logs_are_written_on_request(tmp_path):
    go(tmp_path, tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_missing_extra_names_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'rljax\[log\]'"):
        go(tmp_path, tensorboard=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_one_error_and_it_goes_on_later(tmp_path, straight):
    """Files over 6 kB cannot be written in a child process: as a disk that fills up."""
    script = f"""
import resource, signal, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
import pathlib, conftest, test_run_folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
out = pathlib.Path({str(tmp_path)!r})
def fill(entry):
    if entry.step == 20:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    test_run_folder.go(out, on_row=fill)
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert "Error" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert checkpoint.steps(tmp_path / "checkpoints")[-1] == 20
    assert go(tmp_path) == straight


def test_an_unwritable_compile_cache_is_one_warning(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file" / "cache"))
    was = jax.config.jax_enable_compilation_cache
    try:
        use_compile_cache()
        assert not jax.config.jax_enable_compilation_cache
    finally:
        jax.config.update("jax_enable_compilation_cache", was)
    warning = capsys.readouterr().err
    assert warning.count("warning: no compile cache") == 1
    assert "set JAX_COMPILATION_CACHE_DIR" in warning


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_bad_interval_is_refused(value):
    with pytest.raises(
        ValueError, match="checkpoint_every must be a number of seconds"
    ):
        RunOptions(checkpoint_every=value)
