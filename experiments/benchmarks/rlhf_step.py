"""Times the parts of one update of RLHF on SmolLM2-135M, and what a shared trunk saves.

    python experiments/fetch_smollm2.py
    python experiments/benchmarks/rlhf_step.py

16 prompts x 4 completions x 32 tokens, RLOO, the last four of 30 blocks trained, a reward
model of the first 26. "apart" computes the fixed blocks anew for the reference, the reward
and the gradient; "shared" once. Both take their turns, A B B A. Beside each part stands
its share of this machine's matrix peak, from the products' FLOPs, attention left out.
Four minutes on two cores.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from peaks import matrix_peak

from rljax.base import Params
from rljax.commands.fetch import cache_folder
from rljax.commands.launch import check_counts, launch
from rljax.numerics.compiler import compiler_options
from rljax.rlhf import LastLayers, RewardModel, generate, load_language_model, policy
from rljax.rlhf.models import Transformer
from rljax.rlhf.models.reward_model import keep_first_layers
from rljax.rlhf.policy.rewards import TrunkHeads, model_reward, trunk_reward
from rljax.training.files import dumps
from rljax.training.manifest import device

PROMPT_LENGTH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    model: Path | None = None
    """Folder of a language model; by default where fetch_smollm2.py puts it."""
    turns: int = 4
    """Timed updates of each way; even."""
    num_prompts: int = 16
    """Prompts of an update."""
    group_size: int = 4
    """Completions of each."""
    max_new_tokens: int = 32
    """Tokens of a completion."""
    last_layers: int = 4
    """Blocks that are trained."""

    def __post_init__(self):
        check_counts(self, "turns", "num_prompts", "group_size", "max_new_tokens")


def main(settings: Benchmark) -> dict[str, Any]:
    """Prints a line for each way, and returns the ratios."""
    folder = settings.model or cache_folder() / "SmolLM2-135M-Instruct"
    module, variables = load_language_model(folder)
    params = variables["params"]
    ways = {
        name: Way(settings, module, params, shared=name == "shared")
        for name in ("apart", "shared")
    }
    for way in ways.values():
        way.turn()
    for i in range(settings.turns):
        for name in list(ways) if i % 2 == 0 else list(ways)[::-1]:
            ways[name].turn(keep=True)
    generation = time_generation(settings, module, params)
    peak = matrix_peak()
    flops = count_flops(settings, module)
    seconds: dict[str, dict[str, float]] = {}
    for name, way in ways.items():
        sampling, updating = np.median(way.seconds, axis=0)
        seconds[name] = {
            "generation": generation,
            "looking": sampling - generation,  # trunk, reference, reward
            "gradient": updating,
            "update": sampling + updating,
        }
        shares = {
            part: flops[name][part] / seconds[name][part] / peak for part in flops[name]
        }
        print(dumps({"way": name, "seconds": seconds[name], "peak_share": shares}))
    ratio = seconds["apart"]["update"] / seconds["shared"]["update"]
    return {
        "device": device(),
        "matrix_peak_gflops": peak / 1e9,
        "ratios": {"apart": ratio},
    }


class Way:
    """One way to take an update, and the seconds of each: sampling and looking, learning."""

    def __init__(
        self, settings: Benchmark, module: Transformer, params: Params, *, shared: bool
    ):
        """Compiles nothing yet."""
        first = module.config.num_layers - settings.last_layers
        key = jax.random.key(0)
        kernel = jax.random.normal(key, (1, module.config.hidden_size))
        if shared:
            reward = trunk_reward(module)
            reads: Any = TrunkHeads(params["norm"], kernel, jnp.zeros(1))
        else:
            trunk = {name: x for name, x in params.items() if name != "lm_head"}
            head = {"kernel": kernel.T}
            scale = {"mean": jnp.float32(0), "std": jnp.float32(1)}
            reads = {"params": {"trunk": trunk, "head": head}, "scale": scale}
            shape, reads = keep_first_layers(module.config, reads, first)
            reward = model_reward(RewardModel(shape))
        method, hyperparams = policy.rloo()
        config = policy.PolicyConfig(
            method=method,
            num_prompts=settings.num_prompts,
            group_size=settings.group_size,
            max_new_tokens=settings.max_new_tokens,
            trainable=LastLayers(settings.last_layers),
            share_trunk=shared,
        )
        learner = policy.policy_optimization(module, config, reward)
        ids, lengths = prompts(settings, module)
        self._task = policy.PolicyTask(ids, lengths, params, reads)
        self._state = jax.jit(learner.algorithm.init)(key, hyperparams, self._task)

        def sample(state, task):
            state, samples = learner.sample(state, task)
            return state, samples, reward(task.reward, samples)

        self._sample, self._update = jitted(sample), jitted(learner.update)
        self.seconds: list[tuple[float, float]] = []

    def turn(self, *, keep: bool = False) -> None:
        """Takes an update, and keeps its seconds."""
        started = time.perf_counter()
        found = jax.block_until_ready(self._sample(self._state, self._task))
        sampled = time.perf_counter()
        state, samples, rewards = found
        after = self._update(state, self._task, samples, rewards)
        self._state, _ = jax.block_until_ready(after)
        if keep:
            self.seconds.append((sampled - started, time.perf_counter() - sampled))


def time_generation(settings: Benchmark, module: Transformer, params: Params) -> float:
    """Returns the seconds of sampling an update's completions alone."""
    ids, lengths = (jnp.repeat(x, settings.group_size, 0) for x in prompts(settings, module))  # fmt: skip
    keys = jax.random.split(jax.random.key(1), len(ids))

    def complete(params, ids, lengths, keys):
        return generate(
            module, params, ids, lengths, keys, max_new_tokens=settings.max_new_tokens
        )

    program, seconds = jitted(complete), []
    for _ in range(settings.turns + 1):
        started = time.perf_counter()
        jax.block_until_ready(program(params, ids, lengths, keys))
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:]))


def prompts(settings: Benchmark, module: Transformer) -> tuple[jax.Array, jax.Array]:
    """Returns random prompts and their lengths."""
    rng = np.random.default_rng(0)
    shape = settings.num_prompts, PROMPT_LENGTH
    ids = rng.integers(3, module.config.vocab_size, shape, np.int32)
    return jnp.asarray(ids), jnp.full(len(ids), PROMPT_LENGTH)


def count_flops(
    settings: Benchmark, module: Transformer
) -> dict[str, dict[str, float]]:
    """Returns the FLOPs of the products by weights, of each way's parts."""
    config = module.config
    heads = config.num_heads + config.num_kv_heads
    block = 2 * config.hidden_size * heads * config.head_dim
    block += 3 * config.hidden_size * config.intermediate_size
    words = config.hidden_size * config.vocab_size
    rows = settings.num_prompts * settings.group_size
    new, length = settings.max_new_tokens, PROMPT_LENGTH + settings.max_new_tokens
    tokens, chosen = rows * length, rows * (new + 1)
    last, fixed = settings.last_layers, config.num_layers - settings.last_layers
    # A gradient of the trained blocks takes three passes, of the logits (fixed) two.
    learned = 3 * last * block * tokens + 2 * words * chosen
    generation = config.num_layers * block * tokens + words * rows * new
    reference = last * block * tokens + words * chosen
    found = {}
    for name, trunks in (("apart", (2, 1)), ("shared", (1, 0))):
        looking, gradient = (times * fixed * block * tokens for times in trunks)
        parts = {
            "generation": generation,
            "looking": looking + reference,
            "gradient": gradient + learned,
        }
        parts["update"] = sum(parts.values())
        found[name] = {part: 2.0 * count for part, count in parts.items()}
    return found


def jitted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles as training does."""
    return jax.jit(function, compiler_options=compiler_options())


if __name__ == "__main__":
    launch(main, Benchmark, __doc__)
