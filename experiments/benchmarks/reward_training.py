"""Times reward training on pairs of several length mixes, beside TRL's RewardTrainer.

    make peers
    python experiments/benchmarks/reward_training.py

Same weights, same rows of tokens, same updates: AdamW, 32 pairs, float32, all cores. TRL runs
in an environment of its own, with a batch in one part and in four; the faster goes on.
Updates are taken in turn, A B B A, each on new pairs; padding does not count as tokens. Our
first update compiles, and no system's first counts. The last line is our speed over theirs:
the median of the turns' ratios, and the smallest and largest, between which the median lies
with 97 % for six turns. Eight minutes on two cores.
"""

import dataclasses
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from peaks import matrix_peak
from scoring_problem import MIXES, SHAPE, count_flops, write_model

from rljax.commands.launch import check_counts, check_seed, launch
from rljax.numerics.compiler import Stopwatch
from rljax.rlhf import load_reward_model
from rljax.rlhf.data.rows import Rankings
from rljax.rlhf.training import (
    RewardConfig,
    RewardHyperparams,
    RewardTask,
    fixed_only,
    reward_training,
    usual_lengths,
)
from rljax.training.files import RunError, dumps
from rljax.training.loop import train
from rljax.training.manifest import device

HERE = Path(__file__).parent
PEER = "reward_training_trl.py"
LEARNING_RATE = 1e-4
PARTS = (1, 4)  # of a batch of TRL's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    mixes: tuple[str, ...] = ("zipf_short", "bimodal", "flat")
    """Which length mixes."""
    turns: int = 6
    """Timed turns of each system, for each mix; even."""
    batch_size: int = 32
    """Pairs of an update."""
    seed: int = 0
    """Draws weights and tokens."""
    num_microbatches: int = 8
    """Parts of a batch of ours."""
    peer: Path = HERE.parent.parent / ".peers" / "transformers" / "bin" / "python"
    """The Python that has TRL and torch."""
    ours: Path | None = None
    """Train on what is in a folder, a turn for each line on stdin: a child's work."""

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, "turns", "batch_size", "num_microbatches")
        if unknown := set(self.mixes) - set(MIXES):
            raise ValueError(
                f"mixes must be of {', '.join(MIXES)}, got {', '.join(unknown)}."
            )
        if self.turns % 2:
            raise ValueError(
                f"turns must be even, so that neither system is always first, got "
                f"{self.turns}."
            )
        if self.batch_size % (math.lcm(self.num_microbatches, *PARTS)):
            raise ValueError(
                f"batch_size must be a multiple of {PARTS[-1]} and of num_microbatches, "
                f"got {self.batch_size} and {self.num_microbatches}."
            )


def make_pairs(mix: str, settings: Benchmark) -> dict[str, np.ndarray]:
    """Ids `[turns, batch_size, 2, L]` and lengths of random tokens."""
    rng = np.random.default_rng(settings.seed)
    shape = settings.turns + 2, settings.batch_size, 2
    lengths = MIXES[mix](rng, math.prod(shape)).reshape(shape)
    real = np.arange(lengths.max()) < lengths[..., None]
    ids = rng.integers(2, SHAPE.vocab_size, real.shape, np.int32)
    return {"ids": np.where(real, ids, 0), "lengths": lengths}


def train_ours(folder: Path, num_microbatches: int) -> None:
    """Takes an update for each line on stdin; prints its seconds and its loss."""
    data = np.load(folder / "pairs.npz")
    module, variables = load_reward_model(folder)
    config = RewardConfig(
        batch_size=data["lengths"].shape[1],
        num_microbatches=num_microbatches,
        lengths=usual_lengths(int(data["lengths"].max())),
        new_head=False,
    )
    algorithm = reward_training(module, config)
    turns = [Rankings.of(*turn) for turn in zip(*data.values(), strict=True)]
    task = RewardTask(turns[0], variables["params"])
    hyperparams = RewardHyperparams(learning_rate=LEARNING_RATE)
    state = jax.jit(algorithm.init)(jax.random.key(0), hyperparams, task)
    task = fixed_only(module, config.trainable, task)
    losses = []
    for rows, _ in zip(turns, sys.stdin, strict=False):
        stopwatch, started = Stopwatch(), time.perf_counter()
        state = train(
            algorithm,
            state,
            task.replace(rows=rows),
            1,
            log_every=1,
            on_log=lambda _, entry: losses.append(float(entry.metrics["loss"])),
        )
        answer = {
            "seconds": time.perf_counter() - started,
            "seconds_compile": stopwatch.seconds_compile,
            "loss": losses[-1],
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        sys.stdout.write(dumps(answer) + "\n")
        sys.stdout.flush()


class Trainer:
    """A child process that takes an update whenever it is asked to."""

    def __init__(self, name: str, command: list[Any]):
        self.name = name
        self.turns: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def turn(self) -> dict[str, Any]:
        """Takes the next update."""
        process: Any = self._process
        try:
            process.stdin.write("\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass
        line = process.stdout.readline()
        if not line:
            raise RunError(f"{self.name} failed:\n{process.communicate()[1]}")
        self.turns.append(json.loads(line))
        return self.turns[-1]

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        self._process.communicate()


def compare(mix: str, settings: Benchmark, peak: float) -> dict[str, Any]:
    """Prints a line for each system, and returns how ours is beside TRL's faster way."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, settings.seed)
        data = make_pairs(mix, settings)
        np.savez(folder / "pairs.npz", allow_pickle=False, **data)
        parts = ["--num-microbatches", settings.num_microbatches]
        ours = Trainer("rljax", [sys.executable, __file__, "--ours", folder, *parts])
        script = [settings.peer, "-W", "ignore", HERE / PEER, folder]
        theirs = [
            Trainer(
                f"trl_parts_{count}", [*script, settings.batch_size // count, count]
            )
            for count in PARTS
        ]
        trainers = [ours, *theirs]
        try:
            for trainer in (*trainers, *trainers):  # the first compiles or warms up
                trainer.turn()
            fastest = min(theirs, key=lambda trainer: trainer.turns[1]["seconds"])
            for i in range(settings.turns):
                pair = (ours, fastest) if i % 2 == 0 else (fastest, ours)
                for trainer in pair:
                    trainer.turn()
        finally:
            for trainer in trainers:
                trainer.end()
    for trainer in trainers:
        print(dumps({"mix": mix} | summary(trainer, data, peak)), flush=True)
    pairs = zip(ours.turns[2:], fastest.turns[2:], strict=True)
    ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in pairs]
    return {
        "ratio": float(np.median(ratios)),
        "interval": [min(ratios), max(ratios)],
        "peak_memory": ours.turns[-1]["peak_mb"] / fastest.turns[-1]["peak_mb"],
        "loss_difference": max(
            abs(ours["loss"] - theirs["loss"])
            for ours, theirs in zip(ours.turns, fastest.turns, strict=True)
        ),
        "beside": fastest.name,
    }


def summary(
    trainer: Trainer, data: dict[str, np.ndarray], peak: float
) -> dict[str, Any]:
    """Medians over the turns that count: all but the first, which compiles."""
    lengths = data["lengths"][1 : len(trainer.turns)]
    seconds = np.array([turn["seconds"] for turn in trainer.turns[1:]])
    flops = np.array([3 * count_flops(turn.ravel()) for turn in lengths])
    return {
        "system": trainer.name,
        "tokens_per_second": np.median(lengths.sum((1, 2)) / seconds),
        "share_of_peak": np.median(flops / seconds) / peak,
        "seconds": seconds,
        "seconds_first_turn": trainer.turns[0]["seconds"],
        "seconds_compile": sum(turn["seconds_compile"] for turn in trainer.turns),
        "peak_mb": trainer.turns[-1]["peak_mb"],
        "losses": [turn["loss"] for turn in trainer.turns],
    }


def main(settings: Benchmark) -> dict[str, Any]:
    """Prints a line for each mix and system, and returns the ratios."""
    if settings.ours is not None:
        train_ours(settings.ours, settings.num_microbatches)
        return {}
    if not settings.peer.exists():
        raise RunError(f"{settings.peer} is missing. Make it: make peers")
    peak = matrix_peak()
    ratios = {mix: compare(mix, settings, peak) for mix in settings.mixes}
    return {"device": device(), "peak_gflops": peak / 1e9, "ratios": ratios}


if __name__ == "__main__":
    launch(main, Benchmark, __doc__)
