"""Times the scoring of texts of several length mixes, beside transformers.

    make peers
    python experiments/benchmarks/scoring.py

Same weights, same texts, float32, tokenizing included, two threads each. transformers runs
in an environment of its own, in batches of 32, in arrival order and sorted by length.
Tokens are real ones: padding does not count. The last line is our speed over theirs.
"""

import dataclasses
import json
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.launch import launch
from rljax.rlhf import pretrained
from rljax.rlhf.model import TransformerConfig
from rljax.rlhf.reward_model import RewardModel
from rljax.rlhf.scoring import Scorer
from rljax.rlhf.tokenizer import load_tokenizer
from rljax.rlhf.tokens import encoding_for

ROOT = Path(__file__).parent.parent.parent
MIXES = ("flat", "zipf_short", "bimodal", "outlier")
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    num_texts: int = 2000
    """Texts of each mix."""
    seed: int = 0
    """Draws weights and texts."""
    max_tokens: int | None = None
    """Tokens in a batch of ours; by default the library's choice."""
    peer: Path = ROOT / ".peers" / "transformers" / "bin" / "python"
    """The Python that has transformers and torch."""


def lengths(mix: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """`[count]` lengths in tokens, in arrival order."""
    if mix == "flat":
        return np.full(count, 256)
    if mix == "zipf_short":
        return np.minimum(8 * rng.zipf(1.8, count) - rng.integers(0, 8, count), 512)
    if mix == "bimodal":
        short, long = rng.integers(16, 64, count), rng.integers(256, 512, count)
        return np.where(rng.random(count) < 0.5, short, long)
    found = rng.integers(24, 40, count)
    found[count // 2] = 1000
    return found


def texts(mix: str, count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Prompts and completions of words; a word is a token."""
    pairs = []
    for length in np.maximum(lengths(mix, count, rng), 2):
        words = [f"w{i}" for i in rng.integers(3, SHAPE.vocab_size, length)]
        half = length // 2
        pairs.append((" ".join(words[:half]), " ".join(words[half:])))
    return pairs


def write_model(folder: Path, seed: int) -> None:
    """A random reward model with a tokenizer, as a Hugging Face folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    module = RewardModel(SHAPE)
    shape = jnp.zeros((1, 8), jnp.int32), jnp.ones(1, jnp.int32)
    variables = jax.jit(module.init)(jax.random.key(seed), *shape)
    pretrained.save_reward_model(folder, module, variables)
    names = ["<pad>", "<unk>", "<eos>"]
    names += [f"w{i}" for i in range(3, SHAPE.vocab_size)]
    vocabulary = {name: i for i, name in enumerate(names)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.save(str(folder / "tokenizer.json"))


def flops(counts: np.ndarray) -> float:
    """Multiplications and additions that rows of these lengths ask of the model."""
    wide, inner = SHAPE.hidden_size, SHAPE.intermediate_size
    heads = (SHAPE.num_heads + 2 * SHAPE.num_kv_heads) * SHAPE.head_dim
    weights = wide * heads + wide * wide + 3 * wide * inner
    attention = counts * (counts + 1) / 2 * 2 * SHAPE.num_heads * SHAPE.head_dim
    return 2.0 * SHAPE.num_layers * float((weights * counts + attention).sum())


def matrix_peak() -> float:
    """FLOP/s of a large float32 matrix product on this device: the best of five."""
    a = jnp.ones((2048, 2048))
    product = jax.jit(jnp.matmul)
    product(a, a).block_until_ready()
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(seconds)


def ours(folder: Path, mix: str, settings: Benchmark) -> dict[str, Any]:
    """Scores a mix twice: the second time, other texts."""
    module, variables = pretrained.load_reward_model(folder)
    tokenizer = load_tokenizer(folder)
    encoding = encoding_for(tokenizer, max_length=SHAPE.max_length)
    scorer = Scorer(
        module, variables, tokenizer, encoding, max_tokens=settings.max_tokens
    )
    first, second = (json.loads((folder / f"{mix}-{i}.json").read_text()) for i in "01")
    scorer.detail(second)  # compiles
    compiled = scorer.compile_count, scorer.seconds_compile
    started = time.perf_counter()
    detail = scorer.detail(first)
    seconds = time.perf_counter() - started
    return {
        "system": "rljax",
        "mix": mix,
        "seconds": seconds - (scorer.seconds_compile - compiled[1]),
        "tokens": int(detail.num_tokens.sum()),
        "padding_share": detail.padding_share,
        "compile_count": compiled[0],
        "seconds_compile": compiled[1],
        "compile_count_second_pass": scorer.compile_count - compiled[0],
        "scores": detail.scores.tolist(),
        "share_of_peak": flops(detail.num_tokens) / seconds / matrix_peak(),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main(settings: Benchmark) -> dict[str, Any]:
    """Runs every mix on every system, prints a line each, and returns the ratios."""
    if not settings.peer.exists():
        raise ValueError(f"{settings.peer} is missing. Make it: make peers")
    ratios: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, settings.seed)
        rng = np.random.default_rng(settings.seed)
        for mix in MIXES:
            for part in "01":
                pairs = texts(mix, settings.num_texts, rng)
                (folder / f"{mix}-{part}.json").write_text(json.dumps(pairs))
            found = {"rljax": ours(folder, mix, settings)}
            script = Path(__file__).with_name("scoring_transformers.py")
            command = [*map(str, (settings.peer, script, folder)), f"{mix}-0.json"]
            lines = subprocess.run(command, check=True, capture_output=True, text=True)
            for line in lines.stdout.splitlines():
                row = json.loads(line)
                found[row["system"]] = row
            scores = {name: np.array(row.pop("scores")) for name, row in found.items()}
            tokens = found["rljax"]["tokens"]
            for row in found.values():
                row |= {"mix": mix, "tokens_per_second": tokens / row["seconds"]}
                difference = scores[row["system"]] - scores["rljax"]
                row["largest_difference"] = float(np.abs(difference).max())
                print(json.dumps(row), flush=True)
            ratios[mix] = {
                name: row["seconds"] / found["rljax"]["seconds"]
                for name, row in found.items()
                if name != "rljax"
            }
    return {"device": jax.devices()[0].device_kind, "ratios": ratios}


if __name__ == "__main__":
    launch(main, Benchmark, __doc__)
