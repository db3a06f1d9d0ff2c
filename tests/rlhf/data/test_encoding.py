"""Prompt and completion become the tokens that they should."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from rljax.rlhf.data.encoding import (
    EncodingConfig,
    EncodingError,
    Tokens,
    encode_pair,
    encode_pairs,
    encoding_config,
)
from rljax.rlhf.data.tokenizer import ByteTokenizer, load_tokenizer

BYTES = ByteTokenizer()
PLAIN = EncodingConfig(max_length=100, bos=False, eos=False)
CHATML = (
    "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|> "
    "{% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
WORDS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "user", "assistant"]
WORDS += ["hello", "world", "yes"]
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
    settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}} | settings
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
    encoding = EncodingConfig(max_length=6, bos=True, eos=True)
    pair = encode_pair(BYTES, "abcdef", "xy", encoding)
    assert pair == ([256, *b"efxy", 257], 3, 4)


def test_a_completion_is_never_cut():
    with pytest.raises(
        EncodingError, match=r"3 tokens, with BOS and EOS 5, .* holds 4"
    ):
        encode_pair(BYTES, "", "xyz", EncodingConfig(max_length=4, bos=True, eos=True))


def test_there_is_at_most_one_bos(words):
    encoding = encoding_config(words, max_length=50, template=False)
    assert (encoding.bos, encoding.eos) == (True, True)
    pair = encode_pair(words, "<s> <s> hello", "yes", encoding)
    assert text(words, pair) == "<s> hello yes </s>"
    pair = encode_pair(words, "hello", "yes </s>", encoding)
    assert text(words, pair) == "<s> hello yes </s>"


def test_a_tokenizers_own_truncation_is_off(words):
    assert len(words.encode(["hello world yes yes"])[0]) == 4


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
        "{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}A:{% endif %}",
    ],
)
def test_a_template_that_does_more_or_less_is_refused(words, template):
    encoding = EncodingConfig(max_length=50, bos=False, eos=False, template=template)
    with pytest.raises(EncodingError, match="template"):
        encode_pair(words, "hello", "world", encoding)


def test_a_template_that_is_no_jinja_is_refused():
    encoding = EncodingConfig(max_length=50, bos=False, eos=False, template="{% if")
    with pytest.raises(ValueError, match="not valid Jinja: line 1"):
        encode_pair(BYTES, "a", "b", encoding)


@pytest.mark.parametrize(
    ("prompt", "completion", "message"),
    [
        ("a", "", "is empty"),
        ("a", 3, "must be text, got int"),
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


def test_lengths_are_right_under_padding_on_either_side():
    mask = jnp.array([[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
    lengths = Tokens(jnp.zeros((4, 4), jnp.int32), mask).lengths
    np.testing.assert_array_equal(lengths, [2, 4, 3, 0])


def test_a_token_that_is_not_there_cannot_be_asked_for(tmp_path):
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, bos_token=None))
    assert not tokenizer.adds_bos
    with pytest.raises(ValueError, match="bos was asked for"):
        encoding_config(tokenizer, max_length=9, bos=True)
    write_tokenizer(tmp_path, bos_token="<other>")
    with pytest.raises(ValueError, match="'<other>'"):
        load_tokenizer(tmp_path)


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
