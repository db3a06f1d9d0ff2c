"""A tiny language model learns by trial and error to write words backwards.

    python experiments/rlhf_tiny.py --num-seeds 3 --out runs/rlhf_tiny

It begins with the model of `pretrain_tiny.py`, which it makes first, and which has seen
some problems solved. From then on nobody shows it an answer: it answers, and is told
whether that was right. The last line has the share of right answers to words that were
never practised, before and after, of each seed.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pretrain_tiny
import word_problems

from rljax.commands.launch import check_counts, check_seed, launch
from rljax.numerics.processes import is_main
from rljax.report.plots import learning_curve, require_matplotlib
from rljax.rlhf import load_language_model, policy, save_language_model, trained_params
from rljax.rlhf.policy.rewards import equals_target
from rljax.training.loggers import LogEntry
from rljax.training.loop import train
from rljax.training.run_folder import RunFolder, RunOptions
from rljax.training.run_logger import RunLogger
from rljax.training.sharded import fetched, mesh_for, place, sharded

RECIPES = {
    "grpo": policy.grpo, "dr_grpo": policy.dr_grpo, "rloo": policy.rloo,
    "reinforce": policy.reinforce, "dapo": policy.dapo, "gspo": policy.gspo,
    "cispo": policy.cispo, "ppo": policy.ppo,
}  # fmt: skip
FIGURES = (
    "exact_match_before", "exact_match", "exact_match_sampled_before",
    "exact_match_sampled", "kl",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    seed: int = 0
    """Seeds everything after pretraining; run i of several depends on it and i only."""
    num_seeds: int = 3
    """Independent runs, one after another."""
    recipe: str = "grpo"
    """How the policy is optimized: grpo, dr_grpo, rloo, reinforce, dapo, gspo, cispo, ppo."""
    num_updates: int = 1200
    """Updates of each run."""
    num_prompts: int = 32
    """Problems of an update."""
    group_size: int = 8
    """Answers to each."""
    num_minibatches: int = 4
    """Gradient steps of an update."""
    learning_rate: float = 3e-4
    """AdamW's, which falls to 0."""
    beta: float = 0.01
    """Weight of the divergence from the pretrained model, where the recipe has one."""
    num_evaluations: int = 10
    """Evaluations during a run, about."""
    pretraining_updates: int = 500
    """Updates that the model to begin with is pretrained for."""
    num_shown: int = 200
    """Problems that it is then shown solved."""
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(
            self, "num_seeds", "num_updates", "num_prompts", "group_size",
            "num_minibatches", "num_evaluations", "pretraining_updates", "num_shown",
        )  # fmt: skip
        if self.recipe not in RECIPES:
            raise ValueError(
                f"recipe must be one of {', '.join(RECIPES)}, got {self.recipe!r}."
            )

    @property
    def pretraining(self) -> pretrain_tiny.Experiment:
        """How the model to begin with is made."""
        return pretrain_tiny.Experiment(
            num_updates=self.pretraining_updates, num_shown=self.num_shown
        )


def main(experiment: Experiment) -> dict[str, Any]:
    """Pretrains and trains, or goes on, and returns the shares of right answers."""
    out = experiment.run.out
    if out is None:
        raise ValueError("the runs need a folder, got out=None. Name one with --out.")
    with RunFolder("rlhf_tiny", experiment, experiment.run) as folder:
        if folder.result is not None:
            return folder.result
        require_matplotlib()
        pretrained = pretrain_tiny.main(
            dataclasses.replace(
                experiment.pretraining,
                run=dataclasses.replace(experiment.run, out=out / "pretrained"),
            )
        )
        runs = [learn(experiment, out, i) for i in range(experiment.num_seeds)]
        curves = [run.pop("curve") for run in runs]
        if is_main():
            learning_curve(
                out / "learning_curve.png",
                [answered for answered, _ in curves[0]],
                [[y for _, y in points] for points in zip(*curves, strict=True)],
                title=f"Words written backwards, learned by {experiment.recipe}",
                xlabel="answers given",
                ylabel="right answers to words never practised",
                ceiling=1.0,
            )
        totals = {
            name: sum(run[name] for run in runs)
            for name in ("answers", "seconds_run", "seconds_compile")
        }
        figures = {name: [run[name] for run in runs] for name in FIGURES}
        figures |= {
            "seconds_each": [run["seconds_run"] for run in runs],
            "seconds_pretraining": pretrained["seconds_run"],
        }
        return folder.finish(figures, totals, unit="answers")


def learn(experiment: Experiment, out: Path, index: int) -> dict[str, Any]:
    """One run: learns, or goes on; saves the model; returns its figures."""
    module, variables = load_language_model(out / "pretrained" / "model")
    pretraining, out = experiment.pretraining, out / f"seed_{index}"
    words = word_problems.split_words(
        word_problems.read_text(), pretraining.num_shown, pretraining.num_held_out
    )
    options = dataclasses.replace(experiment.run, out=out)
    with RunFolder(f"rlhf_tiny run {index}", experiment, options) as folder:
        if folder.result is not None:
            return folder.result
        method, hyperparams = RECIPES[experiment.recipe]()
        config = policy.PolicyConfig(
            method=method,
            num_prompts=experiment.num_prompts,
            group_size=experiment.group_size,
            max_new_tokens=word_problems.ANSWER_LENGTH,
            stop_ids=(word_problems.END,),
            num_minibatches=experiment.num_minibatches,
        )
        mesh = mesh_for(config.microbatch_size)
        learner = policy.policy_optimization(module, config, equals_target)
        algorithm = sharded(learner.algorithm, mesh)
        hyperparams = hyperparams.replace(
            learning_rate=experiment.learning_rate,
            warmup_updates=10.0,
            decay_updates=experiment.num_updates,
        )
        if method.kl != "none":
            hyperparams = hyperparams.replace(beta=experiment.beta)
        ids, lengths = word_problems.prompts(words.practised)
        task = policy.PolicyTask(
            prompts=jnp.asarray(ids),
            prompt_lengths=jnp.asarray(lengths),
            params=variables["params"],
            reward=word_problems.targets(words.practised),
        )
        task = place(task, mesh)
        train_key, test_key = jax.random.split(
            jax.random.fold_in(jax.random.key(experiment.seed), index)
        )
        run = RunLogger(
            folder,
            num_updates=experiment.num_updates,
            steps_per_update=config.num_samples,
            headline="held_out",
            unit="answers",
        )

        def shares(params: Any) -> dict[str, float]:
            return word_problems.share_right(module, params, words.held_out, test_key)

        before = shares(variables["params"])
        every = max(1, experiment.num_updates // experiment.num_evaluations)

        def learned(state: Any) -> Any:
            made = trained_params(module, config.trainable, state, task)
            return fetched(made, mesh)

        def on_log(state: Any, entry: LogEntry) -> bool:
            held_out = np.asarray(shares(learned(state))["greedy"])
            return run.on_log(state, entry._replace(evaluation={"held_out": held_out}))

        start = run.start(algorithm.init, train_key, hyperparams, task)
        state = train(
            algorithm, start, task, run.updates_left, log_every=every, on_log=on_log
        )
        run.check_finished()
        params = learned(state)
        if is_main():
            save_language_model(out / "model", module, {"params": params})
        after, last = shares(params), run.last
        rows = [(row["answers"], row["held_out"]) for row in run.rows]
        figures = {
            "exact_match_before": before["greedy"],
            "exact_match": after["greedy"],
            "exact_match_sampled_before": before["sampled"],
            "exact_match_sampled": after["sampled"],
            "kl": last.get("kl"),
            "curve": [(0, before["greedy"]), *rows],
        }
        return run.finish(figures)


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
