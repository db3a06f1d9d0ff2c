import dataclasses
import json

import gguf
import jax
import numpy as np
import pytest
from gguf_files import (
    TEMPLATE,
    add_tensor,
    byte_level,
    sentence_piece,
    write_random,
)
from tokenizer_folders import TEXTS, write_sentence_piece
from tokenizers import Tokenizer

from rljax.rlhf.data import load_tokenizer
from rljax.rlhf.models.rope import Rope
from rljax.rlhf.pretrained import PretrainedError, load_language_model
from rljax.rlhf.pretrained.gguf import convert_gguf, load_gguf, read_gguf

ALL_TEXTS = [
    *TEXTS,
    "In 1969 it was 71.5 F,  12 degrees<|im_end|>\n",
    "\n\n  naïve 🙂 ",
    "a",
]
QWEN2 = {"qkv_bias": True}
QWEN3 = {"qk_norm": True}


def assert_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.some_cases(2)
@pytest.mark.parametrize(
    ("architecture", "kind", "shape"),
    [
        ("llama", "F32", {}),
        ("llama", "F16", {"tie_embeddings": True}),
        ("llama", "F32", {"qkv_bias": True, "out_bias": True, "mlp_bias": True}),
        ("qwen2", "F32", QWEN2),
        ("qwen3", "F16", QWEN3),
    ],
)
def test_a_model_is_read_as_it_was_written(architecture, kind, shape, tmp_path):
    path = tmp_path / "model.gguf"
    module, variables = write_random(
        path, architecture=architecture, kind=kind, shape=shape
    )
    read, got, _ = load_gguf(path)
    assert read.config == module.config
    assert_equal(got, variables)


def test_quantised_blocks_are_the_numbers_they_stand_for(tmp_path):
    path = tmp_path / "blocks.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    array = np.random.default_rng(0).normal(size=(3, 64))
    for kind in ("Q4_0", "Q4_1", "Q8_0", "F16", "BF16"):
        add_tensor(writer, kind, array, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    raw = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    for name, reader in read_gguf(path).tensors.items():
        got = reader()
        assert got.dtype == np.float32
        assert got.shape == array.shape
        if name in by_hand:
            want = [by_hand[name](row.tobytes()) for row in raw[name]]
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
        error = {"Q4_0": 0.4, "Q4_1": 0.3, "Q8_0": 0.02}.get(name, 0.02)
        assert np.abs(got - array).max() < error, name


def half(data):
    return float(np.frombuffer(data, np.float16)[0])


def q8_0(row):
    """Blocks of 32: a scale and 32 signed bytes (ggml-common.h, block_q8_0)."""
    blocks = [row[i : i + 34] for i in range(0, len(row), 34)]
    return [
        half(b[:2]) * (x - 256 if x > 127 else x) for b in blocks for x in b[2:]
    ]  # fmt: skip


def q4_0(row):
    """Blocks of 32: a scale and 16 bytes, low halves first (block_q4_0)."""
    blocks = [row[i : i + 18] for i in range(0, len(row), 18)]
    return [
        half(b[:2]) * (x - 8)
        for b in blocks
        for x in [y & 15 for y in b[2:]] + [y >> 4 for y in b[2:]]
    ]


def q4_1(row):
    """Blocks of 32: a scale, a least number, and 16 bytes (block_q4_1)."""
    blocks = [row[i : i + 20] for i in range(0, len(row), 20)]
    return [
        half(b[:2]) * x + half(b[2:4])
        for b in blocks
        for x in [y & 15 for y in b[4:]] + [y >> 4 for y in b[4:]]
    ]


by_hand = {"Q8_0": q8_0, "Q4_0": q4_0, "Q4_1": q4_1}


@pytest.mark.slow
def test_a_quantised_model_is_near_the_one_it_was_made_of(tmp_path):
    path = tmp_path / "model.gguf"
    module, variables = write_random(path, kind="Q8_0")
    read, got, _ = load_gguf(path)
    ids = np.arange(12)[None]
    want = module.apply(variables, ids)
    assert 0 < np.abs(read.apply(got, ids) - want).max() < 0.1


def test_a_folder_is_written_whole(tmp_path):
    path, folder = tmp_path / "model.gguf", tmp_path / "folder"
    fields, tokenizer = byte_level()
    module, variables = write_random(path, tokenizer=fields)
    convert_gguf(path, folder)
    read, got = load_language_model(folder)
    assert read.config == module.config
    assert_equal(got, variables)
    config = json.loads((folder / "config.json").read_text())
    ids = [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")]
    assert ids == [1, 2, 2]
    ours = load_tokenizer(folder)
    assert ours.chat_template == TEMPLATE
    assert (ours.bos_id, ours.eos_id, ours.begin_ids, ours.end_ids) == (1, 2, (), ())
    for text, got in zip(ALL_TEXTS, ours.encode(ALL_TEXTS), strict=True):
        assert got.ids == tokenizer.encode(text).ids
        plain = text.replace("<|im_end|>", "")
        assert ours.decode(got.ids) == plain


def test_sentence_pieces_are_merged_by_their_scores(tmp_path):
    source = write_sentence_piece(tmp_path / "source")
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    path, folder = tmp_path / "model.gguf", tmp_path / "folder"
    write_random(path, tokenizer=sentence_piece(tokenizer))
    convert_gguf(path, folder)
    ours = load_tokenizer(folder)
    assert (ours.begin_ids, ours.end_ids) == ((1,), ())
    for text, got in zip(ALL_TEXTS, ours.encode(ALL_TEXTS), strict=True):
        assert got.ids == tokenizer.encode(text, add_special_tokens=False).ids
        assert ours.decode(got.ids) == tokenizer.decode(got.ids)


@pytest.mark.parametrize("begins", [None, True, False])
@pytest.mark.parametrize("ends", [True, False])
def test_what_is_put_around_a_text(begins, ends, tmp_path):
    path = tmp_path / "model.gguf"
    fields = byte_level()[0] | {"pre": "llama-bpe"}
    fields |= {"add_bos_token": begins, "add_eos_token": ends}
    write_random(path, tokenizer=fields)
    convert_gguf(path, tmp_path / "folder")
    ours = load_tokenizer(tmp_path / "folder")
    assert ours.begin_ids == ((1,) if begins in (None, True) else ())
    assert ours.end_ids == ((2,) if ends else ())


def slower(factor, low=1.0, high=4.0, length=8192):
    """What llama.cpp's converter writes of Llama 3.1 (Llama3Model.generate_extra_tensors)."""
    factors = []
    for i in range(0, 16, 2):
        wave = 2 * np.pi * 10_000 ** (i / 16)
        if wave < length / high:
            factors.append(1)
        elif wave > length / low:
            factors.append(factor)
        else:
            smooth = (length / wave - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return {"rope_freqs.weight": np.array(factors, np.float32)}


@pytest.mark.parametrize(
    ("options", "rope"),
    [
        ({"fields": {"rope.freq_base": 5e5}}, Rope(theta=5e5)),
        ({"fields": {"rope.freq_base": None}}, Rope(theta=1e4)),
        (
            {"fields": {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}},
            Rope(factor=4.0, stretch="linear"),
        ),
        (
            {
                "fields": {
                    "rope.scaling.type": "yarn",
                    "rope.scaling.factor": 4.0,
                    "rope.scaling.original_context_length": 32,
                }
            },
            Rope(
                factor=4.0,
                stretch="yarn",
                original_max_length=32,
                attention_factor=0.1 * np.log(4.0) + 1,
            ),
        ),
        ({"more": slower(8.0)}, Rope(factor=8.0, stretch="llama3")),
    ],
)
def test_rotary_positions(options, rope, tmp_path):
    path = tmp_path / "model.gguf"
    write_random(path, **options)
    module, _, _ = load_gguf(path)
    got = module.config.rope
    np.testing.assert_allclose(got.frequencies(16), rope.frequencies(16), rtol=1e-5)
    assert dataclasses.replace(got, original_max_length=1) == dataclasses.replace(
        rope, original_max_length=1
    )


WRONG = {
    "another architecture": ({"architecture": "gemma2"}, "must be one of llama, qwen2"),
    "experts": ({"fields": {"expert_count": 8}}, "expert_count .* must be 0, got 8"),
    "an unknown field": ({"fields": {"logit_scale": 2.0}}, "llama.logit_scale"),
    "longrope": ({"fields": {"rope.scaling.type": "longrope"}}, "none, linear or yarn"),
    "one of several files": (
        {"others": {"split.count": 2}},
        "is one of 2 files .* llama-gguf-split --merge",
    ),
    "no size": ({"fields": {"block_count": None}}, "has no llama.block_count"),
    "sizes by layer": (
        {"fields": {"feed_forward_length": [96, 96]}},
        "intermediate_size must be a whole number",
    ),
    "heads in part": (
        {"fields": {"rope.dimension_count": 8}},
        "dimension_count .* the size of a head, 16, got 8",
    ),
    "too few blocks": ({"fields": {"block_count": 1}}, "has tensors that its metadata"),
    "too many blocks": ({"fields": {"block_count": 3}}, "it is not whole"),
    "another shape": (
        {"fields": {"feed_forward_length": 64}},
        "does not have the shape",
    ),
    "an unknown tensor": (
        {"more": {"blk.0.ffn_gate_inp.weight": np.ones((2, 2))}},
        "a tensor blk.0.ffn_gate_inp.weight",
    ),
    "a bias without a place": (
        {"more": {"output_norm.bias": np.ones(64)}},
        "no place for: model.norm.bias",
    ),
    "other waves": (
        {"more": {"rope_freqs.weight": np.arange(1.0, 9.0)}},
        "must be Llama 3.1's",
    ),
    "too few waves": ({"more": {"rope_freqs.weight": np.ones(4)}}, "Llama 3.1's"),
    "another tokenizer": (
        {"tokenizer": byte_level()[0] | {"model": "rwkv"}},
        "must be gpt2 or llama, .* got 'rwkv'",
    ),
    "another split": (
        {"tokenizer": byte_level()[0] | {"pre": "viking"}},
        "tokenizer.ggml.pre .* got 'viking'",
    ),
    "no merges": (
        {"tokenizer": byte_level()[0] | {"merges": None}},
        "the tokenizer in .* is not whole: .*merges",
    ),
    "no scores": (
        {"tokenizer": byte_level()[0] | {"model": "llama"}},
        "the tokenizer in .* is not whole: .*scores",
    ),
    "a special token without a text": (
        {"tokenizer": byte_level()[0] | {"eos_token_id": 4000}},
        "the tokenizer in .* is not whole",
    ),
}


@pytest.mark.some_cases(6)
@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_computed_is_refused(case, tmp_path):
    options, message = WRONG[case]
    path = tmp_path / "model.gguf"
    write_random(path, **options)
    with pytest.raises(PretrainedError, match=message) as error:
        load_gguf(path)
    assert "model.gguf" in str(error.value)


def test_a_type_that_cannot_be_dequantised(tmp_path):
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    add_tensor(writer, "token_embd.weight", np.ones((4, 4)), "I32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = read_gguf(path).tensors["token_embd.weight"]
    with pytest.raises(PretrainedError, match=r"of type I32, which .* llama-quantize"):
        read()


def test_numbers_that_are_not_finite(tmp_path):
    path = tmp_path / "model.gguf"
    write_random(path, more={"extra": np.array([1.0, np.inf])})
    with pytest.raises(PretrainedError, match=r"extra in .* not finite"):
        read_gguf(path).tensors["extra"]()


def test_a_file_that_is_not_whole(tmp_path):
    path = tmp_path / "model.gguf"
    with pytest.raises(PretrainedError, match="is no file"):
        read_gguf(path)
    write_random(path)
    whole = path.read_bytes()
    for part in (b"", b"GGUF", b"text" * 9, whole[:300], whole[:4000], whole[:-9]):
        path.write_bytes(part)
        with pytest.raises(PretrainedError, match="not a whole GGUF file"):
            read_gguf(path)
