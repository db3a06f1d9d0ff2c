"""Prompt and completion become the tokens that they should."""

import dataclasses
import datetime
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from rljax.rlhf.data.chat import write_chat
from rljax.rlhf.data.encoding import (
    EncodingConfig,
    EncodingError,
    encode_pair,
    encode_pairs,
    encoding_config,
)
from rljax.rlhf.data.pairs import Pair, TokenPair, Tokens, Transcript
from rljax.rlhf.data.tokenizer import ByteTokenizer, load_tokenizer

GOLDEN = Path(__file__).parents[2] / "golden" / "scoring"
BYTES = ByteTokenizer()
PLAIN = EncodingConfig(max_length=100)
CHATML = (
    "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|> "
    "{% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
WORDS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "user", "assistant"]
WORDS += ["hello", "world", "yes"]
ENDS = EncodingConfig(max_length=100, begin_ids=(256,), end_ids=(257,))
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)


def write_tokenizer(folder, **settings):
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="yes"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    backend.enable_truncation(2)
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "__type": "AddedToken"},
    } | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def words(tmp_path):
    return load_tokenizer(write_tokenizer(tmp_path, chat_template=CHATML))


def text(tokenizer, pair):
    return " ".join(WORDS[i] for i in pair.ids)


@given(st.lists(st.tuples(TEXTS, TEXTS.filter(bool)), max_size=5))
@settings(max_examples=30, deadline=None)
def test_a_plain_row_is_the_prompts_ids_and_the_completions(pairs):
    for (prompt, completion), pair in zip(
        pairs, encode_pairs(BYTES, pairs, PLAIN), strict=True
    ):
        assert pair.ids == list((prompt + completion).encode())
        assert pair.num_prompt == len(prompt.encode())
        assert pair == encode_pair(BYTES, prompt, completion, PLAIN)
        assert BYTES.decode(pair.ids) == prompt + completion


def test_what_is_too_long_loses_the_prompts_left_and_says_so():
    encoding = dataclasses.replace(ENDS, max_length=6)
    pair = encode_pair(BYTES, "abcdef", "xy", encoding)
    assert pair == ([256, *b"efxy", 257], 3, 4)


def test_a_completion_is_never_cut():
    with pytest.raises(EncodingError, match=r"4 tokens, what ends it .* holds 4"):
        encode_pair(BYTES, "", "xyz", dataclasses.replace(ENDS, max_length=4))


def test_there_is_at_most_one_bos(words):
    encoding = encoding_config(words, max_length=50, template=False)
    assert (encoding.begin_ids, encoding.end_ids) == ((0,), (1,))
    pair = encode_pair(words, "<s> hello", " yes", encoding)
    assert text(words, pair) == "<s> hello yes </s>"
    pair = encode_pair(words, "hello", " yes </s>", encoding)
    assert text(words, pair) == "<s> hello yes </s>"


def test_a_tokenizers_own_truncation_is_off(words):
    assert len(words.encode(["hello world yes yes"])[0].ids) == 4


def test_a_chat_is_written_by_the_template(words):
    encoding = encoding_config(words, max_length=50)
    pair = encode_pair(words, "hello", "world", encoding)
    expected = (
        "<|im_start|> user hello <|im_end|> <|im_start|> assistant world <|im_end|>"
    )
    assert text(words, pair) == expected
    chat = [{"role": "user", "content": "hello"}]
    assert encode_pair(words, chat, "world", encoding) == pair
    assert pair.num_prompt == 6


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}{{ messages.append(1) }}",
        "{{ raise_exception('no') }}",
        "{{ messages | nothing }}",
    ],
)
def test_a_template_that_does_more_or_less_is_refused(words, template):
    encoding = EncodingConfig(max_length=50, template=template)
    with pytest.raises(EncodingError, match="template"):
        encode_pair(words, "hello", "world", encoding)


def test_a_template_that_is_no_jinja_is_refused(words):
    with pytest.raises(EncodingError, match="template"):
        encode_pair(words, "a", "b", EncodingConfig(max_length=50, template="{% if"))
    with pytest.raises(EncodingError, match="bytes write no chats"):
        encode_pair(BYTES, "a", "b", EncodingConfig(max_length=50, template="{% if"))


@pytest.mark.parametrize(
    ("prompt", "completion", "message"),
    [
        ("a", "", "is empty"),
        ("a", 3, "the completion must be text where .* got int"),
        (3, "a", "must be text where there is no chat template, got int"),
        ([{"role": "user", "content": "a"}], "a", "got list"),
        ("\ud800", "a", "the prompt is not valid Unicode"),
        ("a", "b\ud800", "the completion is not valid Unicode: .* at character 1"),
    ],
)
def test_what_is_no_text_is_refused_in_words(prompt, completion, message):
    with pytest.raises(EncodingError, match=message):
        encode_pair(BYTES, prompt, completion, PLAIN)
    good, bad = encode_pairs(BYTES, [("a", "b"), (prompt, completion)], PLAIN)
    assert good.ids == [97, 98]
    assert isinstance(bad, EncodingError)


def test_messages_need_a_role_and_a_content(words):
    encoding = encoding_config(words, max_length=50)
    with pytest.raises(EncodingError, match="role and a content"):
        encode_pair(words, [{"role": "user"}], "a", encoding)


@pytest.fixture(scope="module")
def byte_level():
    return load_tokenizer(GOLDEN / "byte_level")


@pytest.fixture(scope="module")
def sentence_piece():
    return load_tokenizer(GOLDEN / "sentence_piece")


@pytest.mark.parametrize("kind", ["byte_level", "sentence_piece"])
@pytest.mark.parametrize(
    ("prompt", "completion"),
    [("Is it warm?\n", "\nVery."), ("It is ", "very"), ("Is it", " warm?"), ("", "a")],
)
def test_text_is_encoded_whole_and_a_shared_token_is_the_completions(
    kind, prompt, completion, request
):
    tokenizer = request.getfixturevalue(kind)
    pair = encode_pair(tokenizer, prompt, completion, PLAIN)
    assert pair.ids == tokenizer.encode([prompt + completion])[0].ids
    before = tokenizer.decode(pair.ids[: pair.num_prompt]).strip()
    after = tokenizer.decode(pair.ids[pair.num_prompt :])
    assert completion.strip() in after
    assert prompt.startswith(before)
    assert len(prompt) - len(before) <= 2


def test_tokens_that_were_sampled_are_taken_as_they_are(byte_level):
    encoding = encoding_config(byte_level, max_length=50)
    apart = [byte_level.encode([text])[0].ids for text in ("warm?\n", "\nVery.")]
    together = byte_level.encode(["warm?\n\nVery."])[0].ids
    assert [*apart[0], *apart[1]] != together
    (pair,) = encode_pairs(byte_level, [TokenPair(*apart)], encoding)
    assert pair == ([*apart[0], *apart[1]], len(apart[0]), 0)


def test_padding_at_the_end_of_a_row_is_left_out():
    def ids(*completion, **options):
        encoding = EncodingConfig(max_length=9, pad_id=7, **options)
        (pair,) = encode_pairs(BYTES, [TokenPair([7, 1], completion)], encoding)
        return pair.ids

    assert ids(5, 7, 6, 7, 7) == [7, 1, 5, 7, 6]
    assert ids(7, 7) == [7, 1]
    pad = EncodingConfig(max_length=9, pad_id=7)
    (pair,) = encode_pairs(BYTES, [TokenPair([7], [7])], pad)
    assert pair == ([7], 1, 0)  # where transformers looks, too
    at_eos = dataclasses.replace(ENDS, pad_id=257)
    assert encode_pair(BYTES, "a", "b", at_eos).ids == [256, 97, 98]


@pytest.mark.parametrize(
    ("truncate", "prompt", "completion", "expected"),
    [
        ("prompt", "abcdef", "xy", ([256, *b"efxy", 257], 3, 4)),
        ("prompt", "ab", "vwxyz", "the completion has 6 tokens"),
        ("completion", "abc", "vwxyz", ([256, *b"abcv", 257], 4, 4)),
        ("completion", "abcdef", "xy", "the prompt alone has 7 tokens"),
        ("error", "abcdef", "xy", "it has 10 tokens, and the context holds 6"),
    ],
)
def test_ways_to_truncate(truncate, prompt, completion, expected):
    encoding = dataclasses.replace(ENDS, max_length=6, truncate=truncate)
    if isinstance(expected, str):
        with pytest.raises(EncodingError, match=expected):
            encode_pair(BYTES, prompt, completion, encoding)
    else:
        assert encode_pair(BYTES, prompt, completion, encoding) == expected


def test_an_empty_completion_may_be_allowed(words):
    for tokenizer, prompt in ((BYTES, "hello"), (words, "hello")):
        encoding = encoding_config(tokenizer, max_length=50)
        with pytest.raises(EncodingError, match="is empty"):
            encode_pair(tokenizer, prompt, "", encoding)
        allowed = dataclasses.replace(encoding, allow_empty=True)
        assert encode_pair(tokenizer, prompt, "", allowed).ids


def test_texts_end_with_eos_as_trl_trains_and_chats_as_the_template_ends_them(tmp_path):
    for adds_eos in (False, True):
        folder = tmp_path / str(adds_eos)
        folder.mkdir()
        write_tokenizer(folder, chat_template="{{ messages[1].content }}")
        if adds_eos:
            backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
            backend.post_processor = processors.TemplateProcessing(
                single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
            )
            backend.save(str(folder / "tokenizer.json"))
        tokenizer = load_tokenizer(folder)

        def row(tokenizer=tokenizer, **options):
            encoding = encoding_config(tokenizer, max_length=50, **options)
            return text(tokenizer, encode_pair(tokenizer, "hello", " yes", encoding))

        assert row(template=False) == "<s> hello yes </s>"
        assert row(template=False, eos=False) == "<s> hello yes"
        assert row(template=False, bos=False) == "hello yes </s>"
        assert row() == "yes"
        assert row(bos=True, eos=True) == "<s> yes </s>"


def test_a_date_is_what_templates_take_for_today(words):
    template = (
        "{% if strftime_now is defined %}{{ strftime_now('%d %B %Y|%-d %b %y|%A %F %%d%% %^a') }}"
        "{% endif %}{% for m in messages %} {{ m.content }}{% endfor %}"
    )
    day = datetime.date(2026, 2, 3)
    encoding = encoding_config(words, max_length=50, template=template, date=day)
    text, _ = write_chat(words, encoding.template, [{"role": "user", "content": "a"}],
                         [{"role": "assistant", "content": "b"}], {})  # fmt: skip
    assert text == "03 February 2026|3 Feb 26|Tuesday 2026-02-03 %d% TUE a b"
    named = encoding_config(
        words, max_length=50, template={"default": template}, date=day
    )
    assert named.template == {"default": encoding.template}


def test_what_no_template_uses_is_told(words):
    encoding = encoding_config(words, max_length=50)
    pair = Pair("hello", "world", {"tools": [{"name": "a_tool"}]})
    with pytest.warns(UserWarning, match="does not use 'tools'"):
        encode_pairs(words, [pair], encoding)
    uses = "{% generation %}{{ tools }}{% endgeneration %}{{ messages[1].content }}"
    encode_pairs(words, [pair], EncodingConfig(max_length=50, template=uses))
    (row,) = encode_pairs(words, [pair], PLAIN)
    assert "only a chat template can use tools" in str(row)


def test_templates_by_name_are_taken_as_transformers_takes_them(words):
    chats = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]
    named = {"default": "d{{ messages[1].content }}", "tool_use": "t{{ tools[0].x }}"}
    assert write_chat(words, named, *chats, {})[0] == "db"
    assert write_chat(words, named, *chats, {"tools": [{"x": "y"}]})[0] == "ty"
    with pytest.raises(ValueError, match="none is called default"):
        write_chat(words, {"tool_use": "t"}, *chats, {})


def test_a_transcript_is_a_text_or_a_chat(words):
    text = "\n\nHuman: hello\n\nAssistant: world"
    (plain,) = encode_pairs(BYTES, [Transcript(text, 26)], PLAIN)
    assert (plain.ids, plain.num_prompt) == (list(text.encode()), 26)
    encoding = encoding_config(words, max_length=50)
    got = encode_pairs(words, [Transcript(text, 26), Transcript("hello", 0)], encoding)
    assert got[0] == encode_pair(words, "hello", "world", encoding)
    assert "must be a transcript" in str(got[1])


def test_a_thought_that_the_generation_prompt_opens_is_no_hindrance(words):
    template = CHATML.replace("assistant {% endif %}", "assistant <think> {% endif %}")
    encoding = encoding_config(words, max_length=50, template=template)
    pair = encode_pair(words, "hello", "world", encoding)
    assert (
        pair.ids
        == encode_pair(
            words, "hello", "world", encoding_config(words, max_length=50)
        ).ids
    )
    assert pair.num_prompt == 6


def test_lengths_are_right_under_padding_on_either_side():
    mask = jnp.array([[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
    lengths = Tokens(jnp.zeros((4, 4), jnp.int32), mask).lengths
    np.testing.assert_array_equal(lengths, [2, 4, 3, 0])


def test_a_token_that_is_not_there_cannot_be_asked_for(tmp_path):
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, bos_token=None))
    with pytest.raises(ValueError, match="bos was asked for"):
        encoding_config(tokenizer, max_length=9, bos=True)


@pytest.mark.parametrize("content", ["{", '{"model": 3}', None])
def test_a_broken_tokenizer_is_refused_in_words(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_outside_the_folder_is_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    write_tokenizer(tmp_path)
    (folder / "tokenizer.json").symlink_to(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="outside the folder"):
        load_tokenizer(folder)
    hub = tmp_path / "models--x" / "snapshots" / "1"
    hub.mkdir(parents=True)
    (hub.parent.parent / "blobs").mkdir()
    (tmp_path / "tokenizer.json").rename(hub.parent.parent / "blobs" / "abc")
    (hub / "tokenizer.json").symlink_to("../../blobs/abc")
    assert load_tokenizer(hub).vocab_size == len(WORDS)


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image"}],
        [{"image": "x.png"}],
        [{"type": "video_url", "text": "a"}],
        [{"type": "tool_result", "content": "a"}],
        {"text": "a"},
        5,
    ],
)
def test_content_that_is_no_text_is_refused(words, content):
    prompt = [{"role": "user", "content": content}]
    (row,) = encode_pairs(
        words, [Pair(prompt, "world")], encoding_config(words, max_length=50)
    )
    assert "a content, text or parts of text" in str(row)


@pytest.mark.parametrize(
    "example",
    [
        {"prompt": "a", "completion": "b"},
        ("a", "b", "c"),
        "ab",
        ("a", "b", {}, "c"),
        TokenPair([1], [2**31]),
        TokenPair([1], [10**30]),
        TokenPair([[1]], [1]),
        TokenPair([1.0], [1]),
        TokenPair([True], [1]),
        Transcript("ab", 2),
    ],
)
def test_what_is_no_example_is_refused_in_words(example):
    (row,) = encode_pairs(BYTES, [example], PLAIN)
    assert isinstance(row, EncodingError)


def test_token_ids_may_be_arrays():
    for array in (np.array, jnp.array, np.int64):
        ids = [array(1), array(2)] if array is np.int64 else array([1, 2])
        (row,) = encode_pairs(BYTES, [TokenPair(ids, [3])], PLAIN)
        assert row.ids == [1, 2, 3]


@pytest.mark.parametrize(
    ("completion", "empty"),
    [
        ({"content": "", "name": "bob"}, True),
        ({"content": [{"type": "text", "text": ""}]}, True),
        ({"content": "", "tool_calls": [{"x": 1}]}, False),
        ({"content": "", "reasoning_content": "hello"}, False),
        ({"content": [{"text": "world"}]}, False),
    ],
)
def test_a_message_is_empty_that_says_nothing(words, completion, empty):
    message = {"role": "assistant"} | completion
    encoding = encoding_config(
        words, max_length=50, template="{{ messages[1] | tojson }} hello"
    )
    (row,) = encode_pairs(words, [Pair("hello", message)], encoding)
    assert isinstance(row, EncodingError) == empty


def test_an_empty_template_is_refused(words):
    with pytest.raises(ValueError, match="template is empty"):
        encoding_config(words, max_length=50, template="")


@pytest.mark.parametrize("name", ["messages", "continue_final_message", "tokenize"])
def test_variables_are_no_arguments_of_what_writes_the_chat(words, name):
    encoding = encoding_config(words, max_length=50)
    (row,) = encode_pairs(words, [Pair("hello", "world", {name: True})], encoding)
    assert f"cannot be given a variable '{name}'" in str(row)
