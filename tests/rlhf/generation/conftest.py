import functools

import jax
import jax.numpy as jnp
import pytest
from tokenizer_folders import SPECIAL, write_byte_level

from rljax.rlhf.data import load_tokenizer
from rljax.rlhf.generation import Generator
from rljax.rlhf.models import Transformer, TransformerConfig
from rljax.rlhf.pretrained import save_language_model

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model whose completions end early or late, with a tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    write_byte_level(folder, chat_template=TEMPLATE, eos_token="<|im_end|>")
    config = TransformerConfig(
        vocab_size=load_tokenizer(folder).vocab_size + 2, hidden_size=16,
        intermediate_size=24, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4,
        max_length=64,
    )  # fmt: skip
    module = Transformer(config)
    init = jax.jit(functools.partial(module.init, method="logits"))
    params = init(jax.random.key(1), jnp.zeros((1, 4), jnp.int32))["params"]
    params = jax.tree.map(lambda x: 20 * x if x.ndim > 1 else x, params)
    kernel = params["lm_head"]["kernel"]
    stop = SPECIAL.index("<|im_end|>")
    params["lm_head"]["kernel"] = kernel.at[:, stop].set(4 * kernel[:, 0])
    save_language_model(folder, module, {"params": params})
    return folder


@pytest.fixture(scope="module")
def generator(folder):
    return Generator.load(
        folder, max_new_tokens=16, template=False, seed=3, batch_size=8
    )
