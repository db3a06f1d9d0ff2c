"""Several processes that score one file: as one process does it, whatever is killed."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_golden_scores import GOLDEN
from test_score_file import (
    FakeScorer,
    Killer,
    numbered,
    put,
    rows_of,
)
from threads_as_processes import Job, LostError

from rljax.rlhf.row_files import job as module
from rljax.rlhf.row_files import settings_before, shares
from rljax.rlhf.scoring.score_file import ScoreFileError

TIMES = {
    "seconds_compile", "seconds_run", "tokens_per_second", "pairs_per_second",
    "score_mean", "score_std",
}  # fmt: skip
SIZES = [1, 3, 0, 5, 2, 1, 1, 4]
RAGGED = [
    {"id": i, "prompt": "long" if i % 3 else "p", "completions": [f"{i}{j}" * j for j in range(1, SIZES[i % 8] + 1)]}
    if SIZES[i % 8]
    else {"id": i, "prompt": "p", "completion": ""}
    for i in range(31)
]  # fmt: skip


@pytest.fixture
def job(monkeypatch, work):
    """Scores a file with so many processes; returns what each returned or raised."""

    def run(count, rows=None, *, each=lambda i: {}, **options):
        if rows is not None:
            put(work.input, rows)
        run.scorers = [FakeScorer() for _ in range(count)]

        def one(i):
            given = {"scorer": run.scorers[i]} | options | each(i)
            return work(**given)

        with monkeypatch.context() as patch:
            run.threads = Job(patch, count)
            return run.threads.run(one)

    return run


def alone(work, rows, **options):
    """The output and the figures of one process."""
    result = work(rows, **options)
    text, about = work.output.read_bytes(), json.loads(work.json.read_text())
    for path in (work.output, work.json):
        path.unlink()
    return text, result, about


def names(work):
    return sorted(path.name for path in work.output.parent.iterdir())


DONE = ["in.jsonl", "out.jsonl", "out.jsonl.run.json"]


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("rows", [RAGGED, RAGGED[:4], RAGGED[:1], []])
def test_bytes_and_figures_are_those_of_one_process(job, work, count, rows):
    text, want, about = alone(work, rows, error_rows=True)
    results = job(count, error_rows=True)
    assert work.output.read_bytes() == text
    assert names(work) == DONE
    assert all(result == results[0] for result in results)
    for name in want.keys() - TIMES:
        assert results[0][name] == want[name], name
    for name in ("score_mean", "score_std"):
        assert results[0][name] == (want[name] and pytest.approx(want[name], rel=1e-12))
    got = json.loads(work.json.read_text())
    assert list(got) == list(about)
    assert {k: got[k] for k in ("settings", "fingerprint")} == (
        {k: about[k] for k in ("settings", "fingerprint")}
    )
    assert list(got["done"]) == list(about["done"])
    for name in ("input_bytes", "input_sha256", "output_bytes"):
        assert got["done"][name] == about["done"][name]
    # Whoever repeats the command gets the figures.
    assert job(count, error_rows=True) == results
    assert work(error_rows=True) == results[0]


def test_each_process_scores_its_share_and_the_slowest_one_counts(job, work):
    results = job(2, numbered(21))  # 4 windows, and 3, of half a second
    assert [scorer.pairs for scorer in job.scorers] == [12, 9]
    assert results[0]["seconds_run"] == 2.0
    assert results[0]["tokens_per_second"] == 63 / 2.0
    assert [pair[0] for pair in job.scorers[1].seen] == [
        f"p{i}" for i in (3, 4, 5, 9, 10, 11, 15, 16, 17)
    ]


def test_blank_lines_at_the_end_and_bytes_of_lines(job, work):
    line = '{"prompt": "\\u2028é",\r "completion": "c", "x": 1.10e2}\r\n'
    data = ("\ufeff" + line * 6 + "\n\n \n").encode()
    work(data=data)
    want = work.output.read_bytes()
    work.output.unlink()
    work.json.unlink()
    for count in (2, 3):
        job(count)
        assert work.output.read_bytes() == want
        work.output.unlink()


# Killed and started again.


@pytest.mark.parametrize("process", [0, 1, 2])
@pytest.mark.parametrize("window", [0, 1, 2])
def test_one_killed_in_any_window_they_go_on(job, work, process, window):
    text, want, _ = alone(work, numbered(30))
    died = FakeScorer(die_at=window)
    found = job(3, each=lambda i: {"scorer": died} if i == process else {})
    assert isinstance(found[process], KeyboardInterrupt)
    assert not any(isinstance(x, dict) for x in found)
    assert not work.output.exists()
    parts = list(work.output.parent.glob("*of-3"))
    before = sum(path.read_bytes().count(b"\n") for path in parts)
    with parts[0].open("ab") as file:
        file.write(b'{"torn": ')
    results = job(3)
    assert work.output.read_bytes() == text
    assert sum(scorer.pairs for scorer in job.scorers) == 30 - before
    for name in ("rows", "pairs", "tokens", "padding_share", "score_min"):
        assert results[0][name] == want[name]
    assert names(work) == DONE


@pytest.mark.some_cases(2)
@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("after", [False, True])
def test_killed_between_any_two_steps_they_go_on(
    job,
    work,
    monkeypatch,
    process,
    after,
):
    """Every step of a process that changes the disk is the last one, or not begun."""
    steps = [
        (os, "replace"),
        (os, "fsync"),
        (os, "unlink"),
        (module, "write_atomically"),
    ]
    want, *_ = alone(work, numbered(4))  # a window each
    for kill_at in range(1000):
        killer = Killer(kill_at, after, lambda: job.threads.process == process)
        with monkeypatch.context() as patch:
            for owner, name in steps:
                patch.setattr(owner, name, killer.wrapped(getattr(owner, name)))
            if isinstance(job(2)[process], dict):
                break
        results = job(2)
        assert work.output.read_bytes() == want
        assert (results[0]["rows"], results[0]["pairs"]) == (4, 4)
        assert names(work) == DONE
        dying = {"scorer": FakeScorer(die_at=0)}
        assert job(2, each=lambda i, dying=dying: dying) == results
        work.output.unlink()  # the old figures stay, and must not disturb
    assert kill_at > (8 if process else 25)


def test_a_merge_that_was_torn_begins_anew(job, work, monkeypatch):
    want, *_ = alone(work, numbered(20))
    with monkeypatch.context() as patch:
        patch.setattr(shares, "flush_to_disk", lambda _: (_ for _ in ()).throw(OSError))
        assert not work.output.exists()
        job(2)
    assert work.part.stat().st_size == len(want)
    for text in (want[:50], want + want):
        work.part.write_bytes(text)
        with pytest.raises(
            ScoreFileError, match=r"by one of 2 .* here is one.*Start 2"
        ):
            work()
    job(2)
    assert work.output.read_bytes() == want
    assert names(work) == DONE


def interrupted(job, count, each=lambda i: {}):
    dying = {"scorer": FakeScorer(die_at=1)}
    return job(count, each=lambda i: dying | each(i))


def test_another_number_of_processes_is_refused(job, work):
    put(work.input, numbered(30))
    with pytest.raises(KeyboardInterrupt):
        work(scorer=FakeScorer(die_at=1))
    before = work.part.read_bytes()
    for error in job(2):
        assert "was begun by one process, and here are 2. Start one" in str(error)
    assert work.part.read_bytes() == before
    work()
    work.output.unlink()
    interrupted(job, 2)
    with pytest.raises(ScoreFileError, match=r"by one of 2 .* here is one.*Start 2"):
        work()
    for error in job(3):
        assert "one of 2 processes, and here are 3. Start 2 to go on" in str(error)
    job(2)
    assert [row["id"] for row in rows_of(work.output)] == list(range(30))


def test_before_anything_is_written_the_number_may_change(job, work):
    want, *_ = alone(work, numbered(9))
    dying = {"scorer": FakeScorer(die_at=0)}
    for count in (2, 3, 2):
        job(count, each=lambda i: dying)
        assert (work.output.parent / f"out.jsonl.part-1-of-{count}").exists()
    work()
    assert work.output.read_bytes() == want
    assert names(work) == DONE


# Refusals.


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"settings": {"template": "none"}}, "template is auto in the first and none"),
        ({"scorer": FakeScorer(weights="v")}, "weights is w in the first and v there"),
        ({"scorer": FakeScorer(window=2)}, "window is 3 in the first and 2 there"),
        ({"error_rows": True}, "error_rows is False in the first and True there"),
    ],
)
def test_processes_that_would_do_something_else_are_refused(job, work, other, message):
    for error in job(2, numbered(9), each=lambda i: other if i else {}):
        assert isinstance(error, ValueError)
        assert message in str(error)
    assert names(work) == ["in.jsonl"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"template": "none"}}, "template is auto there and none here"),
        ({"field": "gold"}, "field is score there and gold here"),
    ],
)
def test_parts_and_an_output_of_something_else_are_refused(job, work, change, message):
    put(work.input, numbered(30))
    interrupted(job, 2)
    for error in job(2, **change):
        assert isinstance(error, ScoreFileError)
        assert message in str(error)
    job(2)
    for error in job(2, **change):
        assert f"not overwritten, as it is not what this command would write: {message}" in str(error)  # fmt: skip


def test_windows_must_stay_as_they_were(job, work):
    put(work.input, numbered(30))
    interrupted(job, 2)
    for error in job(2, each=lambda i: {"scorer": FakeScorer(window=2)}):
        assert "window is 3 there and 2 here" in str(error)


def test_an_input_that_was_changed_is_no_mixed_output(job, work):
    rows = numbered(14)  # the last window has two
    put(work.input, rows)
    dying = {"scorer": FakeScorer(die_at=0)}
    job(2, each=lambda i: dying if i else {})
    assert len(rows_of(work.output.parent / "out.jsonl.part-0-of-2")) == 8
    rows[0]["prompt"] = "other"
    for error in job(2, rows):
        assert "changed in its first" in str(error)
    rows[0]["prompt"] = "p0"
    # Process 0 has made a window of the last two rows, where now three would be.
    found = job(2, rows + numbered(9))
    assert isinstance(found[0], ScoreFileError)
    assert "do not fit together: none begins at byte" in str(found[0])
    assert isinstance(found[1], LostError)
    assert not work.output.exists()
    for path in work.output.parent.glob("*of-2*"):
        path.unlink()
    job(2)
    assert len(rows_of(work.output)) == 23


def test_an_input_that_differs_between_processes_is_noticed(job, work, monkeypatch):
    put(work.input, numbered(9))
    finish = module.Job.finish_share

    def late(self):
        if self.share.process == 1:
            self._reader.hash.update(b"other")
        finish(self)

    monkeypatch.setattr(module.Job, "finish_share", late)
    assert "the input was changed on the way" in str(job(2)[0])


def test_a_part_that_is_too_short_is_noticed(job, work):
    put(work.input, numbered(30))
    interrupted(job, 2)
    part = work.output.parent / "out.jsonl.part-1-of-2"
    with part.open("r+b") as file:
        file.truncate(10)
    first, second = job(2)
    assert "is damaged" in str(second)
    assert str(first).startswith(f"in process 1: {part} is damaged")
    assert not str(first).endswith("..")


@pytest.mark.parametrize("name", ["out.jsonl.part", "out.jsonl.part-1-of-2"])
def test_one_job_an_output(job, work, name):
    put(work.input, numbered(9))
    with (work.output.parent / name).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for error in job(2):
            assert "another process is writing" in str(error)
    job(2)
    assert len(rows_of(work.output)) == 9


def test_what_is_not_ours_is_not_overwritten(job, work):
    put(work.input, numbered(9))
    work.output.write_text("mine")
    for error in job(2):
        assert "there is no out.jsonl.run.json" in str(error)
    os.replace(work.output, work.part)
    for error in job(2):
        assert "was begun by one process" in str(error)
    assert work.part.read_text() == "mine"


def test_a_row_that_cannot_be_scored_is_named_and_those_before_are_kept(job, work):
    rows = numbered(30)
    rows[16]["completion"] = ""  # of window 5, which the scorer of process 1 refuses
    want, *_ = alone(work, rows, error_rows=True)
    first, second = job(2)
    assert isinstance(first, LostError)
    assert str(second).startswith(f"line 17 of {work.input}: the completion is empty.")
    kept = len(rows_of(work.output.parent / "out.jsonl.part-1-of-2"))
    assert kept == 6
    job(2, error_rows=True)
    assert work.output.read_bytes() == want
    assert sum(scorer.pairs for scorer in job.scorers) <= 30 - kept


def test_a_bad_line_stops_every_reader_and_may_be_mended(job, work):
    want, *_ = alone(work, numbered(30))
    for error in job(2, [*numbered(16), {"id": 16}, *numbered(30)[17:]]):
        assert isinstance(error, LostError) or str(error).startswith("line 17 of ")
    job(2, numbered(30))
    assert work.output.read_bytes() == want


def test_stdin_is_refused(job, work):
    work.input = Path("-")
    for error in job(2):
        assert isinstance(error, ScoreFileError)
        assert "must be a file" in str(error)


def test_a_part_is_no_input(work):
    work.input = work.output.parent / "out.jsonl.part-1-of-2"
    put(work.input, numbered(1))
    with pytest.raises(
        ScoreFileError, match=r"cannot be written as out\.jsonl\.part-1"
    ):
        work()


def test_the_date_of_parts_is_kept(job, work):
    put(work.input, numbered(30))
    interrupted(job, 2)
    (work.output.parent / "out.jsonl.part-0-of-2.json").unlink()
    assert settings_before(work.output)["template"] == "auto"


# Real processes.


@contextlib.contextmanager
def started(folder, rows, *flags):
    """The command, in two processes of one core each, that share an output."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "rljax.commands.main", "score"),
        *("--model", GOLDEN / "byte_level", "--input", rows, "--max-length", 64),
        *("--output", folder / "out", "--window", 32, *flags),
    ]
    env = os.environ | {
        "PJRT_NPROC": "1",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "cache"),
    }
    processes = [
        subprocess.Popen(
            list(map(str, [*command, "--distributed", f"127.0.0.1:{port},2,{i}"])),
            env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def ended(processes, timeout):
    """What the processes wrote and their exit statuses, all within a time in seconds."""
    until = time.monotonic() + timeout
    texts = [x.communicate(timeout=until - time.monotonic()) for x in processes]
    return texts, [process.returncode for process in processes]


def wait_for_part(folder, processes):
    path, until = folder / "out.part-1-of-2", time.monotonic() + 300
    while not path.exists() or not path.stat().st_size:
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Rows, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("real")
    draw = np.random.default_rng(0).integers
    rows = [
        {"id": i, "prompt": "Is it" * draw(1, 4), "completion": " warm?" * draw(1, 5)}
        for i in range(6000)
    ]
    given = put(folder / "in.jsonl", rows)
    command = [
        *(sys.executable, "-m", "rljax.commands.main", "score"),
        *("--model", GOLDEN / "byte_level", "--input", given, "--max-length", 64),
        *("--output", folder / "alone", "--window", 32),
    ]
    env = os.environ | {
        "PJRT_NPROC": "1", "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
    }  # fmt: skip
    subprocess.run(list(map(str, command)), env=env, check=True, capture_output=True)
    return given, folder / "alone"


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "process"), [(9, 0), (9, 1), (15, 0), (15, 1)])
def test_real_processes_killed_for_real_end_and_go_on(real, signum, process):
    given, want = real
    folder = given.parent / f"{signal.Signals(signum).name}-{process}"
    folder.mkdir()
    with started(folder, given) as processes:
        wait_for_part(folder, processes)
        processes[process].send_signal(signum)
        texts, statuses = ended(processes, 60)
    assert 0 not in statuses
    if signum == signal.SIGTERM:
        assert statuses[process] == 1
        assert "stopped by SIGTERM: the same command goes on" in texts[process][1]
    kept = (folder / "out.part-1-of-2").stat().st_size
    assert kept
    assert not (folder / "out").exists()
    with started(folder, given) as processes:
        texts, statuses = ended(processes, 300)
    assert statuses == [0, 0], texts
    assert (folder / "out").read_bytes() == want.read_bytes()
    assert sorted(x.name for x in folder.iterdir()) == ["out", "out.run.json"]
    assert json.loads(texts[0][0].splitlines()[-1])["rows"] == 6000
    assert "{" not in texts[1][0]


@pytest.mark.slow
def test_a_bad_row_ends_real_processes(real, tmp_path):
    given = put(tmp_path / "in", [*rows_of(real[0])[:4000], {"id": 1}])
    (tmp_path / "job").mkdir()
    with started(tmp_path / "job", given) as processes:
        wait_for_part(tmp_path / "job", processes)
        texts, statuses = ended(processes, 60)
    assert 0 not in statuses
    assert any(f"line 4001 of {given}" in said for _, said in texts)
