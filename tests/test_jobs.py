"""Jobs of two real processes: the same results, refusals, signals, and lost processes."""

import json
import signal
import time

import numpy as np
import pytest

from tests.jobs import ROOT, ended, last_line, output, start, wait_for

SCRIPT = ROOT / "experiments" / "cartpole_ppo.py"
SMALL = [
    *(SCRIPT, "--num-seeds", "2", "--total-steps", "30_720", "--num-evaluations", "2"),
    *("--num-episodes", "8", "--checkpoint-every", "0"),
]
pytestmark = [pytest.mark.slow, pytest.mark.optimized]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert ended(start([*SMALL, "--out", folder / "run"], folder), 300) == [0, 0]
    return folder


def figures(folder):
    """What a run has found, without its times."""
    result = json.loads((folder / "run" / "result.json").read_text())
    rows = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [
        {name: x for name, x in figures.items() if "second" not in name}
        for figures in (result, *map(json.loads, rows))
    ]


def test_the_first_process_alone_prints_and_writes(uninterrupted):
    assert json.loads(last_line(uninterrupted, 0))["device"] == "cpu x 2"
    assert "greedy return" in output(uninterrupted, 0)
    others = [x for x in output(uninterrupted, 1).splitlines() if "Gloo" not in x]
    assert others == []


def test_a_finished_run_is_repeated_in_all_processes(uninterrupted, tmp_path):
    again = start([*SMALL, "--out", uninterrupted / "run"], tmp_path)
    assert ended(again, 120) == [0, 0]
    assert json.loads(last_line(tmp_path, 0)) == json.loads(last_line(uninterrupted, 0))


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("victim", [0, 1])
def test_the_same_command_goes_on_after_one_process_ended(
    kind, victim, uninterrupted, tmp_path
):
    command = [*SMALL, "--out", tmp_path / "run"]
    processes, rows = start(command, tmp_path), tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: rows.exists() and rows.read_text().count("\n") > 3)
    processes[victim].send_signal(kind)
    began = time.monotonic()
    status = ended(processes, 60)
    assert time.monotonic() - began < 60
    if kind == signal.SIGTERM:
        assert status == [1, 1]
        for i in range(2):
            assert "stopped by SIGTERM at update" in output(tmp_path, i)
    else:
        assert status[victim] == -signal.SIGKILL
        assert status[1 - victim] not in (0, 2)
    assert not (tmp_path / "run" / "result.json").exists()
    assert ended(start(command, tmp_path), 300) == [0, 0]
    assert "going on from update" in output(tmp_path, 0)
    assert figures(tmp_path) == figures(uninterrupted)


def test_one_process_goes_on_where_two_were_stopped(uninterrupted, tmp_path):
    import subprocess
    import sys

    command = [*SMALL, "--out", tmp_path / "run"]
    processes, rows = start(command, tmp_path), tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: rows.exists() and rows.read_text().count("\n") > 3)
    processes[1].send_signal(signal.SIGTERM)
    assert ended(processes, 60) == [1, 1]
    alone = [sys.executable, *map(str, command)]
    done = subprocess.run(alone, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "begun otherwise: device is cpu x 2 there and cpu x 1 here" in done.stderr
    last, other = (figures(x)[-1] for x in (uninterrupted, tmp_path))
    assert last["step"] == other["step"]
    assert np.mean(other["greedy_return"]) > 0.5 * np.mean(last["greedy_return"])


def test_two_processes_of_two_devices_share_members_and_environments(tmp_path):
    """A member's environments are divided between two devices of one process."""
    command = [*SMALL, "--out", tmp_path / "run"]
    processes = start(command, tmp_path, devices=(2, 2))
    rows = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: rows.exists() and rows.read_text().count("\n") > 3)
    processes[0].send_signal(signal.SIGTERM)
    assert ended(processes, 120) == [1, 1]
    # One device a process, each with a member, goes on.
    assert ended(start(command, tmp_path), 300) == [0, 0]
    assert "going on from update" in output(tmp_path, 0)
    assert json.loads(last_line(tmp_path, 0))["solved"] == 2


def test_processes_of_other_sizes_are_refused(tmp_path):
    assert ended(start(SMALL, tmp_path, devices=(1, 2)), 60) == [2, 2]
    for i in range(2):
        assert "1 in process 0, 2 in process 1" in last_line(tmp_path, i)


def test_a_folder_that_is_not_shared_is_refused(tmp_path):
    places = [tmp_path / "first", tmp_path / "second"]
    for place in places:
        place.mkdir()
    processes = start([*SMALL, "--out", "run"], tmp_path, cwd=places)
    assert ended(processes, 60) == [2, 2]
    for i in range(2):
        words = (
            "--out must be one folder that all processes share, but run of process 1"
        )
        assert words in last_line(tmp_path, i)


def test_a_flag_that_is_wrong_in_one_process_ends_both(tmp_path):
    began = time.monotonic()
    status = ended(start(SMALL, tmp_path, flags={1: ["--sed", "1"]}), 60)
    assert status[1] == 2
    assert status[0] not in (0, None)
    assert time.monotonic() - began < 60


def test_another_configuration_is_refused_in_all_processes(tmp_path):
    command, flags = [*SMALL, "--out", tmp_path / "run"], {1: ["--seed", "1"]}
    assert ended(start(command, tmp_path, flags=flags), 60) == [2, 2]
    for i in range(2):
        line = last_line(tmp_path, i)
        assert "in process 1: seed is 0 in the first and 1 there" in line
        assert "Start all with the same command" in line
    assert not (tmp_path / "run").exists()


def test_another_version_is_refused_in_all_processes(tmp_path):
    """The second process believes that its Optax is another one."""
    (tmp_path / "site" / "optax-9.9.9.dist-info").mkdir(parents=True)
    about = tmp_path / "site" / "optax-9.9.9.dist-info" / "METADATA"
    about.write_text("Metadata-Version: 2.1\nName: optax\nVersion: 9.9.9\n")
    code = (
        "import runpy, sys\n"
        f"site, script = {str(tmp_path / 'site')!r}, {str(SCRIPT)!r}\n"
        "if sys.argv[-1].endswith(',1'): sys.path.insert(0, site)\n"
        "sys.argv[0] = script\n"
        "runpy.run_path(script, run_name='__main__')\n"
    )
    command = ["-c", code, *SMALL[1:], "--out", tmp_path / "run"]
    assert ended(start(command, tmp_path), 60) == [2, 2]
    for i in range(2):
        assert "in process 1: optax is " in last_line(tmp_path, i)
        assert "9.9.9 there" in last_line(tmp_path, i)


@pytest.mark.parametrize("present", [1, 2])
def test_a_job_that_lacks_a_process_ends(present, tmp_path):
    began = time.monotonic()
    command = [*SMALL, "--connect-timeout", "20"]
    status = ended(start(command, tmp_path, count=present, listed=3), 60)
    assert time.monotonic() - began < 60
    assert status == [1] * present
    for i in range(present):
        expected = f"error: 3 processes, of which this is number {i}, of --distributed"
        assert expected in last_line(tmp_path, i)
        assert "did not all come within 20 s" in last_line(tmp_path, i)


def test_processes_that_count_differently_are_refused(tmp_path):
    code = (
        "import runpy, sys\n"
        "where = sys.argv[-1]\n"
        "if where.endswith(',1'): sys.argv[-1] = where.replace(',2,', ',3,')\n"
        f"sys.argv[0] = {str(SCRIPT)!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = ["-c", code, *SMALL[1:], "--connect-timeout", "20"]
    assert ended(start(command, tmp_path), 60) == [2, 2]
    for i in range(2):
        assert "in process 1: N is 2 in the first and 3 there" in last_line(tmp_path, i)


def test_a_failure_in_one_process_ends_the_others(tmp_path):
    """An error that only the second one meets, while it saves."""
    code = (
        "import sys, rljax.training.checkpoint as checkpoint\n"
        "import runpy, jax\n"
        f"script = {str(SCRIPT)!r}\n"
        "real = checkpoint.save\n"
        "def save(*args, **more):\n"
        "    if jax.process_index() == 1: raise TypeError('a bug in one process')\n"
        "    return real(*args, **more)\n"
        "checkpoint.save = save\n"
        "sys.argv[0] = script\n"
        "runpy.run_path(script, run_name='__main__')\n"
    )
    command = ["-c", code, *SMALL[1:], "--out", tmp_path / "run"]
    processes = start(command, tmp_path)
    wait_for(lambda: any(p.poll() is not None for p in processes))
    status = ended(processes, 60)
    assert all(status)
    assert "TypeError: a bug in one process" in output(tmp_path, 1)
