"""Times a step of GRPO, sampling and learning, beside TRL's GRPOTrainer.

    make peers
    python experiments/benchmarks/grpo_step.py

Same weights and prompts, float32, all cores: 16 prompts x 4 completions x 32 tokens of a
model of two layers 128 wide, no reference (beta 0), one gradient step. The reward is the
share of even tokens, of both. TRL runs in an environment of its own. Steps are taken in
turn, A B B A; the first two of each, which compile or warm up, do not count. The last line
is our speed over TRL's: the median of the turns' ratios, the smallest and the largest.
Three minutes on two cores.
"""

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from reward_training import Trainer
from scoring_problem import write_tokenizer

from rljax.commands.launch import check_counts, check_seed, launch
from rljax.numerics.compiler import Stopwatch
from rljax.rlhf import (
    Transformer,
    TransformerConfig,
    load_language_model,
    policy,
    save_language_model,
)
from rljax.training.files import RunError, dumps
from rljax.training.loop import train
from rljax.training.manifest import device

HERE = Path(__file__).parent
PEER = "grpo_step_trl.py"
PROMPT_LENGTH = 16
SHAPE = TransformerConfig(
    vocab_size=8192,
    hidden_size=128,
    intermediate_size=384,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=32,
    max_length=64,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    turns: int = 20
    """Timed steps of each system; even."""
    num_prompts: int = 16
    """Prompts of a step."""
    group_size: int = 4
    """Completions of each."""
    max_new_tokens: int = 32
    """Tokens of a completion."""
    learning_rate: float = 1e-6
    """AdamW's."""
    seed: int = 0
    """Draws weights and prompts."""
    peer: Path = HERE.parent.parent / ".peers" / "transformers" / "bin" / "python"
    """The Python that has TRL and torch."""
    ours: Path | None = None
    """Learn from what is in a folder, a step for each line on stdin: a child's work."""

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, "turns", "num_prompts", "group_size", "max_new_tokens")
        if self.turns % 2:
            raise ValueError(
                f"turns must be even, so that neither system is always first, got "
                f"{self.turns}."
            )


def share_even(_: None, samples: policy.Samples) -> jax.Array:
    """Returns the reward: the share of a completion's tokens that are even."""
    even = (samples.completions % 2 == 0) & samples.mask
    return even.sum(axis=1) / samples.num_learned


def learn(folder: Path, settings: Benchmark) -> None:
    """Takes a step for each line on stdin; prints its seconds and its mean reward."""
    module, variables = load_language_model(folder)
    ids = np.load(folder / "prompts.npy")
    method, hyperparams = policy.grpo()
    method = dataclasses.replace(method, kl="none")
    config = policy.PolicyConfig(
        method=method,
        num_prompts=settings.num_prompts,
        group_size=settings.group_size,
        max_new_tokens=settings.max_new_tokens,
        stop_ids=(1,),  # of one token in 8,192: few completions end before the last
    )
    algorithm = policy.policy_optimization(module, config, share_even).algorithm
    hyperparams = hyperparams.replace(beta=0.0, learning_rate=settings.learning_rate)
    lengths = jnp.full(len(ids), PROMPT_LENGTH)
    task = policy.PolicyTask(jnp.asarray(ids), lengths, variables["params"])
    state = jax.jit(algorithm.init)(jax.random.key(0), hyperparams, task)
    rewards: list[float] = []
    for _ in sys.stdin:
        stopwatch, started = Stopwatch(), time.perf_counter()
        state = train(
            algorithm,
            state,
            task,
            1,
            log_every=1,
            on_log=lambda _, entry: rewards.append(float(entry.metrics["reward"])),
        )
        answer = {
            "seconds": time.perf_counter() - started,
            "seconds_compile": stopwatch.seconds_compile,
            "reward": rewards[-1],
        }
        sys.stdout.write(dumps(answer) + "\n")
        sys.stdout.flush()


def write_problem(folder: Path, settings: Benchmark) -> None:
    """Writes a random model, a tokenizer of words, and the prompts of all steps."""
    module = Transformer(SHAPE)
    init = jax.jit(
        lambda key: module.init(key, jnp.zeros((1, 1), jnp.int32), method="logits")
    )
    save_language_model(folder, module, init(jax.random.key(settings.seed)))
    write_tokenizer(folder)
    rng = np.random.default_rng(settings.seed)
    count = (settings.turns + 2) * settings.num_prompts
    shape = count, PROMPT_LENGTH
    np.save(folder / "prompts.npy", rng.integers(2, SHAPE.vocab_size, shape, np.int32))


def main(settings: Benchmark) -> dict[str, Any]:
    """Prints a line for each system, and returns the ratio."""
    if settings.ours is not None:
        learn(settings.ours, settings)
        return {}
    if not settings.peer.exists():
        raise RunError(f"{settings.peer} is missing. Make it: make peers")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_problem(folder, settings)
        sizes = [settings.num_prompts, settings.group_size, settings.max_new_tokens]
        flags = ("--num-prompts", "--group-size", "--max-new-tokens")
        ours = [x for pair in zip(flags, sizes, strict=True) for x in pair]
        rate = settings.learning_rate
        trainers = [
            Trainer("rljax", [sys.executable, __file__, "--ours", folder, *ours]),
            Trainer(
                "trl",
                [settings.peer, "-W", "ignore", HERE / PEER, folder, *sizes, rate],
            ),
        ]
        try:
            for trainer in (*trainers, *trainers):
                trainer.turn()
            for i in range(settings.turns):
                for trainer in trainers if i % 2 == 0 else trainers[::-1]:
                    trainer.turn()
        finally:
            for trainer in trainers:
                trainer.end()
    seconds = {t.name: [turn["seconds"] for turn in t.turns[2:]] for t in trainers}
    num_tokens = int(np.prod(sizes))
    for trainer in trainers:
        line = {
            "system": trainer.name,
            "seconds": np.median(seconds[trainer.name]),
            "tokens_per_second": num_tokens / np.median(seconds[trainer.name]),
            "seconds_first_step": trainer.turns[0]["seconds"],
            "reward": np.mean([turn["reward"] for turn in trainer.turns]),
        }
        print(dumps(line), flush=True)
    ratios = np.array(seconds["trl"]) / np.array(seconds["rljax"])
    low, high = ratios.min(), ratios.max()
    figures = {"ratio": np.median(ratios), "interval": [low, high]}
    return {"device": device(), "ratios": {"trl": figures}}


if __name__ == "__main__":
    launch(main, Benchmark, __doc__)
