"""Scores completions with a reward model, and shows what the scores depend on.

    python experiments/score_completions.py --out runs/scores
    python experiments/score_completions.py --model DIR --input IN.jsonl --out runs/scores

Without --model the model is small and random, and without --input the texts are made up.

Expected: scores.jsonl, and scores.png, which shows whether longer completions score higher.
"""

import dataclasses
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.commands.launch import check_counts, check_seed, launch
from rljax.report.plots import draw_scores, require_matplotlib
from rljax.rlhf import (
    ByteTokenizer,
    RewardModel,
    Scorer,
    TransformerConfig,
    encoding_config,
)
from rljax.rlhf.data import TokenPair, Transcript
from rljax.rlhf.row_files import check_paths
from rljax.rlhf.scoring.rows import read_row
from rljax.rlhf.scoring.score_file import score_file
from rljax.training.files import dumps, write_atomically
from rljax.training.manifest import manifest

SMALL = TransformerConfig(
    vocab_size=258,
    hidden_size=64,
    intermediate_size=192,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    max_length=512,
)
WORDS = [
    "the", "a", "room", "is", "warm", "cold", "heater", "on", "off", "now", "then",
    "target", "degree", "and", "not", "very",
]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    model: Path | None = dataclasses.field(default=None, metadata={"setting": False})
    """Folder of a reward model, as transformers writes it."""
    input: Path | None = dataclasses.field(default=None, metadata={"setting": False})
    """Rows with prompt and completion, or messages, or prompt, chosen, rejected."""
    num_pairs: int = 2000
    """Texts to make up."""
    seed: int = 0
    """Draws the random model and the texts."""
    out: Path | None = dataclasses.field(default=None, metadata={"setting": False})
    """Directory of the run. Without it nothing is kept on disk."""

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, "num_pairs")


def main(experiment: Experiment) -> dict[str, Any]:
    """Scores, or goes on, and returns the headline figures."""
    require_matplotlib()
    if experiment.out is None:
        with tempfile.TemporaryDirectory() as name:
            return main(dataclasses.replace(experiment, out=Path(name)))
    folder = experiment.out
    folder.mkdir(parents=True, exist_ok=True)
    texts = experiment.input or folder / "texts.jsonl"
    if experiment.input is None and not texts.exists():
        write_atomically(texts, make_up(experiment.num_pairs, experiment.seed))
    output = folder / "scores.jsonl"
    check_paths(texts, output)
    about = manifest("score_completions", experiment)
    scorer = make_scorer(experiment)
    result = score_file(scorer, texts, output, settings=about["settings"])
    if not (folder / "manifest.json").exists():
        write_atomically(folder / "manifest.json", dumps(about, indent=1) + "\n")
    if result["pairs"]:
        result |= examine(output, folder / "scores.png")
    write_atomically(folder / "result.json", dumps(result, indent=1) + "\n")
    return result


def make_scorer(experiment: Experiment) -> Scorer:
    """The model that was asked for, ready to score."""
    if experiment.model is not None:
        return Scorer.load(experiment.model)
    module, tokenizer = RewardModel(SMALL), ByteTokenizer()
    row = jnp.zeros((1, 8), jnp.int32), jnp.ones(1, jnp.int32)
    variables = jax.jit(module.init)(jax.random.key(experiment.seed), *row)
    encoding = encoding_config(tokenizer, max_length=SMALL.max_length)
    return Scorer(module, variables, tokenizer, encoding)


def examine(path: Path, picture: Path) -> dict[str, Any]:
    """Draws the first scores of a file, and says what they depend on."""
    scores: list[float] = []
    lengths: list[int] = []
    wins: list[bool] = []
    with path.open("rb") as lines:
        for line in itertools.islice(lines, 20_000):
            row = read_row(line, "none")
            names = [name.replace("none", "score", 1) for name in row.names]
            found = [row.fields[name] for name in dict.fromkeys(names) if row.pairs]
            found = found[0] if row.has_list else found
            scores += found
            lengths += map(completion_length, row.pairs)
            if len(found) == 2:
                wins.append(found[0] > found[1])
    seen: dict[str, Any] = {"length_correlation": draw_scores(picture, scores, lengths)}
    return seen | ({"pair_accuracy": np.mean(wins)} if wins else {})


def completion_length(example: Any) -> int:
    """Characters of a completion; tokens, where it has only those."""
    match example:
        case Transcript():
            return len(example.text) - example.start
        case TokenPair():
            return len(example.completion_ids)
        case (_, str(text), *_):
            return len(text)
    return sum(len(str(message.get("content", ""))) for message in example[1])


def make_up(num_pairs: int, seed: int) -> str:
    """JSON lines of words at random, few of them mostly."""
    rng = np.random.default_rng(seed)
    lines = []
    for sizes in rng.geometric(0.1, (num_pairs, 2)).clip(max=40):
        prompt, completion = (" ".join(rng.choice(WORDS, size)) for size in sizes)
        lines.append(json.dumps({"prompt": prompt, "completion": completion}))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
