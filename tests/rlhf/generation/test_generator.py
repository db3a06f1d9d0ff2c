"""Texts and chats are completed as each is alone, whatever they are batched with."""

import functools
import warnings

import jax
import numpy as np
import pytest
from chats import CHATS
from tokenizer_folders import SPECIAL

from rljax.rlhf.data import EncodingConfig, Pair, encode_pairs, load_tokenizer
from rljax.rlhf.data.encoding import encode_prompts, encoding_config
from rljax.rlhf.generation import Generator, generate
from rljax.rlhf.generation.stopping import read_stop_ids
from rljax.rlhf.pretrained import PretrainedError, load_language_model

STOP = SPECIAL.index("<|im_end|>")
PROMPTS = ["Is it warm?", "The", "the room is cold and the heater", "x", "Very"]


@pytest.fixture(scope="module")
def completions(generator):
    return generator.generate(PROMPTS, num_completions=5)


def test_a_completion_is_that_of_its_prompt_alone(folder, generator, completions):
    module, variables = load_language_model(folder)
    alone = jax.jit(
        functools.partial(generate, module, max_new_tokens=16, stop_ids=(STOP,))
    )
    tokenizer = generator.tokenizer
    for i, one in enumerate(completions):
        ids = tokenizer.encode([PROMPTS[i // 5]])[0].ids
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), i // 5), i % 5)
        padded = np.int32([[7] * (16 - len(ids)) + ids])
        want = alone(variables["params"], padded, np.int32([len(ids)]), key[None])
        tokens = want.ids[0, : int(want.lengths[0])].tolist()
        assert one.prompt_ids == ids
        assert one.ids == tokens
        np.testing.assert_allclose(one.log_prob, want.log_probs.sum(), rtol=1e-4)
        assert one.finish_reason == ("stop" if want.stopped[0] else "length")
        assert one.text == tokenizer.decode(tokens)
        assert one.error is None


def test_rows_that_have_ended_leave_the_batch(generator, completions):
    lengths = [len(one.ids) for one in completions]
    assert min(lengths) < 4
    assert lengths.count(16) > 1
    sizes = {size for name, _, size in generator._batches._compiled if name == "go on"}
    assert sizes == {2, 8}


@pytest.mark.slow
def test_completions_do_not_depend_on_batch_and_window(folder, completions):
    other = Generator.load(
        folder, max_new_tokens=16, template=False, seed=3, batch_size=3, window=7
    )
    again = other.generate(PROMPTS, num_completions=5)
    for one, same in zip(completions, again, strict=True):
        assert one._replace(log_prob=0) == same._replace(log_prob=0)
        np.testing.assert_allclose(one.log_prob, same.log_prob, rtol=1e-4)
    assert len({tuple(one.ids) for one in again}) > 20  # or it would show nothing


@pytest.mark.parametrize("name", CHATS)
def test_the_prompt_of_a_chat_is_transformers(folder, name):
    tokenizer = load_tokenizer(folder)
    (*prompt, _), variables = CHATS[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the chat template does not use")
        encoding = encoding_config(tokenizer, max_length=8)
        (ids,) = encode_prompts(tokenizer, [Pair(prompt, "", variables)], encoding)
    want = tokenizer.tokenizer.apply_chat_template(
        prompt,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
        **variables,
    )
    assert ids == want


def test_the_prompt_of_a_text_is_the_beginning_of_its_row(folder):
    tokenizer = load_tokenizer(folder)
    encoding = EncodingConfig(max_length=50, begin_ids=(1,), end_ids=(2,))
    texts = ["Is it", "<s>x", ""]
    rows = encode_pairs(tokenizer, [(text, " warm?") for text in texts], encoding)
    got = encode_prompts(tokenizer, [Pair(text, "") for text in texts], encoding)
    assert got == [row.ids[: row.num_prompt] for row in rows]
    bare = EncodingConfig(max_length=50)
    error, _ = encode_prompts(tokenizer, [Pair("", ""), Pair("x", "")], bare)
    assert "it has no tokens" in str(error)


def test_prompts_that_cannot_be_completed_are_named(folder, generator):
    for prompt, reason in (
        ("x " * 60, "prompt 1: the prompt has 120 tokens, and beside 16 new ones"),
        ("", "prompt 1: it has no tokens"),
        ([{"role": "user", "content": "x"}], "prompt 1: the prompt must be text where"),
        ("<|im_start|>\ud800", "prompt 1: the prompt is not valid Unicode"),
    ):
        with pytest.raises(ValueError, match=reason):
            generator.generate(["x", prompt])
    small, variables = load_language_model(folder)
    config = small.config
    with pytest.raises(ValueError, match=r"the tokenizer has \d+ ids, but"):
        Generator(
            type(small)(type(config)(**vars(config) | {"vocab_size": 9})),
            variables["params"],
            generator.tokenizer,
            EncodingConfig(max_length=64),
            max_new_tokens=4,
        )
    with pytest.raises(ValueError, match="context of 64 tokens together, got 1 and 64"):
        Generator.load(folder, max_new_tokens=64)


def test_stop_tokens_are_those_that_the_folder_names(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    assert read_stop_ids(tmp_path, tokenizer) == (STOP,)
    (tmp_path / "config.json").write_text('{"eos_token_id": 9}')
    assert read_stop_ids(tmp_path, tokenizer) == (STOP, 9)
    path = tmp_path / "generation_config.json"
    path.write_text('{"eos_token_id": [3, 4]}')
    assert read_stop_ids(tmp_path, tokenizer) == (3, 4, STOP)
    assert read_stop_ids(tmp_path, tokenizer, [2, "<s>"]) == (1, 2, 3, 4, STOP)
    with pytest.raises(ValueError, match="'Is it warm' is not one token, but"):
        read_stop_ids(tmp_path, tokenizer, ["Is it warm"])
    path.write_text('{"eos_token_id": "x"}')
    with pytest.raises(PretrainedError, match="must be one token's id or a list"):
        read_stop_ids(tmp_path, tokenizer)
