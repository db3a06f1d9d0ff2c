"""What is scored in scoring.py: a model, and texts of several length mixes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rljax.rlhf import RewardModel, TransformerConfig, save_reward_model
from rljax.training.files import dumps

# 22 M parameters in the shape of Llama 3.
SHAPE = TransformerConfig(
    vocab_size=8192,
    hidden_size=512,
    intermediate_size=1376,
    num_layers=6,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
    max_length=1024,
)


def write_model(folder: Path, seed: int) -> None:
    """A random reward model and a tokenizer of words, as a Hugging Face folder."""
    module = RewardModel(SHAPE)
    row = jnp.zeros((1, 8), jnp.int32), jnp.ones(1, jnp.int32)
    variables = jax.jit(module.init)(jax.random.key(seed), *row)
    save_reward_model(folder, module, variables)
    write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of words: a word is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["<pad>", "<unk>", *(f"w{i}" for i in range(2, SHAPE.vocab_size))]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(dumps(settings))


def _outlier(rng: np.random.Generator, count: int) -> np.ndarray:
    found = rng.integers(24, 40, count)
    found[count // 2] = 1000
    return found


def _bimodal(rng: np.random.Generator, count: int) -> np.ndarray:
    short, long = rng.integers(16, 64, count), rng.integers(256, 512, count)
    return np.where(rng.random(count) < 0.5, short, long)


def _zipf_short(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.clip(8 * rng.zipf(1.8, count) - rng.integers(0, 8, count), 2, 512)


# Lengths in tokens, in the order in which texts arrive.
MIXES = {
    "flat": lambda rng, count: np.full(count, 256),
    "zipf_short": _zipf_short,
    "bimodal": _bimodal,
    "outlier": _outlier,
}


def make_texts(mix: str, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Prompts and completions, equally long, of words; a word is a token."""
    pairs = []
    for length in MIXES[mix](rng, count):
        words = [f"w{i}" for i in rng.integers(2, SHAPE.vocab_size, length)]
        half = length // 2
        pairs.append((" ".join(words[:half]), " ".join(words[half:])))
    return pairs


def count_flops(num_tokens: np.ndarray) -> float:
    """What a forward pass over rows of these lengths multiplies and adds.

    All tokens in all layers: that we leave out most of the last one counts as speed.
    """
    width, heads = SHAPE.hidden_size, SHAPE.num_heads * SHAPE.head_dim
    kv = 2 * SHAPE.num_kv_heads * SHAPE.head_dim
    weights = width * (2 * heads + kv + 3 * SHAPE.intermediate_size)
    looks = num_tokens * (num_tokens + 1) / 2
    each = num_tokens * weights + 2 * heads * looks
    return 2.0 * SHAPE.num_layers * float(each.sum())
