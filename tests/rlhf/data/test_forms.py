"""Rows of data sets: what is scored in each form, and what is refused."""

import json

import pytest

from rljax.rlhf.data.forms import Columns, FormError, read_form
from rljax.rlhf.data.pairs import TokenPair, Transcript

USER = {"role": "user", "content": "hi"}
ALICE = {"role": "assistant", "content": "good"}
BOB = {"role": "assistant", "content": "bad"}
SYSTEM = {"role": "system", "content": "be"}
TOOL = {"role": "tool", "content": "71 F"}


@pytest.mark.parametrize(
    ("row", "pairs"),
    [
        ({"prompt": "p", "completion": "c"}, [("p", "c")]),
        ({"prompt": [USER], "completion": "good"}, [([USER], [ALICE])]),
        ({"prompt": [USER], "completion": [ALICE]}, [([USER], [ALICE])]),
        ({"prompt": [USER], "completion": ALICE}, [([USER], [ALICE])]),
        ({"prompt": "hi", "completion": [ALICE]}, [([USER], [ALICE])]),
        ({"completion": [USER, ALICE]}, [([USER], [ALICE])]),
        ({"messages": [USER, ALICE]}, [([USER], [ALICE])]),
        ({"messages": [USER, BOB, USER, ALICE]}, [([USER, BOB, USER], [ALICE])]),
        ({"messages": [USER, ALICE], "prompt": "hi"}, [([USER], [ALICE])]),
        ({"messages": [USER, ALICE], "prompt": [USER]}, [([USER], [ALICE])]),
        (
            {"prompt": [USER], "completion": [BOB, TOOL, ALICE]},
            [([USER], [BOB, TOOL, ALICE])],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "hi"},
                    {"from": "gpt", "value": "good"},
                ]
            },
            [([USER], [ALICE])],
        ),
        (
            {"prompt": "p", "completion": "c", "chosen": None, "messages": None},
            [("p", "c")],
        ),
        (
            {"prompt_ids": [1, 2], "completion_ids": [3], "completion": "c"},
            [([1, 2], [3])],
        ),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, [("p", "c"), ("p", "r")]),
        (
            {"chosen": [USER, ALICE], "rejected": [USER, BOB]},
            [([USER], [ALICE]), ([USER], [BOB])],
        ),
        (
            {"prompt": [USER], "chosen": [ALICE], "rejected": [BOB]},
            [([USER], [ALICE]), ([USER], [BOB])],
        ),
        *(
            (
                {"prompt": prompt, "chosen": [USER, ALICE], "rejected": [USER, BOB]},
                [([USER], [ALICE]), ([USER], [BOB])],
            )
            for prompt in ("hi", [USER])
        ),
        (
            {"prompt": [SYSTEM, USER], "chosen": [USER, ALICE], "rejected": [ALICE]},
            [([SYSTEM, USER], [ALICE]), ([SYSTEM, USER], [ALICE])],
        ),
        (
            {
                "chosen": "\n\nHuman: hi\n\nAssistant: good",
                "rejected": "\n\nHuman: hi\n\nAssistant: go away",
            },
            [
                ("\n\nHuman: hi\n\nAssistant: good", 23),
                ("\n\nHuman: hi\n\nAssistant: go away", 23),
            ],
        ),
        (
            {"chosen": "Is it? Yes", "rejected": "Is it? No"},
            [("Is it? Yes", 6), ("Is it? No", 6)],
        ),
        (
            {"prompt": "hi", "completion": "good", "system": "be"},
            [([SYSTEM, USER], [ALICE])],
        ),
        ({"messages": [USER, ALICE], "system": "be"}, [([SYSTEM, USER], [ALICE])]),
        (
            {"messages": [SYSTEM, USER, ALICE], "system": "be"},
            [([SYSTEM, USER], [ALICE])],
        ),
        (
            {
                "prompt": "hi",
                "completion": "good",
                "tools": [{"name": "t"}],
                "documents": [],
                "chat_template_kwargs": {"enable_thinking": False, "x": None},
            },
            [("hi", "good", {"tools": [{"name": "t"}], "enable_thinking": False})],
        ),
        (
            {"prompt": "hi", "completion": "good", "tools": '[{"name": "t"}]'},
            [("hi", "good", {"tools": [{"name": "t"}]})],
        ),
        (
            {"messages": [USER | {"name": None}, ALICE | {"tool_calls": None, "x": 1}]},
            [([USER], [ALICE | {"x": 1}])],
        ),
        (
            {
                "messages": [
                    USER,
                    {"role": "assistant", "content": None, "tool_calls": [1]},
                    TOOL | {"content": [{"type": "text", "text": "t"}]},
                    ALICE,
                ]
            },
            [
                (
                    [
                        USER,
                        {"role": "assistant", "tool_calls": [1]},
                        TOOL | {"content": [{"type": "text", "text": "t"}]},
                    ],
                    [ALICE],
                )
            ],
        ),
    ],
)
def test_every_form(row, pairs):
    found = read_form({"id": 7} | row | {"more": [1, {"a": None}]})
    examples = [one for column in found.values() for one in column]
    pairs = [
        pair if isinstance(one, Transcript | TokenPair) else (*pair, {})[:3]
        for pair, one in zip(pairs, examples, strict=True)
    ]
    assert [tuple(one) for one in examples] == pairs


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{}", "it has no fields"),
        ('{"prompt": "p"}', "it needs 'prompt' and 'completion'"),
        ('{"completion": "c"}', "no 'prompt'"),
        ('{"prompt": null, "completion": "c"}', "'completion' but no 'prompt'"),
        ('{"prompt": 5, "completion": "c"}', "'prompt' must be text .* got a number"),
        ('{"prompt": [], "completion": "c"}', "at least one message"),
        ('{"prompt": [{"role": "user"}], "completion": "c"}', "a role and a content"),
        ('{"prompt": ["p"], "completion": "c"}', "a role and a content"),
        (
            '{"prompt": [{"role": "user", "content": [{"type": "image"}]}], '
            '"completion": "c"}',
            "parts of text",
        ),
        ('{"prompt": "p", "completion": 5}', "got a number"),
        ('{"prompt": "p", "completion": []}', "at least one message, got none"),
        ('{"prompt": "p", "completions": []}', "list of some"),
        ('{"prompt": "p", "completions": ["a", null]}', "got null"),
        ('{"prompt_ids": [1], "completion_ids": [true]}', "list of token ids"),
        ('{"completion_ids": [1]}', "no 'prompt_ids'"),
        ('{"prompt": "p", "completion": "c", "tools": "no"}', "'tools' must be JSON"),
        ('{"prompt": "p", "completion": "c", "tools": [1]}', "list of objects"),
        ('{"prompt": "p", "completion": "c", "system": 1}', "'system' must be text"),
        (
            '{"chosen": "a b", "rejected": "a c", "system": "s"}',
            "no place for 'system'",
        ),
        ('{"conversations": [{"from": "who", "value": "x"}]}', "a 'from' of human"),
        ('{"messages": "x"}', "must be a list of messages, got text"),
        (
            '{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}'
            ', {"role": "assistant", "content": "c"}], "system": "d"}',
            "another system's",
        ),
        (
            '{"prompt": "z", "chosen": [{"role": "user", "content": "b"}, {"role": "assistant",'
            ' "content": "c"}], "rejected": [{"role": "assistant", "content": "d"}]}',
            "messages that do not",
        ),
        (
            '{"prompt": "p", "completion": [{"role": "user", "content": "c"}]}',
            "assistant's, got 'user'",
        ),
        ('{"prompt": "p", "chosen": "c"}', "'chosen' but no 'rejected'"),
        ('{"prompt": "p", "completion": "c", "chosen": "c"}', "both 'completion' and"),
        ('{"prompt": "p", "messages": []}', "at least one message, got none"),
        ('{"messages": [{"role": "assistant", "content": "c"}]}', "got 1 of them"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_words(row, message):
    with pytest.raises(FormError, match=message):
        read_form(json.loads(row))


def test_columns_may_have_other_names():
    columns = Columns(prompt="question", completion="answer")
    row = {"question": "p", "answer": "c", "prompt": 7, "completion": 8}
    assert read_form(row, columns) == {"completion": [("p", "c", {})]}
    with pytest.raises(FormError, match="'question' and 'answer'"):
        read_form({"prompt": "p", "completion": "c"}, columns)
    with pytest.raises(FormError, match="'better' but no 'rejected'"):
        read_form({"better": "p"}, Columns(chosen="better"))


def test_several_completions_are_several_pairs():
    row = {"prompt": "p", "completions": ["a", [ALICE]], "completion": None}
    first, second = read_form(row)["completions"]
    assert first == ("p", "a", {})
    assert second == ([{"role": "user", "content": "p"}], [ALICE], {})
