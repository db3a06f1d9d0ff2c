import concurrent.futures
import fcntl
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

import rljax.commands.main
from rljax.rlhf.row_files import job as module
from rljax.rlhf.scoring import Counts
from rljax.rlhf.scoring.score_file import ScoreFileError, score_file
from rljax.rlhf.scoring.scored import Scored

ROOT = Path(__file__).parents[3]
SETTINGS = {"template": "auto", "max_length": None}
USER = {"role": "user", "content": "hi"}
ALICE = {"role": "assistant", "content": "good"}
BOB = {"role": "assistant", "content": "bad"}
SYSTEM = {"role": "system", "content": "be"}
TOOL = {"role": "tool", "content": "71 F"}
NAN, BIG = float("nan"), "9" * 5000


def score_of(prompt, completion, variables=None):
    text = json.dumps([prompt, completion, variables or {}])
    return float(np.float32(zlib.crc32(text.encode()) / 1e9))


class FakeScorer:
    """Reads one window ahead in a thread, as the real one does."""

    def __init__(self, window=3, weights="w", scores=None, seconds=0.0, die_at=None):
        self.window, self.seconds, self.die_at = window, seconds, die_at
        self.scores = scores or {}
        self.fingerprint = {"weights": weights}
        self.pairs, self.seen = 0, []

    def stream(self, windows, on_batch):
        source = iter(windows)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            ahead, number = pool.submit(next, source, None), 0
            while (window := ahead.result()) is not None:
                ahead = pool.submit(next, source, None)
                if number == self.die_at:
                    raise KeyboardInterrupt
                time.sleep(self.seconds)
                rows, pairs = window
                scored = [self.one(*pair) for pair in pairs]
                tokens = sum(one.num_tokens for one in scored)
                counts = Counts(len(pairs), tokens, 4 * len(pairs), seconds_run=0.5)
                self.pairs += len(pairs)
                self.seen += pairs
                on_batch(rows, counts)
                yield rows, scored, counts
                number += 1

    def one(self, prompt, completion, variables=None):
        if completion == "":
            return Scored(NAN, error="the completion is empty.")
        score = score_of(prompt, completion, variables)
        if isinstance(completion, str):
            score = self.scores.get(completion, score)
        return Scored(score, 3, num_cut=2 if "long" in prompt else 0)


def put(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def numbered(count):
    return [{"id": i, "prompt": f"p{i}", "completion": f"c{i}"} for i in range(count)]


@pytest.fixture
def work(tmp_path):
    def run(rows=None, *, data=None, scorer=None, settings=SETTINGS, **options):
        if rows is not None:
            put(run.input, rows)
        if data is not None:
            run.input.write_bytes(data)
        scorer = scorer or FakeScorer()
        return score_file(scorer, run.input, run.output, settings=settings, **options)

    run.input, run.output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    run.part = tmp_path / "out.jsonl.part"
    run.sidecar = tmp_path / "out.jsonl.part.json"
    run.json = tmp_path / "out.jsonl.run.json"
    return run


# What goes in, what comes out.


@pytest.mark.parametrize(
    ("row", "pairs", "names"),
    [
        ({"prompt": "p", "completion": "c"}, [("p", "c")], ["score"]),
        ({"messages": [USER, ALICE]}, [([USER], [ALICE])], ["score"]),
        (
            {"prompt": "p", "chosen": "c", "rejected": "r"},
            [("p", "c"), ("p", "r")],
            ["score_chosen", "score_rejected"],
        ),
    ],
)
def test_a_row_gets_its_scores(work, row, pairs, names):
    row = {"id": 7} | row | {"more": [1, {"a": None}]}
    scorer = FakeScorer()
    result = work([row], scorer=scorer)
    assert [pair[:2] for pair in scorer.seen] == pairs
    (got,) = rows_of(work.output)
    want = row | dict(zip(names, [score_of(*pair) for pair in pairs], strict=True))
    assert list(got) == list(want)
    for name in names:
        assert np.float32(got[name]) == np.float32(want.pop(name))
        got.pop(name)
    assert got == want
    assert (result["rows"], result["pairs"]) == (1, len(pairs))


def test_several_completions_get_a_score_each(work):
    rows = [{"prompt": "long", "completions": ["a", "bb", "c"]}]
    result = work(rows)
    (got,) = rows_of(work.output)
    assert got["score"] == pytest.approx(
        [score_of("long", x) for x in ("a", "bb", "c")]
    )
    assert got["score_truncated"] == 6
    assert (result["rows"], result["pairs"], result["truncated"]) == (1, 3, 1)


BAD = [
    (b"not json", "not JSON: Expecting value at character 1"),
    (b'{"prompt": "p", "completion": "c"', "not JSON"),
    (b'{"prompt": "p"} {}', "not JSON: Extra data"),
    (b"[1]", "must be a JSON object, got a list"),
    (b"null", "must be a JSON object, got null"),
    (b"3", "must be a JSON object, got a number"),
    (b"{}", "it has no fields"),
    (b'{"prompt": "p", "completion": 5}', "got a number"),
    (b'{"prompt": "p", "completions": ["a", ""]}', "completion is empty"),
    (b'{"prompt": "p", "completion": "c", "x": NaN}', "holds NaN"),
    (b'{"prompt": "p", "completion": "c", "x": -Infinity}', "holds -Infinity"),
    (b'{"prompt": "\xff", "completion": "c"}', "not UTF-8: .* at byte 13"),
    (b'{"prompt": "\xed\xa0\x80", "completion": "c"}', "not UTF-8"),
    (b'{"prompt": "\\ud800", "completion": "c"}', "invalid Unicode"),
    (b'{"prompt": "p", "completion": "c", "\\uDFFF": 1}', "invalid Unicode"),
    (b'{"prompt": "p", "completion": "c", "score": 1}', "field 'score' .*--field"),
    (b'{"prompt": "p", "completion": "c", "score_error": 1}', "--field"),
    (b'{"prompt": "p", "completion": "c", "score_truncated": 1}', "--field"),
    (
        b'{"prompt": "p", "chosen": "c", "rejected": "r", "score_chosen": 1}',
        "field 'score_chosen'",
    ),
    (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too deeply"),
    (b'{"prompt": "p", "completion": "c", "x": %s}' % BIG.encode(), "cannot be read"),
    (b'\xef\xbb\xbf{"prompt": "p", "completion": "c"}', "not JSON: .*BOM"),
    (b'{"prompt": "p", "completion": ""}', "completion is empty"),
    (b'{"prompt": "p", "completion": "nan"}', "score is nan"),
    (b'{"prompt": "p", "chosen": "c", "rejected": "inf"}', "score is inf"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_line_stops_or_becomes_an_error_row(work, line, message):
    good = json.dumps({"prompt": "p", "completion": "c"}).encode()
    scores = {"nan": NAN, "inf": float("inf")}

    def scorer():
        return FakeScorer(window=1, scores=scores)

    data = good + b"\n\n" + line + b"\n" + good + b"\n"
    with pytest.raises(ScoreFileError) as error:
        work(data=data, scorer=scorer())
    assert re.fullmatch(
        rf"line 3 of {re.escape(str(work.input))}: .*{message}.*(?<!\.)\. Mend it, or give "
        rf"--error-rows to go on past such lines\.",
        str(error.value),
    )
    assert len(rows_of(work.part)) == 1

    result = work(scorer=scorer(), error_rows=True)
    first, bad, last = rows_of(work.output)
    assert first == last
    assert not {"score", "score_chosen", "score_rejected"} & set(bad)
    assert re.search(rf"^line 3: .*{message}", bad["score_error"])
    assert (result["rows"], result["errors"]) == (3, 1)


def test_an_error_row_keeps_what_fields_it_has(work):
    rows = [
        {"id": 1, "text": "ä"},
        {"completion": "", "prompt": "p", "score_chosen": 5},
    ]
    work(rows, error_rows=True)
    first, second = rows_of(work.output)
    assert list(first) == ["id", "text", "score_error"]
    assert (second["completion"], second["score_chosen"]) == ("", 5)
    assert "ä" in work.output.read_text()


def test_what_is_kept_is_kept_byte_for_byte(work):
    line = (
        '{"prompt": "\u2028\u0085\\u2028é", "completion": "c",  "n":'
        + "123456789012345678901234567890, "
        + '"x": 1.10e2, "\U0001f600": "\\ud83d\\ude00"'
    )
    work(data=f"\ufeff{line} }} \r\n".encode())
    text = work.output.read_bytes().decode()
    assert text.startswith(line + ', "score": ')
    assert text.endswith("}\n")
    assert text.count("\n") == 1


def test_no_reader_ends_a_line_at_a_carriage_return(work):
    work(data=b'{"prompt": "p",\r"completion": "c"}\r\n')
    assert len(work.output.read_text().splitlines()) == 1


def test_blank_lines_a_missing_last_newline_and_an_empty_file(work):
    work(data=b' \n\n{"prompt": "p", "completion": "c"}\n\t\r\n{"prompt": "q", '
         b'"completion": "c"}')  # fmt: skip
    assert [row["prompt"] for row in rows_of(work.output)] == ["p", "q"]
    work.output.unlink()
    line = b'{"prompt": "p", "completion": "c"}\n'
    result = work(data=3 * line + b"\n \n")  # a whole window, and then blanks
    assert work() == result
    assert result["rows"] == 3
    work.output.unlink()
    result = work(data=b"")
    assert work.output.read_bytes() == b""
    assert (result["rows"], result["pairs"], result["score_mean"]) == (0, 0, None)
    assert work() == result


def test_the_field_and_the_truncation(work):
    rows = [
        {"prompt": "long", "chosen": "c", "rejected": "d"},
        {"prompt": "p", "completion": "c", "score": 3},
    ]
    result = work(rows, field="gold")
    first, second = rows_of(work.output)
    assert first["gold_truncated"] == 4
    assert set(second) == {"prompt", "completion", "score", "gold"}
    assert result["truncated"] == 1


def test_the_figures(work):
    rows = numbered(10)
    result = work(rows)
    scores = [score_of(row["prompt"], row["completion"]) for row in rows]
    assert result["score_mean"] == pytest.approx(np.mean(scores), rel=1e-12)
    assert result["score_std"] == pytest.approx(np.std(scores), rel=1e-12)
    assert (result["score_min"], result["score_max"]) == (min(scores), max(scores))
    assert (result["tokens"], result["padding_share"]) == (30, 0.25)
    assert result["tokens_per_second"] == pytest.approx(30 / result["seconds_run"])
    assert json.loads(work.json.read_text())["result"] == result
    assert sorted(p.name for p in work.output.parent.iterdir()) == [
        "in.jsonl", "out.jsonl", "out.jsonl.run.json",
    ]  # fmt: skip


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(work):
    small, large = peak_of(work, 400), peak_of(work, 4000)  # of 0.4 and 4 MB
    assert large < small + 300_000


def peak_of(work, count):
    import tracemalloc

    line = json.dumps({"prompt": "p" * 1000, "completion": "c"}) + "\n"
    work.input.write_text(line * count)
    del line
    scorer = FakeScorer(window=50)
    scorer.seen = type("Nothing", (), {"__iadd__": lambda self, _: self})()
    tracemalloc.start()
    work(scorer=scorer)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    work.output.unlink()
    return peak


# Killed and started again.


class KilledError(BaseException):
    pass


class Killer:
    """Wraps steps, of which the one of a number is not done, or done and the last one."""

    def __init__(self, kill_at, after, applies=lambda: True):
        self.kill_at, self.after, self.applies, self.count = kill_at, after, applies, 0

    def wrapped(self, step):
        def do(*args):
            if not self.applies():
                return step(*args)
            last = self.count == self.kill_at
            self.count += 1
            if last and not self.after:
                raise KilledError
            step(*args)
            if last:
                raise KilledError

        return do


def whole(work, rows, **options):
    """The output of a run that nothing disturbs."""
    work(rows, **options)
    text = work.output.read_bytes()
    for path in (work.output, work.json):
        path.unlink()
    return text


@pytest.mark.parametrize("window", range(4))
@pytest.mark.parametrize("torn", [b"", b'{"id": 99', b'{"id": 99}\n' * 99])
def test_killed_in_any_window_it_goes_on(work, window, torn):
    want = whole(work, numbered(10))
    with pytest.raises(KeyboardInterrupt):
        work(scorer=FakeScorer(die_at=window))
    with work.part.open("ab") as file:
        file.write(torn)
    scorer = FakeScorer()
    result = work(scorer=scorer)
    assert work.output.read_bytes() == want
    assert scorer.pairs == 10 - 3 * window
    assert (result["rows"], result["pairs"], result["tokens"]) == (10, 10, 30)
    assert work(scorer=FakeScorer(die_at=0)) == result


def test_killed_between_any_two_steps_it_goes_on(work, monkeypatch):
    """Every step that changes the disk is, in turn, the last one or not even begun."""
    steps = [(os, "replace"), (os, "fsync"), (module, "write_atomically")]
    want = whole(work, numbered(7))
    for after in (False, True):
        for kill_at in range(1000):
            killer = Killer(kill_at, after)
            with monkeypatch.context() as patch:
                for owner, name in steps:
                    patch.setattr(owner, name, killer.wrapped(getattr(owner, name)))
                try:
                    work()
                    break
                except KilledError:
                    pass
            result = work()
            assert work.output.read_bytes() == want
            assert (result["rows"], result["pairs"]) == (7, 7)
            names = sorted(p.name for p in work.output.parent.iterdir())
            assert names == ["in.jsonl", "out.jsonl", "out.jsonl.run.json"]
            assert work(scorer=FakeScorer(die_at=0)) == result
            work.output.unlink()  # the old figures stay, and must not disturb
        assert kill_at > 15
        work.output.unlink()


def test_scores_do_not_depend_on_where_the_lock_left_an_empty_part(work):
    result = work(numbered(3))
    os.replace(work.json, work.sidecar)
    work.part.touch()
    assert work() == result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"template": "none"}}, "template is auto there and none here"),
        ({"scorer": FakeScorer(weights="v")}, "weights is w there and v here"),
        ({"field": "gold"}, "field is score there and gold here"),
    ],
)
def test_a_part_and_an_output_of_something_else_are_refused(work, change, message):
    with pytest.raises(KeyboardInterrupt):
        work(numbered(10), scorer=FakeScorer(die_at=1))
    before = work.part.read_bytes()
    with pytest.raises(ScoreFileError, match=message):
        work(**change)
    assert work.part.read_bytes() == before
    work()
    with pytest.raises(ScoreFileError, match=f"not overwritten.*{message}"):
        work(**change)
    assert len(rows_of(work.output)) == 10


def test_before_the_first_window_everything_may_change(work):
    with pytest.raises(KeyboardInterrupt):
        work(numbered(10), scorer=FakeScorer(die_at=0))
    work(numbered(4), field="gold")
    assert len(rows_of(work.output)) == 4


def test_lines_that_are_done_must_stay_and_others_may_change(work):
    rows = numbered(10)
    rows[7]["completion"] = 5
    with pytest.raises(ScoreFileError, match="line 8 of"):
        work(rows)
    assert len(rows_of(work.part)) == 6
    rows[2]["id"] = 0
    rows[7]["completion"] = "mended"
    with pytest.raises(ScoreFileError, match="changed in its first"):
        work(rows)
    work.input.write_bytes(b"")
    with pytest.raises(ScoreFileError, match="changed in its first"):
        work()
    rows[2]["id"] = 2
    rows += numbered(2)
    work(rows)
    assert [r["id"] for r in rows_of(work.output)] == [*range(10), 0, 1]
    with pytest.raises(ScoreFileError, match="other lines than it was made from"):
        work(rows[:-1])
    with pytest.raises(ScoreFileError, match="other lines than it was made from"):
        work([*rows, *numbered(1)])


def test_line_numbers_go_on_too(work):
    data = b"\n\n" + json.dumps(numbered(1)[0]).encode() + b"\n"
    with pytest.raises(ScoreFileError, match="line 5 of"):
        work(data=data + b"\nbad\n", scorer=FakeScorer(window=1))
    with pytest.raises(ScoreFileError, match="line 7 of"):
        work(data=data + b"\n\n\nbad\n", scorer=FakeScorer(window=1))


def test_error_rows_may_be_asked_for_later_but_not_taken_back(work):
    rows = [*numbered(2), {"id": 2}, *numbered(1)]
    with pytest.raises(ScoreFileError):
        work(rows, scorer=FakeScorer(window=1))
    with pytest.raises(KeyboardInterrupt):
        work(scorer=FakeScorer(window=1, die_at=1), error_rows=True)
    with pytest.raises(ScoreFileError, match="error_rows is True there and False here"):
        work(scorer=FakeScorer(window=1))
    assert work(error_rows=True)["errors"] == 1
    with pytest.raises(ScoreFileError, match="error_rows is True there and False here"):
        work()


def test_what_is_not_ours_is_not_overwritten(work):
    put(work.input, numbered(3))
    work.output.write_text("mine")
    with pytest.raises(ScoreFileError, match=r"no out\.jsonl\.run\.json"):
        work()
    work.output.unlink()
    work.part.write_text("mine")
    with pytest.raises(ScoreFileError, match="holds 4 bytes"):
        work()
    assert work.part.read_text() == "mine"
    work.part.unlink()
    for text in ("{}", "[]", "torn", '{"format": 2}'):
        work.sidecar.write_text(text)
        with pytest.raises(ScoreFileError, match="is not what this command writes"):
            work()
    work.sidecar.unlink()
    work()
    with work.output.open("a") as file:
        file.write("more")
    with pytest.raises(ScoreFileError, match="bytes and has"):
        work()


def test_a_part_that_is_too_short_is_damaged(work):
    with pytest.raises(KeyboardInterrupt):
        work(numbered(10), scorer=FakeScorer(die_at=2))
    with work.part.open("r+b") as file:
        file.truncate(10)
    with pytest.raises(ScoreFileError, match="is damaged"):
        work()


def test_paths_that_cannot_be(work, tmp_path):
    with pytest.raises(ScoreFileError, match="is no file"):
        work()
    work.input.mkdir()
    with pytest.raises(ScoreFileError, match="is a folder"):
        work()
    work.input.rmdir()
    put(work.input, numbered(1))
    work.output = tmp_path
    with pytest.raises(ScoreFileError, match="output must be a file, got the folder"):
        work()
    work.output = work.input
    with pytest.raises(ScoreFileError, match="cannot be written as"):
        work()
    work.output = tmp_path / "in"
    os.link(work.input, tmp_path / "in.part")
    with pytest.raises(ScoreFileError, match=r"cannot be written as in\.part"):
        work()
    work.output = work.input / "below" / "out"
    with pytest.raises(ScoreFileError, match="Not a directory"):
        work()
    work.output = tmp_path / "new" / "folder" / "out"
    assert work()["rows"] == 1


def test_a_full_disk_is_one_error_and_the_next_start_goes_on(work, monkeypatch):
    want = whole(work, numbered(10))
    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 8:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ScoreFileError, match=r"No space left.*after row [36]\."):
            work()
    work()
    assert work.output.read_bytes() == want


def test_one_process_an_output(work):
    put(work.input, numbered(3))
    for path, prepare in ((work.part, lambda: None), (work.output, adopt(work))):
        prepare()
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with pytest.raises(ScoreFileError, match="another process is writing"):
                work()
        work()


def adopt(work):
    return lambda: os.replace(work.json, work.sidecar)


SLOW = """
import sys, pathlib
sys.path.insert(0, "tests/rlhf/scoring")
from rljax.rlhf.scoring.score_file import ScoreFileError, score_file
from test_score_file import FakeScorer, SETTINGS
scorer = FakeScorer(window=2, seconds=float(sys.argv[3]))
input, output = map(pathlib.Path, sys.argv[1:3])
try:
    score_file(scorer, input, output, settings=SETTINGS)
except ScoreFileError as error:
    sys.exit(f"error: {error}")
print(scorer.pairs)
"""


def start(work, seconds=0.05, **options):
    paths = str(work.input), str(work.output)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SLOW, *paths, str(seconds)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def wait_for_rows(work, process, count):
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if work.part.exists() and work.part.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.005)
    raise AssertionError("it did not come so far")


@pytest.mark.slow
def test_killed_for_real_it_goes_on(work):
    want = whole(work, numbered(200))
    for signum, rows in (
        (signal.SIGKILL, 5),
        (signal.SIGKILL, 12),
        (signal.SIGTERM, 20),
    ):
        with start(work, stderr=subprocess.PIPE) as process:
            wait_for_rows(work, process, rows)
            process.send_signal(signum)
            said = process.communicate(timeout=30)[1]
            assert not work.output.exists()
            if signum == signal.SIGTERM:
                assert process.returncode == 1
                assert re.fullmatch(
                    r"error: stopped by SIGTERM: the same command goes on after row "
                    r"\d+ .*\n",
                    said,
                )
    with start(work, seconds=0) as process:
        out = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert 0 < int(out) < 190  # the last window may not have been noted
    assert work.output.read_bytes() == want


def test_signals_are_given_back(work):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    class Terminated(FakeScorer):
        def one(self, *pair):
            if self.pairs == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().one(*pair)

    with pytest.raises(ScoreFileError, match=r"SIGTERM.*after row 3 "):
        work(numbered(9), scorer=Terminated())
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    work()


@pytest.mark.slow
def test_progress_fits_on_one_line_of_a_terminal(work):
    put(work.input, numbered(60))
    ours, theirs = pty.openpty()
    env = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    with start(work, stderr=theirs, env=env):
        os.close(theirs)
        said = b""
        while True:
            try:
                said += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
        os.close(ours)
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", said).decode()
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert all(len(line) <= 80 for line in lines)
    assert re.search(r"100%  60 rows  \S+ rows/s  \S+ tok/s  25% padding  0:00:00 left$",
                     lines[-1])  # fmt: skip


def test_progress_elsewhere_is_a_line_now_and_then(work, capsys, monkeypatch):
    ticker = module.ProgressTicker
    monkeypatch.setattr(
        module, "ProgressTicker", lambda state: ticker(state, seconds=0.05)
    )
    work(numbered(12), scorer=FakeScorer(seconds=0.1))
    lines = capsys.readouterr().err.splitlines()
    assert lines
    form = r" *\d+%  \S+ rows  \S+ rows/s  \S+ tok/s  \d+% padding  \S+ left"
    assert all(re.fullmatch(form, line) for line in lines)


# The command.


@pytest.fixture
def command(monkeypatch, capfd):
    """Runs the command `rljax` in this process."""

    def run(*flags):
        monkeypatch.setattr(sys, "argv", ["rljax", *map(str, flags)])
        monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
        monkeypatch.setenv("COLUMNS", "80")
        code = 0
        try:
            rljax.commands.main.main()
        except SystemExit as end:
            code = end.code or 0
        return subprocess.CompletedProcess(flags, code, *capfd.readouterr())

    return run


def test_help(command):
    done = command("--help")
    assert done.returncode == 0
    assert "score" in done.stdout
    done = command("score", "--help")
    assert done.returncode == 0
    flags = """model input output template date label pooling bos no-bos eos no-eos
        max-length truncate allow-empty prompt-column completion-column chosen-column
        rejected-column messages-column max-tokens window error-rows distributed
        connect-timeout field"""
    for flag in flags.split():
        assert f" --{flag}" in done.stdout
    boxes = [line for line in done.stdout.splitlines() if line[:1] in "│╭╰"]
    assert all(len(line) <= 80 for line in boxes)


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ((), 2, "model"),
        (("--window", "0"), 2, "window must be at least 1, got 0"),
        (("--max-tokens", "x"), 2, "max-tokens"),
        (("--bos", "--no-bos"), 2, "not allowed together"),
        (("--template", "chatml"), 1, "the template chatml cannot be read"),
        (("--truncate", "left"), 2, "truncate"),
        (("--date", "noon"), 2, "date"),
        (("--input", "/nowhere"), 1, "/nowhere, which is no file"),
        (("--model", "/nowhere"), 1, "/nowhere"),
    ],
)
def test_bad_usage_of_the_command(work, flags, status, message, command):
    put(work.input, numbered(1))
    given = {"--model": "/nowhere", "--input": work.input, "--output": work.output}
    flat = [x for pair in given.items() if pair[0] not in flags for x in pair]
    done = command("score", *(flat if flags else []), *flags)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    if status == 1:
        assert re.fullmatch(r"error: [^\n]*\n", done.stderr)
    assert not work.part.exists()
