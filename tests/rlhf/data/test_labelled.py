"""Labelled completions: read, tokenized, and paired with completions of other prompts."""

import json

import numpy as np
import pytest

from rljax.rlhf.data import (
    ByteTokenizer,
    DataError,
    Labelled,
    Labels,
    Pair,
    TokenPair,
    encoding_config,
    read_labelled,
    resident_bytes,
    tokenize_labelled,
)

BYTES = ByteTokenizer()
EOS = BYTES.eos_id
SHORT = encoding_config(BYTES, max_length=8)  # EOS included


def test_labels_and_preferences_are_read(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [
        {"prompt": "p", "completion": "c", "good": True},
        {"prompt": "p", "completion": "d", "good": 0},
        {"prompt": "q", "chosen": "e", "rejected": "f"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(read_labelled(path, labels=Labels(label="good"))) == [
        Labelled(Pair("p", "c"), True),
        Labelled(Pair("p", "d"), False),
        Labelled(Pair("q", "e"), True),
        Labelled(Pair("q", "f"), False),
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "completion": "c"},
        {"prompt": "p", "completion": "c", "label": "yes"},
        {"prompt": "p", "completion": "c", "label": 2},
        {"prompt": "p", "completions": ["c", "d"], "label": True},
    ],
)
def test_what_has_no_label_is_named(row, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(DataError, match="one completion, and 'label' that is true or"):
        list(read_labelled(path))


def test_each_row_has_the_completion_of_another_prompt():
    records = [
        Labelled(Pair("a", "one"), True),
        Labelled(Pair("a", "two"), False),
        Labelled(Pair("bb", "three"), True),
        Labelled(TokenPair([1], [2]), False),
        Labelled(Pair("", ""), True),
        Labelled(Pair("a", "four"), True),
    ]
    rows, counts, kept = tokenize_labelled(BYTES, SHORT, records, vocab_size=258)
    assert kept.tolist() == [0, 1, 2, 3, 5]
    assert counts[:2] == (6, 5)
    assert counts.not_encoded == 1
    texts = [[b"aone", b"atwo", b"bbthree", [1, 2], b"afour"]]
    # The prompt's last row, and the last one before it, have the same prompt.
    texts += [[[*b"a", 2], [*b"a", 2], b"bbtwo", [1, *b"three", EOS], [*b"a", 2]]]
    for k in range(2):
        for i, text in enumerate(texts[k]):
            want = [*text, EOS] if isinstance(text, bytes) else text
            size = int(rows.lengths[i, k])
            assert np.asarray(rows.ids[i, k, :size]).tolist() == want
            assert rows.starts[i, k] == [1, 1, 2, 1, 1][i]
    assert rows.labels.tolist() == [True, False, True, False, True]
    assert rows.reference is None


def test_mixed_rows_fit_the_context_and_one_prompt_is_enough():
    records = [
        Labelled(Pair("12345", "a"), True),
        Labelled(Pair("b", "cdefg"), False),
    ]
    rows = tokenize_labelled(BYTES, SHORT, records).rows
    assert rows.ids.shape == (2, 2, 8)
    assert bytes(np.asarray(rows.ids[0, 1], np.uint8)) == b"12345cde"
    same = [one._replace(example=("p", str(one.label))) for one in records]
    rows = tokenize_labelled(BYTES, SHORT, same).rows
    np.testing.assert_array_equal(rows.ids[0, 1], rows.ids[1, 0])
    np.testing.assert_array_equal(rows.ids[1, 1], rows.ids[0, 0])


def test_bytes_are_known_and_one_label_is_refused():
    records = [Labelled(("p", "a"), True), Labelled(("q", "b"), False)]
    size = 4 * 4 * 10 + 2
    rows = tokenize_labelled(BYTES, SHORT, records, max_bytes=size).rows
    assert resident_bytes(rows) == size
    with pytest.raises(DataError, match=f"need {size} bytes"):
        tokenize_labelled(BYTES, SHORT, records, max_bytes=size - 1)
    with pytest.raises(DataError, match="all 1 labelled completions are undesirable"):
        tokenize_labelled(BYTES, SHORT, records[1:])
    with pytest.raises(DataError, match="there are no labelled completions"):
        tokenize_labelled(BYTES, SHORT, [])
