"""What a file to score may be: each is scored, killed and resumed as JSON lines are."""

import gzip
import io
import json
import sys

import pytest
from test_score_file import FakeScorer, numbered, put, rows_of, whole, work  # noqa: F401

from rljax.rlhf.scoring.score_file import ScoreFileError

ROWS = [*numbered(8), {"id": 8, "prompt": [{"role": "user", "content": "é"}],
                       "completion": "c", "messages": None}]  # fmt: skip


def as_gzip(path, rows):
    path = path.with_name("in.jsonl.gz")
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def as_array(path, rows):
    path = path.with_name("in.json")
    path.write_text("\n " + json.dumps(rows, indent=1))
    return path


def as_gzipped_array(path, rows):
    path = path.with_name("in.json.gz")
    path.write_bytes(gzip.compress(json.dumps(rows).encode()))
    return path


def as_parquet(path, rows):
    import pyarrow
    import pyarrow.parquet

    path = path.with_name("in.parquet")
    chats = [
        row
        if isinstance(row["prompt"], list)
        else row
        | {"prompt": [{"role": "user", "content": row["prompt"], "name": None}]}
        for row in rows
    ]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(chats), path, row_group_size=4
    )
    return path


FORMS = [as_gzip, as_array, as_gzipped_array, as_parquet]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("die_at", [1, 2])
def test_each_form_is_scored_and_resumed_as_lines_are(work, form, die_at):  # noqa: F811
    rows = ROWS
    if form is as_parquet:
        user = [{"role": "user", "content": "p"}]
        rows = [row | {"prompt": user, "messages": None} for row in ROWS]
    want = whole(work, rows)
    work.input = form(work.input, rows)
    with pytest.raises(KeyboardInterrupt):
        work(scorer=FakeScorer(die_at=die_at))
    assert len(rows_of(work.part)) == 3 * die_at
    scorer = FakeScorer()
    result = work(scorer=scorer)
    assert scorer.pairs == 9 - 3 * die_at
    assert [row["score"] for row in rows_of(work.output)] == [
        json.loads(line)["score"] for line in want.splitlines()
    ]
    assert [row["id"] for row in rows_of(work.output)] == list(range(9))
    assert work() == result


def test_stdin_is_scored_and_resumed(work, monkeypatch):  # noqa: F811
    want = whole(work, ROWS)
    data = work.input.read_bytes()
    work.input.unlink()
    work.input = type(work.input)("-")

    def give(data):
        stdin = io.TextIOWrapper(io.BufferedReader(Pipe(data)))
        monkeypatch.setattr(sys, "stdin", stdin)

    give(data)
    with pytest.raises(KeyboardInterrupt):
        work(scorer=FakeScorer(die_at=1))
    give(data)
    work()
    assert work.output.read_bytes() == want
    give(gzip.compress(data))
    assert work()["rows"] == len(ROWS)
    give(data[:-30])
    with pytest.raises(ScoreFileError, match="other lines than it was made from"):
        work()


class Pipe(io.RawIOBase):
    """What cannot be sought in, as stdin of a pipe."""

    def __init__(self, data):
        self._file = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._file.readinto(buffer)


def test_values_that_json_lacks_are_written_as_it_can(work):  # noqa: F811
    import datetime

    import pyarrow
    import pyarrow.parquet

    day = datetime.date(2026, 11, 26)
    rows = [{"prompt": "p", "completion": "c", "x": float("nan"), "day": day}]
    work.input = work.input.with_name("in.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), work.input)
    work()
    (row,) = rows_of(work.output)
    assert (row["x"], row["day"]) == (None, "2026-11-26")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("in.jsonl.gz", gzip.compress(b'{"prompt": "p", "completion": "c"}\n' * 99, mtime=0)[:-20],
         "is damaged"),
        ("in.jsonl.gz", b"\x1f\x8b8888888888", "is damaged"),
        ("in.json", b'[{"prompt": "p"', "begins like a JSON array and is none"),
        ("in.parquet", b"PAR1 and no more", "begins like a Parquet file and is none"),
    ],
    ids=["gzip cut short", "gzip of noise", "array cut short", "parquet of noise"],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_words(work, name, data, message):  # noqa: F811
    work.input = work.input.with_name(name)
    work.input.write_bytes(data)
    with pytest.raises(ScoreFileError, match=message):
        work(error_rows=True)


def test_json_lines_may_be_called_json(work):  # noqa: F811
    want = whole(work, ROWS)
    work.input = put(work.input.with_name("in.json"), ROWS)
    work()
    assert work.output.read_bytes() == want


def test_parquet_has_texts_as_bytes_and_times_of_pandas(work):  # noqa: F811
    import decimal

    import pyarrow as pa
    import pyarrow.parquet

    work.input = work.input.with_name("in.parquet")
    columns = {
        "prompt": pa.array([b"\xc3\xa4"], pa.binary()),
        "completion": pa.array([b"c"], pa.binary()),
        "image": pa.array([b"\xff"], pa.binary()),
        "time": pa.array([1764190682123456789], pa.timestamp("ns")),
        "price": pa.array([decimal.Decimal("1.10")]),
    }
    pyarrow.parquet.write_table(pa.table(columns), work.input)
    scorer = FakeScorer()
    work(scorer=scorer)
    assert scorer.seen == [("ä", "c", {})]
    (row,) = rows_of(work.output)
    assert (row["image"], row["price"]) == ("/w==", 1.1)
    assert row["time"] == "2025-11-26 20:58:02.123456"
    work.input = work.input.with_name("twice.parquet")
    twice = pa.Table.from_arrays([pa.array(["p"])] * 2, names=["prompt", "prompt"])
    pyarrow.parquet.write_table(twice, work.input)
    with pytest.raises(ScoreFileError, match="two columns of one name"):
        work()


def test_an_array_may_begin_with_a_mark_and_hold_bad_rows(work):  # noqa: F811
    work.input = work.input.with_name("in.json")
    rows = [{"prompt": "p", "completion": "c"}, 3, {"prompt": "\ud800"}]
    work.input.write_text("\ufeff" + json.dumps(rows))
    work(error_rows=True)
    good, *bad = (row.get("score_error", "") for row in rows_of(work.output))
    assert not good
    assert "must be a JSON object" in bad[0]
    assert "invalid Unicode" in bad[1]
    work.input.write_text("[" * 100_000)
    work.output.unlink()
    with pytest.raises(ScoreFileError, match="begins like a JSON array"):
        work()


def test_a_pipe_may_give_little_at_first(work, monkeypatch):  # noqa: F811
    want = whole(work, ROWS)
    data = gzip.compress(work.input.read_bytes())
    work.input = type(work.input)("-")

    class Slow(Pipe):
        def readinto(self, buffer):
            return self._file.readinto(buffer[:1])

    stdin = io.TextIOWrapper(io.BufferedReader(Slow(data)))
    monkeypatch.setattr(sys, "stdin", stdin)
    work()
    assert work.output.read_bytes() == want
