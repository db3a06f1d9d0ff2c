"""Training sets: the tokens that the encoding gives, padded, and what is dropped."""

import dataclasses
import json
import math

import numpy as np
import pytest

from rljax.rlhf.data.datasets import (
    DataError,
    Preference,
    read_completions,
    read_preferences,
)
from rljax.rlhf.data.encoding import encode_pair, encoding_config
from rljax.rlhf.data.pairs import Pair, TokenPair, Transcript
from rljax.rlhf.data.ratings import Rated
from rljax.rlhf.data.tokenizer import ByteTokenizer
from rljax.rlhf.data.training_sets import (
    Counts,
    resident_bytes,
    tokenize_completions,
    tokenize_rankings,
    tokenize_ratings,
)

BYTES = ByteTokenizer()
EOS = BYTES.eos_id
SHORT = encoding_config(BYTES, max_length=8)  # EOS included
LONG = encoding_config(BYTES, max_length=64, bos=True)


def pairs(*texts, prompt="p"):
    return Preference(tuple(Pair(prompt, text) for text in texts))


def ids(text):
    return [*text.encode(), EOS]


def unpadded(rows, lengths):
    rows, lengths = np.asarray(rows), np.asarray(lengths)
    assert all(not row[size:].any() for row, size in zip(rows, lengths, strict=True))
    return [row[:size].tolist() for row, size in zip(rows, lengths, strict=True)]


def test_rankings_have_the_tokens_of_the_encoding():
    records = [
        pairs("good", "bad"),
        pairs("one", "two", "three", prompt="which")._replace(num_tied=1),
        Preference((TokenPair([5, 6], [7]), TokenPair([5, 6], [8, 9])), 2.0, 0.25),
    ]
    rows, counts, kept = tokenize_rankings(BYTES, LONG, records, vocab_size=258)
    assert rows.ids.shape == (3, 3, 16)  # BOS, "whichthree", EOS: 12
    expected = [
        [encode_pair(BYTES, *one[:2], LONG).ids for one in record.examples]
        for record in records[:2]
    ]
    for i, texts in enumerate([*expected, [[5, 6, 7], [5, 6, 8, 9]]]):
        assert rows.lengths[i].tolist() == [*map(len, texts), 0][:3]
        assert unpadded(rows.ids[i], rows.lengths[i])[: len(texts)] == texts
    np.testing.assert_array_equal(rows.margins, [0, 0, 2])
    np.testing.assert_array_equal(rows.probs, [1, 1, 0.25])
    np.testing.assert_array_equal(rows.starts, [[2, 2, 0], [6, 6, 6], [2, 2, 0]])
    assert rows.reference is None
    assert counts == Counts(records=3, kept=3, left_out=1)
    np.testing.assert_array_equal(kept, [0, 1, 2])


def test_pairs_that_teach_nothing_are_dropped_with_a_count():
    records = [
        pairs("same", "same"),
        pairs("yes", "no"),
        pairs("123456789", "no"),  # too long, whatever the prompt loses
        pairs("no", ""),
        pairs("tied"),
        pairs("a", "a", "b"),
        pairs("a", "", "b"),
        pairs("a", "")._replace(margin=math.nan),
        pairs("a", "b")._replace(prob=1.5),
        pairs("yes", "no", prompt="a long prompt"),
        pairs("x", "x", prompt="a long prompt"),
    ]
    rows, counts, kept = tokenize_rankings(BYTES, SHORT, records)
    assert counts == Counts(
        records=11, kept=4, not_encoded=2, identical=2, tied=1, bad_label=2, left_out=2,
        truncated=2, first_bad=counts.first_bad,
    )  # fmt: skip
    assert counts.first_bad.startswith(
        "number 3 of the preferences: the completion has"
    )
    assert kept.tolist() == [1, 5, 6, 9]
    assert rows.ids.shape == (4, 2, 8)
    assert unpadded(rows.ids[3], rows.lengths[3]) == [
        ids("romptyes")[-8:],
        ids(" promptno")[-8:],
    ]
    for text in (
        "4 of 11 kept",
        "2 cannot become tokens",
        "2 identical when cut",
        "1 tied",
        "2 completions left out",
        "2 texts cut",
        "the first: number 3",
    ):
        assert text in counts.describe()
    assert "read" not in counts.describe()


def test_pairs_that_are_the_same_once_they_are_cut():
    cut = dataclasses.replace(SHORT, truncate="completion")
    same, other = pairs("1234567 good", "1234567 bad"), pairs("good", "bad")
    _, counts, kept = tokenize_rankings(BYTES, cut, [same, other])
    assert (counts.identical, counts.truncated, kept.tolist()) == (1, 0, [1])
    with pytest.raises(
        DataError, match=r"none of the preferences .*: 0 of 1 kept, 1 ide"
    ):
        tokenize_rankings(BYTES, cut, [same])


def test_all_rows_dropped_and_no_rows():
    strict = dataclasses.replace(SHORT, truncate="error")
    with pytest.raises(DataError, match=r"2 cannot become .*max_length, which is 8"):
        tokenize_rankings(BYTES, strict, [pairs("too long by far", "no")] * 2)
    with pytest.raises(DataError, match=r"there are no preferences. Give at least one"):
        tokenize_rankings(BYTES, SHORT, [])
    with pytest.raises(DataError, match="there are no rated texts"):
        tokenize_ratings(BYTES, SHORT, [])
    with pytest.raises(DataError, match="there are no completions"):
        tokenize_completions(BYTES, SHORT, [])
    even = pairs("a", "b")._replace(prob=0.5)
    with pytest.raises(DataError, match=r"all 2 preferences have the probability 0.5"):
        tokenize_rankings(BYTES, SHORT, [even, even])
    assert tokenize_rankings(BYTES, SHORT, [even, pairs("a", "b")]).counts.kept == 2


def test_what_is_in_a_file_is_counted_and_named(tmp_path):
    path = tmp_path / "in.jsonl"
    good = {"prompt": "p", "chosen": "c", "rejected": "r"}
    rows = [good, good | {"chosen": ""}, {"prompt": "p"}, good]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = read_preferences(path, skip_bad=True)
    _, counts, kept = tokenize_rankings(BYTES, SHORT, records)
    assert counts[:4] == (3, 2, 1, 1)
    assert kept.tolist() == [0, 2]
    assert counts.first_bad.startswith(f"line 3 of {path}: it needs")
    only_bad = tmp_path / "bad.jsonl"
    only_bad.write_text('{"prompt": "p"}\n')
    bad = read_preferences(only_bad, skip_bad=True)
    with pytest.raises(DataError, match=r"none of .*bad.jsonl .* 1 cannot be read"):
        tokenize_rankings(BYTES, SHORT, bad)
    path.write_text("\n")
    with pytest.raises(DataError, match=r"there are no preferences in .*in.jsonl"):
        tokenize_rankings(BYTES, SHORT, records)


def test_ratings():
    def text(content, *ratings):
        return Rated(Transcript(content, 0), ratings)

    records = [
        text("fine", 1, 2, 4.5),
        text("none"),
        text("", 1),
        text("nan", math.nan, 1),
        text("bad", -1),
    ]
    rows, counts, kept = tokenize_ratings(BYTES, SHORT, records)
    assert counts[:2] == (5, 2)
    assert (counts.bad_label, counts.not_encoded) == (2, 1)
    assert kept.tolist() == [0, 4]
    assert unpadded(rows.ids, rows.lengths) == [ids("fine"), ids("bad")]
    np.testing.assert_array_equal(rows.ratings, [2.5, -1])
    with pytest.raises(DataError, match="all 2 rated texts are rated 3, from which"):
        tokenize_ratings(BYTES, SHORT, [text("a", 3), text("b", 2, 4)])


def test_completions_and_where_they_begin():
    examples = [
        Pair("Q: ", "yes"),
        Transcript("whole", 0),
        Transcript("Q: no", 3),
        TokenPair([1, 2], [3]),
        ("much too long a prompt: ", "ok"),
        ("p", "123456789012345678901234567890123456789012345678901234567890123"),
    ]
    rows, counts, _ = tokenize_completions(BYTES, LONG, examples)
    assert rows.starts.tolist() == [4, 1, 4, 2, 25]  # BOS before the text
    assert rows.lengths.tolist() == [8, 7, 7, 3, 28]
    assert rows.num_learned.tolist() == [4, 6, 3, 1, 3]  # EOS after it
    assert (counts.records, counts.kept, counts.not_encoded) == (6, 5, 1)
    rows, counts, _ = tokenize_completions(BYTES, SHORT, examples)
    assert rows.starts.tolist() == [3, 0, 3, 2, 5]
    assert rows.num_learned.tolist() == [4, 5, 3, 1, 3]
    assert counts.truncated == 1


def test_completions_of_which_nothing_is_left():
    config = encoding_config(BYTES, max_length=8, eos=False, truncate="completion")
    lenient = dataclasses.replace(config, allow_empty=True)
    examples = [("p", ""), ("p", "c"), ("", "c"), TokenPair([1], [])]
    rows, counts, kept = tokenize_completions(BYTES, lenient, examples)
    assert (counts.nothing_to_learn, kept.tolist()) == (3, [1])
    assert rows.num_learned.tolist() == [1]


def test_another_tokenizers_vocabulary():
    tokens = Preference((TokenPair([1], [2]), TokenPair([1], [99])))
    with pytest.raises(DataError, match=r"number 1 .* token 99, but .* embeds only 50"):
        tokenize_rankings(BYTES, SHORT, [tokens], vocab_size=50)
    assert tokenize_rankings(BYTES, SHORT, [tokens], vocab_size=100).counts.kept == 1
    with pytest.raises(DataError, match=r"tokenizer has 258 ids, .* only 257. Use the"):
        tokenize_completions(BYTES, SHORT, [("p", "c")], vocab_size=257)
    negative = TokenPair([1], [-2])
    counts = tokenize_completions(BYTES, SHORT, [negative, ("p", "c")]).counts
    assert counts.not_encoded == 1


@pytest.mark.parametrize(
    ("tokenize", "records", "size"),
    [
        (tokenize_rankings, [pairs("a", "b", "c"), pairs("d", "e")], 2 * 3 * 10 + 4),
        (
            tokenize_ratings,
            [Rated(("p", "a"), (1,)), Rated(("p", "b"), (2,))],
            2 * 9 + 2,
        ),
        (tokenize_completions, [("p", "c")], 9 + 1),
    ],
)
def test_bytes_are_known_before_there_are_arrays(tokenize, records, size):
    rows = tokenize(BYTES, SHORT, records, max_bytes=4 * size).rows
    assert resident_bytes(rows) == 4 * size
    with pytest.raises(
        DataError, match=f"need {4 * size:,} bytes as .* Lower max_length"
    ):
        tokenize(BYTES, SHORT, records, max_bytes=4 * size - 1)


def test_rows_are_as_long_as_a_multiple_but_fit_the_context():
    odd = encoding_config(BYTES, max_length=11)
    for text, multiple, size in [("12", 8, 8), ("12345678", 8, 11), ("12", 3, 6)]:
        rows = tokenize_completions(BYTES, odd, [("p", text)], multiple=multiple).rows
        assert rows.ids.shape == (1, size)
    with pytest.raises(ValueError, match="multiple"):
        tokenize_completions(BYTES, odd, [("p", "c")], multiple=0)


def test_more_records_than_are_tokenized_at_once():
    examples = [("p", str(i)) for i in range(2500)]
    rows, counts, _ = tokenize_completions(BYTES, SHORT, iter(examples))
    assert counts.kept == 2500
    assert unpadded(rows.ids, rows.lengths) == [ids(f"p{i}") for i in range(2500)]


def test_a_chat_needs_a_template(tmp_path):
    path = tmp_path / "chat.jsonl"
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    path.write_text(json.dumps({"messages": chat}))
    with pytest.raises(DataError, match="must be text where there is no chat template"):
        tokenize_completions(BYTES, SHORT, read_completions(path))
