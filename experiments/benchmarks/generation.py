"""Times sampling from language models, beside transformers' `generate`.

    make peers
    python experiments/fetch_smollm2.py --out DIR
    python experiments/benchmarks/generation.py --smollm2 DIR

Same weights and prompts of 16 tokens, float32, all cores, tokens drawn from the whole
distribution. `shape` is a model of 22 M parameters, 32 prompts x 64 tokens; `ragged` the
same, 32 x 128 tokens, where a fiftieth of the vocabulary ends a completion, so that half end
within a quarter of the length; `smollm2_N` N prompts x 32 tokens. transformers runs in an
environment of its own. Turns are taken A B B A; the first of each, which compiles or warms
up, does not count. The last line is our tokens/s over theirs: the median of the turns'
ratios, and the smallest and largest, between which the median lies with 97 % for six turns.
Ten minutes on two cores.
"""

import dataclasses
import functools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from reward_training import Trainer
from scoring_problem import SHAPE

from rljax.commands.launch import check_counts, check_seed, launch
from rljax.rlhf import Transformer, load_language_model, save_language_model
from rljax.rlhf.generation.batch import BatchCompleter
from rljax.rlhf.generation.decoding import Sampling
from rljax.training.files import RunError, dumps
from rljax.training.manifest import device

HERE = Path(__file__).parent
PEER = "generation_transformers.py"
PROMPT_LENGTH = 16
# Prompts, tokens of each completion, and the share of the vocabulary that ends one.
CASES = {
    "shape": (32, 64, 0.0),
    "ragged": (32, 128, 0.02),
    "smollm2_8": (8, 32, 0.0),
    "smollm2_16": (16, 32, 0.0),
    "smollm2_32": (32, 32, 0.0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    cases: tuple[str, ...] = tuple(CASES)
    """Which models, and how much they complete."""
    turns: int = 6
    """Timed turns of each system, for each case; even."""
    seed: int = 0
    """Draws weights and prompts."""
    smollm2: Path | None = None
    """Folder of SmolLM2, as fetch_smollm2.py writes it."""
    peer: Path = HERE.parent.parent / ".peers" / "transformers" / "bin" / "python"
    """The Python that has transformers and torch."""
    ours: Path | None = None
    """Complete what is in a folder, a turn for each line on stdin: a child's work."""

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, "turns")
        if unknown := set(self.cases) - set(CASES):
            raise ValueError(
                f"cases must be of {', '.join(CASES)}, got {', '.join(unknown)}."
            )
        if self.turns % 2:
            raise ValueError(
                f"turns must be even, so that neither system is always first, got "
                f"{self.turns}."
            )


def write_problem(folder: Path, case: str, settings: Benchmark) -> Path:
    """Writes prompts of random tokens, and a model if need be; returns the model's folder."""
    count, length, share = CASES[case]
    model = settings.smollm2
    if model is None or "smollm2" not in case:
        model, module = folder, Transformer(SHAPE)
        init = jax.jit(functools.partial(module.init, method="logits"))
        ids = jnp.zeros((1, 8), jnp.int32)
        save_language_model(folder, module, init(jax.random.key(settings.seed), ids))
    vocab_size = json.loads((model / "config.json").read_text())["vocab_size"]
    rng = np.random.default_rng(settings.seed)
    problem = {
        "model": str(model),
        "prompts": rng.integers(2, vocab_size, (count, PROMPT_LENGTH)),
        "max_new_tokens": length,
        "stop_ids": rng.choice(vocab_size, int(share * vocab_size), replace=False),
    }
    (folder / "problem.json").write_text(dumps(problem))
    return model


def complete_ours(folder: Path) -> None:
    """Completes the prompts for each line on stdin; prints seconds and tokens."""
    problem = json.loads((folder / "problem.json").read_text())
    module, variables = load_language_model(problem["model"])
    prompts = problem["prompts"]
    completer = BatchCompleter(
        module,
        variables["params"],
        Sampling(stop_ids=tuple(problem["stop_ids"])),
        max_new_tokens=problem["max_new_tokens"],
        batch_size=len(prompts),
        seed=0,
    )
    del variables
    for turn, _ in enumerate(sys.stdin):
        numbers = np.array([[turn] * len(prompts), range(len(prompts))], np.uint32)
        started = time.perf_counter()
        _, counts = completer.complete(PROMPT_LENGTH, prompts, numbers)
        result = {
            "seconds": time.perf_counter() - started,
            "tokens": counts.tokens,
            "compile_count": counts.compile_count,
        }
        sys.stdout.write(dumps(result) + "\n")
        sys.stdout.flush()


def compare(case: str, settings: Benchmark) -> dict[str, Any]:
    """Prints a line for each system, and returns how fast ours is beside the other."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_problem(folder, case, settings)
        ours = Trainer("rljax", [sys.executable, __file__, "--ours", folder])
        command = [settings.peer, "-W", "ignore", HERE / PEER, folder]
        theirs = Trainer("transformers", command)
        try:
            for i in range(settings.turns + 1):  # the first compiles or warms up
                for system in (ours, theirs) if i % 2 else (theirs, ours):
                    system.turn()
        finally:
            for system in (ours, theirs):
                system.end()
    speeds = [
        np.array([turn["tokens"] / turn["seconds"] for turn in system.turns[1:]])
        for system in (ours, theirs)
    ]
    for system, speed in zip((ours, theirs), speeds, strict=True):
        row = {
            "case": case,
            "system": system.name,
            "tokens_per_second": np.median(speed),
            "tokens": np.median([turn["tokens"] for turn in system.turns[1:]]),
            "seconds": [turn["seconds"] for turn in system.turns],
        }
        print(dumps(row), flush=True)
    ratios = speeds[0] / speeds[1]
    return {"ratio": float(np.median(ratios)), "interval": [ratios.min(), ratios.max()]}


def main(settings: Benchmark) -> dict[str, Any]:
    """Prints a line for each case and system, and returns the ratios."""
    if settings.ours is not None:
        complete_ours(settings.ours)
        return {}
    if not settings.peer.exists():
        raise RunError(f"{settings.peer} is missing. Make it: make peers")
    if settings.smollm2 is None and any("smollm2" in case for case in settings.cases):
        raise RunError(
            "the cases of SmolLM2 need its folder. Make it: python "
            "experiments/fetch_smollm2.py --out DIR, and give --smollm2 DIR."
        )
    ratios = {case: compare(case, settings) for case in settings.cases}
    return {"device": device(), "ratios": ratios}


if __name__ == "__main__":
    launch(main, Benchmark, __doc__)
