"""Records of data sets: each format, each label, and lines that cannot be read."""

import gzip
import json
import math
import re

import numpy as np
import pytest

from rljax.rlhf.data.datasets import (
    DataError,
    Labels,
    Preference,
    read_completions,
    read_preferences,
    read_prompts,
    read_ratings,
)
from rljax.rlhf.data.forms import Columns
from rljax.rlhf.data.pairs import Pair, TokenPair, Transcript
from rljax.training.files import RunError

USER = {"role": "user", "content": "hi"}
MORE = {"role": "user", "content": "more"}
ALICE = {"role": "assistant", "content": "good"}
BOB = {"role": "assistant", "content": "bad"}
SYSTEM = {"role": "system", "content": "be"}
TURNS = "\n\nHuman: hi\n\nAssistant:"


@pytest.fixture
def put(tmp_path):
    def write(*rows, name="in.jsonl"):
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(line + "\n" for line in lines))
        return path

    return write


@pytest.mark.parametrize(
    ("row", "chosen", "rejected"),
    [
        (
            {"prompt": "p", "chosen": "c", "rejected": "r"},
            Pair("p", "c"),
            Pair("p", "r"),
        ),
        (
            {"prompt": [USER], "chosen": [ALICE], "rejected": [BOB]},
            Pair([USER], [ALICE]),
            Pair([USER], [BOB]),
        ),
        (
            {"chosen": [SYSTEM, USER, ALICE], "rejected": [SYSTEM, USER, BOB]},
            Pair([SYSTEM, USER], [ALICE]),
            Pair([SYSTEM, USER], [BOB]),
        ),
        (
            {"chosen": f"{TURNS} good", "rejected": f"{TURNS} go"},
            Transcript(f"{TURNS} good", len(TURNS)),
            Transcript(f"{TURNS} go", len(TURNS)),
        ),
        (
            {
                "prompt_ids": [1],
                "chosen_ids": [2, 3],
                "rejected_ids": [4],
                "chosen": "c",
            },
            TokenPair([1], [2, 3]),
            TokenPair([1], [4]),
        ),
    ],
)
def test_preferences_of_each_form(put, row, chosen, rejected):
    (plain,) = read_preferences(put(row))
    assert plain == Preference((chosen, rejected))
    assert (plain.chosen, plain.rejected) == (chosen, rejected)
    (labelled,) = read_preferences(put(row | {"margin": 2, "prob": 0.75}))
    assert labelled == Preference((chosen, rejected), 2.0, 0.75)


@pytest.mark.parametrize(
    ("labels", "order", "num_tied"),
    [
        ({"ratings": [1, 3.5, 2]}, "bca", 0),
        ({"scores": [-1, -2, -3]}, "abc", 0),
        ({"ranks": [2, 3, 1]}, "cab", 0),
        ({"ratings": [1, 2, 2]}, "ba", 1),
        ({"ranks": [1, 1, 1]}, "a", 2),
        ({"ratings": [3, 2, 1], "ranks": [1, 2, 3]}, "abc", 0),
    ],
)
def test_rankings_are_the_best_first_and_ties_are_counted(put, labels, order, num_tied):
    (one,) = read_preferences(put({"prompt": "p", "completions": [*"abc"]} | labels))
    assert one == Preference(tuple(Pair("p", c) for c in order), num_tied=num_tied)


def test_columns_have_the_names_that_are_given(put):
    path = put(
        {"q": "p", "yes": "c", "no": "r", "by": 1, "sure": 0.5, "margin": "large"},
        {"q": "p", "completions": ["a", "b"], "stars": [1, 2], "ratings": "none"},
    )
    columns = Columns(prompt="q", chosen="yes", rejected="no")
    labels = Labels(margin="by", prob="sure", ratings="stars")
    first, second = read_preferences(path, columns=columns, labels=labels)
    assert first == Preference((Pair("p", "c"), Pair("p", "r")), 1.0, 0.5)
    assert second.chosen == Pair("p", "b")
    (rated,) = read_ratings(
        put({"body": "t", "text": 5, "stars": 2}),
        labels=Labels(text="body", rating="stars"),
    )
    assert rated == (Transcript("t", 0), (2.0,))
    with pytest.raises(ValueError, match="names of their own, got 'prob' twice"):
        Labels(margin="prob")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "not JSON: .* at character 3"),
        ("[]", "must be a JSON object, got a list"),
        ({"prompt": "p", "chosen": "c"}, "'chosen' but no 'rejected'"),
        ({"prompt": "p", "completion": "c"}, "'completion', and no preference"),
        ({"text": "t"}, "'text', and no preference"),
        ({"prompt": "p", "text": "t"}, "it has 'prompt', 'text'"),
        ({"prompt": "p", "completions": ["a", "b"]}, "no 'ratings' or 'ranks'"),
        (
            {"prompt": "p", "completions": ["a", "b"], "ratings": [1]},
            "'ratings' must have one number for each of 2 completions, got 1",
        ),
        ({"prompt": "p", "completions": ["a"], "ratings": [1]}, "at least two"),
        (
            {"prompt": "p", "completions": ["a", "b"], "ranks": [1, True]},
            "'ranks' must be a number, got a boolean",
        ),
        (
            '{"prompt": "p", "completions": ["a", "b"], "ratings": [1, NaN]}',
            "holds NaN",
        ),
        (
            '{"prompt": "p", "completions": ["a", "b"], "scores": [1, 1e999]}',
            "'scores' must be finite, got inf",
        ),
        (
            {"prompt": "p", "completions": ["a", "b"], "scores": [1, 10**400]},
            "'scores' must be finite, got 1000",
        ),
        ({"chosen": "a b", "rejected": "a c", "margin": -1}, "at least 0, got -1"),
        ({"chosen": "a b", "rejected": "a c", "margin": "1"}, "a number, got text"),
        ({"chosen": "a b", "rejected": "a c", "prob": 1.5}, "in \\[0, 1\\], got 1.5"),
        ({"prompt_ids": [1], "chosen_ids": [2]}, "'rejected_ids' must be a list"),
        ({"chosen_ids": [1], "rejected_ids": [2]}, "'chosen_ids' but no 'prompt_ids'"),
        (
            {
                "prompt": [{"role": "boss", "content": "x"}],
                "chosen": "a",
                "rejected": "b",
            },
            "role 'boss', which is unknown; it must be one of assistant, .*user",
        ),
        ({"chosen": [USER], "rejected": [USER, BOB]}, "must be the assistant's"),
    ],
)
def test_a_bad_line_is_named_or_counted(put, row, message):
    good = {"prompt": "p", "chosen": "c", "rejected": "r"}
    path = put(good, "", row, good, row)
    with pytest.raises(DataError, match=message) as raised:
        list(read_preferences(path))
    assert str(raised.value).startswith(f"line 3 of {path}: ")
    assert str(raised.value).endswith("Mend it, or pass over such lines with skip_bad.")
    records = read_preferences(path, skip_bad=True)
    for _ in range(2):  # read anew
        assert len(list(records)) == records.num_bad == 2
    assert re.match(f"line 3 of {path}: .*{message}", records.first_bad)
    assert [place for place, _ in records.with_places()] == [
        f"line {number} of {path}" for number in (1, 4)
    ]


def test_other_files(put, tmp_path):
    row = {"prompt": "p", "chosen": "c", "rejected": "r", "margin": 1.0}
    pyarrow = pytest.importorskip("pyarrow.parquet")
    import pyarrow as arrow

    parquet = tmp_path / "a.parquet"
    pyarrow.write_table(arrow.Table.from_pylist([row, row | {"margin": None}]), parquet)
    assert [one.margin for one in read_preferences(parquet)] == [1.0, 0.0]
    rated = arrow.Table.from_pylist([{"text": "t", "rating": math.nan}])
    pyarrow.write_table(rated, parquet)
    with pytest.raises(DataError, match=r"line 1 of .*no 'ratings' or 'rating'"):
        list(read_ratings(parquet))
    for name, content in [("bom.json", [row]), ("bom.jsonl", row)]:
        marked = tmp_path / name
        marked.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
        assert len(list(read_preferences(marked))) == 1
    with pytest.raises(DataError, match=r"none.jsonl cannot be read: .*Give a file"):
        list(read_preferences(tmp_path / "none.jsonl"))
    damaged = tmp_path / "a.jsonl.gz"
    damaged.write_bytes(gzip.compress(json.dumps(row).encode() * 99)[:-20])
    with pytest.raises(RunError, match="damaged"):
        list(read_preferences(damaged))


@pytest.mark.parametrize(
    ("row", "examples"),
    [
        ({"prompt": "p", "completion": "c"}, [Pair("p", "c")]),
        ({"prompt": [USER], "completion": [ALICE]}, [Pair([USER], [ALICE])]),
        ({"prompt": "p", "completions": ["a", "b"]}, [Pair("p", "a"), Pair("p", "b")]),
        ({"text": "once"}, [Transcript("once", 0)]),
        ({"text": "once", "messages": [USER, BOB]}, [Pair([USER], [BOB])]),
        ({"messages": [USER, ALICE, MORE, BOB]}, [Pair([USER, ALICE, MORE], [BOB])]),
        ({"prompt_ids": [1], "completion_ids": [2]}, [TokenPair([1], [2])]),
    ],
)
def test_completions_of_each_form(put, row, examples):
    assert list(read_completions(put(row))) == examples


def test_all_turns_of_the_assistant(put):
    tool = {"role": "tool", "content": "71"}
    chat = [BOB, SYSTEM, USER, ALICE, MORE, BOB, tool, ALICE]
    rows = (
        {"messages": chat, "tools": [{"name": "t"}]},
        {"prompt": "p", "completion": "c"},
    )
    *turns, last = read_completions(put(*rows), turns="all")
    tools = {"tools": [{"name": "t"}]}
    ends = 3, 5, 7
    assert turns == [Pair(chat[:i], [chat[i]], tools) for i in ends]
    assert last == Pair("p", "c")
    with pytest.raises(DataError, match=r"a chosen and a rejected .* to be learned"):
        list(read_completions(put({"prompt": "p", "chosen": "c", "rejected": "r"})))
    with pytest.raises(DataError, match="'text' must be text, got a number"):
        list(read_completions(put({"text": 5})))


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "p"}, Pair("p", "")),
        ({"prompt": "p", "answer": "a"}, Pair("p", "")),
        ({"prompt": "p", "system": "be"}, Pair([SYSTEM, {**USER, "content": "p"}], "")),
        (
            {"prompt": [USER], "tools": [{"name": "t"}]},
            Pair([USER], "", {"tools": [{"name": "t"}]}),
        ),
        ({"messages": [USER, ALICE]}, Pair([USER], "")),
        ({"chosen": f"{TURNS} good", "rejected": f"{TURNS} go"}, Pair(TURNS, "")),
    ],
)
def test_prompts(put, row, prompt):
    assert list(read_prompts(put(row))) == [prompt]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": []}, "at least one message"),
        ({"prompt": 5}, "must be text or a list of messages, got a number"),
        ({"question": "q"}, "it has 'question'"),
        ({"prompt_ids": [1], "completion_ids": [2]}, "it has no 'prompt'"),
        ({"prompt": [{"role": "boss", "content": "x"}]}, "'boss', which is unknown"),
    ],
)
def test_prompts_that_are_none(put, row, message):
    with pytest.raises(DataError, match=message):
        list(read_prompts(put(row)))


def test_ratings(put):
    text = Transcript("t", 0)
    path = put(
        {"text": "t", "ratings": [1, 2, 4.5], "mean": 9},
        {"text": "t", "rating": -1},
        {"prompt": "p", "completion": "c", "score": 3},
        {"prompt": "p", "completions": ["a", "b"], "scores": [1, 2]},
        {"prompt_ids": [1], "completion_ids": [2], "rating": 1},
    )
    rated = list(read_ratings(path))
    assert rated == [
        (text, (1.0, 2.0, 4.5)),
        (text, (-1.0,)),
        (Pair("p", "c"), (3.0,)),
        (Pair("p", "a"), (1.0,)),
        (Pair("p", "b"), (2.0,)),
        (TokenPair([1], [2]), (1.0,)),
    ]
    assert rated[0].mean == np.mean([1, 2, 4.5])
    assert math.isnan(rated[0]._replace(ratings=()).mean)
    for row, message in [
        ({"text": "t"}, "no 'ratings' or 'rating'"),
        ({"text": "t", "ratings": []}, "a list of numbers"),
        ({"text": "t", "ratings": [1, None]}, "a number, got null"),
        ({"prompt": "p", "completions": ["a"], "ratings": [1, 2]}, "each of 1 compl"),
    ]:
        with pytest.raises(DataError, match=message):
            list(read_ratings(put(row)))
