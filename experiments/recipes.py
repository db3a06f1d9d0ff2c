"""The recipes of InstructGPT, Tülu 3 and R1, stage by stage, on a tiny language model.

    python experiments/recipes.py --recipe tulu3 --num-seeds 3 --out runs/tulu3

It begins with the model of `pretrain_tiny.py`, which it makes first; the problems are words
to be written backwards. Each stage is measured on the same held-out words as the model it
is to improve on: the one before it, or, for R1's fine-tuning of the pretrained model, the
cold start. The last line has the table, which is in `table.md`, too. Expected: see
experiments/results/recipes.md.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pretrain_tiny
import recipes_report
import recipes_words as words
from recipes_sizes import dpo, reward, rl, sft
from recipes_words import Texts

from rljax.base import Params
from rljax.commands.launch import check_counts, check_seed, launch
from rljax.numerics.processes import is_main
from rljax.report.plots import require_matplotlib
from rljax.rlhf import Transformer, load_language_model, policy
from rljax.rlhf.recipes import (
    InstructGPTSettings,
    R1Settings,
    Stages,
    Tulu3Settings,
    instructgpt,
    r1,
    tulu3,
)
from rljax.training.run_folder import RunFolder, RunOptions

RECIPES = ("instructgpt", "tulu3", "r1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    recipe: str = "tulu3"
    """Which one: instructgpt, tulu3 or r1."""
    seed: int = 0
    """Seeds everything after pretraining; run i of several depends on it and i only."""
    num_seeds: int = 3
    """Independent runs of the recipe, one after another."""
    sft_updates: int = 60
    """Updates of each fine-tuning, of 64 rows; a cold start has a third of them."""
    pair_updates: int = 40
    """Updates of DPO, of 32 pairs; reward training has three times as many."""
    rl_updates: int = 60
    """Updates of each policy optimization, of 16 prompts with 8 completions."""
    num_sampled: int = 600
    """Prompts of which four completions are judged or verified; for a reward model three
    times as many."""
    num_held_out: int = 600
    """Words to measure by."""
    pretraining_updates: int = 300
    """Updates that the model to begin with is pretrained for."""
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(
            self, "num_seeds", "sft_updates", "pair_updates", "rl_updates", "num_sampled",
            "pretraining_updates",
        )  # fmt: skip
        check_counts(self, "num_held_out", least=4)
        if self.recipe not in RECIPES:
            raise ValueError(
                f"recipe must be one of {', '.join(RECIPES)}, got {self.recipe!r}."
            )


def main(experiment: Experiment) -> dict[str, Any]:
    """Runs a recipe, or goes on, and returns the table of its stages."""
    out = experiment.run.out
    if out is None:
        raise ValueError("the runs need a folder, got out=None. Name one with --out.")
    with RunFolder("recipes", experiment, experiment.run) as folder:
        if folder.result is not None:
            return folder.result
        require_matplotlib()
        pretrained = pretrain_tiny.main(
            pretrain_tiny.Experiment(
                num_updates=experiment.pretraining_updates,
                num_shown=words.NUM_SHOWN,
                run=dataclasses.replace(experiment.run, out=out / "pretrained"),
            )
        )
        module, variables = load_language_model(out / "pretrained" / "model")
        # InstructGPT compares completions of three times as many; all need some more.
        num_asked = 3 * experiment.num_sampled + 16
        texts = words.read_texts(experiment.num_held_out, num_asked)
        rows: list[dict[str, Any]] = []
        for i in range(experiment.num_seeds):
            table = learn(experiment, module, variables["params"], texts, i)
            rows += [{"seed": i} | row for row in table]
        if is_main():
            recipes_report.write(out / "table.md", rows)
            recipes_report.draw(out / "stages.png", {experiment.recipe: rows})
        totals = {
            name: sum(row.get(name, 0) for row in rows)
            for name in ("seconds_run", "seconds_compile", "completions")
        }
        figures = {"recipe": experiment.recipe, "table": rows}
        figures["seconds_pretraining"] = pretrained["seconds_run"]
        figures |= recipes_report.gains(rows)
        return folder.finish(figures, totals, unit="completions")


def learn(
    experiment: Experiment,
    module: Transformer,
    params: Params,
    texts: Texts,
    index: int,
) -> list[dict[str, Any]]:
    """Returns the table of one run of the recipe, which it takes, or goes on with."""
    out, num_sampled = Path(str(experiment.run.out)), experiment.num_sampled
    options = dataclasses.replace(experiment.run, out=out / f"seed_{index}")
    stages = Stages(f"{experiment.recipe} run {index}", experiment, options)
    key, test_key = jax.random.split(
        jax.random.fold_in(jax.random.key(experiment.seed), index)
    )
    with_verse = experiment.recipe == "r1"
    evaluate = words.measures(module, texts, test_key, with_verse=with_verse)
    if experiment.recipe == "tulu3":
        tulu3(
            module, params, words.tulu3_data(texts, num_sampled),
            Tulu3Settings(
                sft=sft(experiment.sft_updates), dpo=dpo(experiment.pair_updates),
                rlvr=rl(policy.grpo(), experiment.rl_updates, "exact_match"),
            ),
            stages, evaluate, key,
        )  # fmt: skip
    elif experiment.recipe == "r1":
        r1(
            module, params, words.r1_data(texts, num_sampled),
            R1Settings(
                cold_start=sft(max(1, experiment.sft_updates // 3)),
                reasoning=rl(policy.grpo(), experiment.rl_updates, "exact_match"),
                sft=sft(experiment.sft_updates),
                mixed=rl(policy.grpo(), experiment.rl_updates, "mixed"),
            ),
            stages, evaluate, key,
        )  # fmt: skip
    else:
        instructgpt(
            module, params, words.instructgpt_data(texts, 3 * num_sampled),
            InstructGPTSettings(
                sft=sft(experiment.sft_updates),
                reward=reward(3 * experiment.pair_updates),
                rl=rl(
                    policy.rloo(), experiment.rl_updates, "judge", learning_rate=5e-5,
                    beta=0.2,
                ),
            ),
            stages, evaluate, key,
        )  # fmt: skip
    return stages.table


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
