"""Small GGUF files, written by llama.cpp's package as its converters write them."""

import functools
import json
import tempfile
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file
from tokenizer_folders import TEXTS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rljax.rlhf.models.config import TransformerConfig
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.pretrained import save_language_model

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "max_length": 128,
}
FIELDS = {
    "block_count": 2,
    "embedding_length": 64,
    "feed_forward_length": 96,
    "context_length": 128,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 16,
    "attention.value_length": 16,
    "rope.dimension_count": 16,
    "rope.freq_base": 10_000.0,
    "attention.layer_norm_rms_epsilon": 1e-5,
}
# As in llama.cpp's gguf-py/gguf/constants.py.
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


@functools.cache
def byte_level():
    """Fields of a byte-level tokenizer that splits digits, and the tokenizer itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, "x  =  1\n" * 9], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    fields = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": [3 if token in SPECIAL else 1 for token in tokens],
        "merges": [" ".join(pair) for pair in model["merges"]],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "padding_token_id": 2,
        "add_bos_token": False,
    }
    return fields, tokenizer


def sentence_piece(tokenizer):
    """Fields of a tokenizer of `tokenizer_folders.write_sentence_piece`."""
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    special = {added.content for added in tokenizer.get_added_tokens_decoder().values()}
    kinds = [
        3 if token in special else 6 if token.startswith("<0x") else 1
        for token in tokens
    ]
    return {
        "model": "llama",
        "pre": "default",
        "tokens": tokens,
        "scores": [-float(i) for i in range(len(tokens))],
        "token_type": kinds,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }


def write_random(path, *, architecture="llama", kind="F32", shape=None, **options):
    """Writes a random model, and returns its module and variables.

    `options` are those of `write`.
    """
    tokenizer = options.pop("tokenizer", None) or byte_level()[0]
    shape = SHAPE | {"vocab_size": len(tokenizer["tokens"])} | (shape or {})
    module, variables, tensors = random_model(**shape)
    write(path, tensors, tokenizer, architecture=architecture, kind=kind, **options)
    return module, variables


@functools.cache
def random_model(**shape):
    """A module, variables that float16 holds, with norms and biases that matter, and its
    tensors in a Hugging Face folder."""
    module = Transformer(TransformerConfig(**shape))
    ids = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), ids, method=Transformer.logits)
    )
    rng = np.random.default_rng(0)

    def draw(leaf):
        numbers = rng.normal(0.0, 0.2, leaf.shape) + (len(leaf.shape) < 3)
        return jnp.asarray(numbers.astype(np.float16), jnp.float32)

    variables = jax.tree.map(draw, shapes)
    with tempfile.TemporaryDirectory() as folder:
        save_language_model(folder, module, variables)
        return module, variables, load_file(Path(folder) / "model.safetensors")


def write(
    path, tensors, tokenizer, *, architecture, kind, fields=None, more=None, others=None
):
    """Writes tensors of a Hugging Face folder; a field that is None is left out."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in (FIELDS | (fields or {})).items():
        add_field(writer, f"{architecture}.{name}", value)
    for name, value in tokenizer.items():
        add_field(writer, f"tokenizer.ggml.{name}", value)
    for name, value in {"tokenizer.chat_template": TEMPLATE, **(others or {})}.items():
        add_field(writer, name, value)
    heads = {"attn_q": 4, "attn_k": 2} if architecture == "llama" else {}
    for name, array in tensors.items():
        leaf = name.rsplit(".", 1)[1]
        if not name.startswith("model.layers"):
            new = f"{NAMES[name.rsplit('.', 1)[0]]}.{leaf}"
        else:
            _, _, block, part = name.rsplit(".", 1)[0].split(".", 3)
            part = NAMES[part]
            if part in heads:
                array = permuted(array, heads[part])
            new = f"blk.{block}.{part}.{leaf}"
        add_tensor(writer, new, array, kind if array.ndim > 1 else "F32")
    for name, array in (more or {}).items():
        add_tensor(writer, name, array, "F32")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permuted(array, heads):
    """LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py."""
    split = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return split.swapaxes(1, 2).reshape(array.shape)


def add_field(writer, name, value):
    match value:
        case None:
            return
        case bool():
            writer.add_bool(name, value)
        case int():
            writer.add_uint32(name, value)
        case float():
            writer.add_float32(name, value)
        case str():
            writer.add_string(name, value)
        case _:
            writer.add_array(name, value)


def add_tensor(writer, name, array, kind):
    array = np.ascontiguousarray(array)
    if kind == "I32":
        writer.add_tensor(name, array.astype(np.int32))
    elif kind in ("F32", "F16"):
        writer.add_tensor(
            name, array.astype({"F32": np.float32, "F16": np.float16}[kind])
        )
    else:
        kind = gguf.GGMLQuantizationType[kind]
        data = gguf.quants.quantize(array.astype(np.float32), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
