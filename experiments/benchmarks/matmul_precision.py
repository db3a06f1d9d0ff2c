"""Measures what scores lose where a GPU or TPU rounds the factors of float32 products.

    python experiments/benchmarks/matmul_precision.py --model DIR

The rounding is emulated, on any device: the factors of every matrix product are rounded to
bfloat16 (7 bits after the point) or TensorFloat-32 (10 bits), and products are summed in
float32, as the hardware does it. Scores are of the rated texts of fetch_ratings.py, under
SmolLM2 with a head at random, or of random rows under a random model if there is no DIR.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scoring_problem
from rounded_products import with_rounding

from rljax.commands.fetch import cache_folder
from rljax.commands.launch import check_counts, check_seed, launch
from rljax.rlhf import RewardModel, load_language_model, load_tokenizer, read_ratings
from rljax.training.manifest import device

FORMATS = {"bfloat16": (8, 7), "tensorfloat32": (8, 10)}
"""Bits of the exponent, and after the point."""
SMALL = dataclasses.replace(scoring_problem.SHAPE, num_layers=4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    model: Path | None = None
    """Folder of a language model, such as fetch_smollm2.py's; by default a random model."""
    data: Path | None = None
    """Rated texts for it; by default where fetch_ratings.py puts movies."""
    num_rows: int = 128
    """Rows to score."""
    length: int = 48
    """Tokens of a row, at most."""
    batch_size: int = 32
    """Rows of a batch; divides num_rows."""
    seed: int = 0
    """Of the head, the rows, and the random model."""

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, "num_rows", "length", "batch_size", least=2)
        if self.num_rows % self.batch_size:
            raise ValueError(
                f"batch_size must divide num_rows, got {self.batch_size} and "
                f"{self.num_rows}. Change either."
            )


class Problem(NamedTuple):
    """A reward model, its variables, and rows `[N, L]` with their lengths `[N]`."""

    module: RewardModel
    variables: Any
    ids: np.ndarray
    lengths: np.ndarray


def main(settings: Benchmark) -> dict[str, Any]:
    """Scores in each format, and returns how far that is from float32."""
    problem = real(settings) if settings.model else made_up(settings)
    exact = scores(settings, problem, problem.module.apply)
    found: dict[str, Any] = {"device": device(), "rows": len(exact)}
    found["std"] = float(exact.std())
    for name, bits in FORMATS.items():
        rounded = scores(settings, problem, with_rounding(problem.module.apply, *bits))
        above = np.sign(np.subtract.outer(exact, exact))
        swapped = above != np.sign(np.subtract.outer(rounded, rounded))
        found[name] = {
            "largest_difference": float(abs(rounded - exact).max()),
            "mean_difference": float(abs(rounded - exact).mean()),
            "pairs_swapped": float(swapped.sum() / (len(exact) * (len(exact) - 1))),
        }
    return found


def real(settings: Benchmark) -> Problem:
    """Returns a folder's model with a head at random, and texts that people have rated."""
    module, variables = load_language_model(str(settings.model))
    tokenizer = load_tokenizer(str(settings.model))
    path = settings.data or cache_folder() / "ratings" / "movies.jsonl"
    examples: list[Any] = [rated.example for rated in read_ratings(path)]
    rng = np.random.default_rng(settings.seed)
    chosen = rng.choice(len(examples), settings.num_rows, replace=False)
    rows = [one.ids for one in tokenizer.encode([examples[i].text for i in chosen])]
    ids = np.zeros((len(rows), settings.length), np.int32)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens[: settings.length]
    lengths = np.array([min(len(row), settings.length) for row in rows], np.int32)
    width = module.config.hidden_size
    head = rng.normal(size=(width, 1)) * (width + 1) ** -0.5
    trunk = {n: x for n, x in variables["params"].items() if n != "lm_head"}
    params = {"trunk": trunk, "head": {"kernel": jnp.asarray(head, jnp.float32)}}
    scale = {"mean": jnp.float32(0), "std": jnp.float32(1)}
    whole = {"params": params, "scale": scale}
    return Problem(RewardModel(module.config), whole, ids, lengths)


def made_up(settings: Benchmark) -> Problem:
    """Returns a random model and random rows."""
    module, rng = RewardModel(SMALL), np.random.default_rng(settings.seed)
    shape = settings.num_rows, settings.length
    ids = rng.integers(0, SMALL.vocab_size, shape, np.int32)
    lengths = rng.integers(2, settings.length, len(ids), np.int32, endpoint=True)
    init = jax.jit(module.init)
    variables = init(jax.random.key(settings.seed), ids[:1], lengths[:1])
    return Problem(module, variables, ids, lengths)


def scores(settings: Benchmark, problem: Problem, apply: Any) -> np.ndarray:
    """Returns `[N]` float64 scores, computed in batches by one program."""
    program, size = jax.jit(apply), settings.batch_size
    with jax.default_matmul_precision("highest"):
        parts = [
            program(problem.variables, problem.ids[rows], problem.lengths[rows])
            for rows in np.arange(settings.num_rows).reshape(-1, size)
        ]
    return np.concatenate(parts).astype(np.float64)


if __name__ == "__main__":
    launch(main, Benchmark, __doc__)
