"""InstructGPT's three steps on SmolLM2-135M: sentences of movie reviews become friendlier.

    python experiments/fetch_smollm2.py
    python experiments/fetch_ratings.py
    python experiments/instructgpt.py --out runs/instructgpt

1. SFT: the model learns to write sentences as reviewers do, of any opinion. 2. A reward
model learns from people's ratings of other sentences which of two is more positive.
3. Policy optimization raises that reward, near the model of step 1. What it did is
measured on prompts of templates that it has not seen, by a word list, VADER's: nothing was
trained on it, though it comes from the authors of the ratings.

Ouyang et al. (2022), https://arxiv.org/abs/2203.02155. Expected: see
experiments/results/README.md.
"""

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import movie_reviews
import numpy as np
import review_report
import review_reward
from instructgpt_settings import Experiment

from rljax.base import Params
from rljax.commands.launch import launch
from rljax.commands.training import files_sha256, folder_sha256
from rljax.numerics.processes import is_main
from rljax.report.plots import require_matplotlib
from rljax.rlhf import load_language_model, load_tokenizer, save_language_model
from rljax.rlhf.data.rows import left_padded
from rljax.rlhf.data.tokenizer import copy_tokenizer
from rljax.rlhf.generation import read_stop_ids
from rljax.rlhf.policy.held_out import sample_held_out
from rljax.rlhf.recipes import RewardedPrompts, Stages
from rljax.rlhf.recipes.trainings import fine_tune, optimize
from rljax.training.files import RunError
from rljax.training.run_folder import RunFolder


def main(experiment: Experiment) -> dict[str, Any]:
    """Runs the recipe for each seed, or goes on, and returns the headline figures."""
    out = experiment.run.out
    if out is None:
        raise ValueError("the runs need a folder, got out=None. Name one with --out.")
    settings = read_settings(experiment)
    with RunFolder("instructgpt", settings, experiment.run) as folder:
        if folder.result is not None:
            return folder.result
        require_matplotlib()
        # transformers would advise to install PyTorch.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        models = load(experiment)
        runs = [run_recipe(settings, models, i) for i in range(experiment.num_seeds)]
        return folder.finish(*review_report.headline(runs), unit="completions")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the result follows from: flags, and what is in the files that they name."""

    flags: Experiment
    model_sha256: str
    data_sha256: str


def read_settings(experiment: Experiment) -> Settings:
    """Returns the settings; raises a RunError for files that cannot be read."""
    try:
        return Settings(
            experiment,
            folder_sha256(experiment.model_folder),
            files_sha256([experiment.data_file]),
        )
    except OSError as error:
        raise RunError(
            f"{error}. Run fetch_smollm2.py and fetch_ratings.py, or name a --model and "
            f"--data that can be read."
        ) from error


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
    source = experiment.model_folder
    tokenizer = load_tokenizer(source)
    module, variables = load_language_model(source)
    trunk = module.config.num_layers - experiment.last_layers
    if trunk < 1:
        raise ValueError(
            f"last_layers must leave a block for the reward to read, of the model's "
            f"{module.config.num_layers}, got {experiment.last_layers}. Lower it."
        )
    return Models(
        source=source,
        judge=review_reward.Judge(module, variables["params"], tokenizer, trunk),
        material=movie_reviews.read_material(
            experiment.data_file,
            tokenizer,
            num_shown=experiment.num_sentences,
            num_rated=experiment.num_rated + experiment.num_tested,
            num_held_out=experiment.num_held_out,
            seed=experiment.seed,
        ),
        stop_ids=read_stop_ids(source, tokenizer, (movie_reviews.END,)),
    )


def run_recipe(settings: Settings, models: Models, index: int) -> dict[str, Any]:
    """Runs the stages, or goes on; saves the policy; returns the run's figures."""
    experiment = settings.flags
    judge, material = models.judge, models.material
    module, base = judge.module, judge.params
    out = Path(str(experiment.run.out)) / f"seed_{index}"
    options = dataclasses.replace(experiment.run, out=out)
    stages = Stages(f"instructgpt {index}", settings, options)
    key = jax.random.fold_in(jax.random.key(experiment.seed), index)
    sft_key, policy_key, test_key = jax.random.split(key, 3)

    def imitation(params: Params, start: Params) -> dict[str, np.ndarray]:
        del start
        found = review_report.log_likelihoods(module, params, material.unseen)
        return {"log_likelihood": found}

    stages.measure("pretrained", lambda: imitation(base, base))
    tuned = fine_tune(
        stages, "sft", module, base, material.shown,
        experiment.sft_training(material.shown.ids.shape[1]), sft_key, imitation,
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
            out / f"{name}.jsonl",
            judge,
            material.held_out,
            samples,
            models.stop_ids,
            proxy,
        )

    stages.measure("before", lambda: measure("before", tuned, tuned))
    ids, lengths = left_padded(movie_reviews.encode(judge.tokenizer, material.prompts))
    make_reward = judge.own_reward if experiment.train == "lora" else judge.trunk_reward
    reward = make_reward(heads, experiment.uncertainty_penalty)
    prompts = RewardedPrompts(jnp.asarray(ids), jnp.asarray(lengths), *reward)
    learned = optimize(
        stages, "policy", module, tuned, prompts, experiment.policy_training(models.stop_ids, judge.question),
        policy_key, functools.partial(measure, "after"), stages.measured["before"],
    )  # fmt: skip
    if is_main():
        save_language_model(out / "model", module, {"params": learned})
        copy_tokenizer(models.source, out / "model")
    return review_report.finish(out, stages)


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
