"""Searches PPO's numbers on CartPole-v1: Optuna proposes, a population tries many at once.

    python experiments/search_cartpole.py --out runs/search

64 trials in batches of 16, 4 seeds each; then the best one anew, with 16 other seeds. With
--storage sqlite:///study.db, or another database's URL, several processes or machines share
one study, and a search that was stopped goes on; what is proposed then differs from time to
time. Jobs may come and go: the trials of one that was killed are tried again. Needs Optuna:
pip install '.[sweep]'.
Expected: see experiments/results/README.md.
"""

import dataclasses
from typing import Any

from rljax.algorithms import ppo
from rljax.algorithms.networks import ActorCritic
from rljax.commands.launch import check_counts, check_seed, launch
from rljax.commands.sweep_experiment import check_flags
from rljax.envs import CartPole, CartPoleParams
from rljax.numerics.processes import agree
from rljax.numerics.statistics import summarize
from rljax.sweeps.optuna_search import check_search, search, trained
from rljax.sweeps.points import LogUniform, Space, Uniform
from rljax.sweeps.problem import Problem, make_problem
from rljax.sweeps.runner import sweep
from rljax.training.files import RunError
from rljax.training.loggers import log_line
from rljax.training.run_folder import RunFolder, RunOptions

ENV, TASK, NETWORK = CartPole(), CartPoleParams(), ActorCritic(num_actions=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """What the command line can change."""

    seed: int = 0
    """Seeds the runs; a trial's are the same as every other's."""
    num_trials: int = 64
    """Trials of the whole study; processes that share it may make up to a batch each more."""
    batch_size: int = 16
    """Trials in one population."""
    num_seeds: int = 4
    """Runs of a trial."""
    num_seeds_at_end: int = 16
    """Runs of the best trial's numbers, with other seeds."""
    lowest_learning_rate: float = 1e-5
    """From here on learning rates are proposed."""
    highest_learning_rate: float = 1.0
    """Up to here learning rates are proposed."""
    lowest_gamma: float = 0.8
    """From here on discount factors are proposed, up to 1."""
    total_steps: int = 50_000
    """Environment steps of each run: a budget, never exceeded."""
    num_episodes: int = 32
    """Episodes in an evaluation of each run."""
    storage: str | None = dataclasses.field(default=None, metadata={"setting": False})
    """URL of the study's database, which jobs that come and go can share; by default a file in --out, or none."""
    study: str = "cartpole"
    """The study's name in the storage."""
    config: ppo.PPOConfig = dataclasses.field(
        default_factory=lambda: ppo.PPOConfig(num_envs=16, num_steps=32, num_epochs=10)
    )
    hyperparams: ppo.PPOHyperparams = dataclasses.field(
        default_factory=ppo.PPOHyperparams
    )
    run: RunOptions = dataclasses.field(
        default_factory=RunOptions, metadata={"setting": False}
    )

    def __post_init__(self):
        check_seed(self.seed)
        counts = "num_trials", "batch_size", "num_seeds", "num_seeds_at_end"
        check_counts(self, *counts, "num_episodes")
        ppo.check_hyperparams(self.hyperparams)
        if self.run.tensorboard:
            raise ValueError("a search has no curves to log. Leave --tensorboard out.")
        check_flags(self, self.spaces())
        sizes = self.num_trials, self.batch_size, self.num_seeds
        check_search(self.problem(), self.spaces(), *sizes)

    def problem(self) -> Problem:
        """What is searched."""
        return make_problem(
            *(ppo, ENV, NETWORK, TASK),
            total_steps=self.total_steps,
            num_episodes=self.num_episodes,
            config=self.config,
            hyperparams=self.hyperparams,
        )

    def spaces(self) -> dict[str, Space]:
        """Where it is searched."""
        rates = LogUniform(self.lowest_learning_rate, self.highest_learning_rate)
        return {"learning_rate": rates, "gamma": Uniform(self.lowest_gamma, 1.0)}


def main(experiment: Experiment) -> dict[str, Any]:
    """Searches, or goes on, and returns the figures of the best numbers found."""
    folder, storage = experiment.run.out, experiment.storage
    if storage is None and folder is not None:
        storage = f"sqlite:///{folder / 'study.db'}"
    with RunFolder("search_cartpole", experiment, experiment.run) as run:
        if run.result is not None:
            return run.result
        problem = experiment.problem()
        study = search(
            problem,
            experiment.spaces(),
            num_trials=experiment.num_trials,
            batch_size=experiment.batch_size,
            num_seeds=experiment.num_seeds,
            seed=experiment.seed,
            name=experiment.study,
            storage=storage,
            should_stop=run.should_stop,
        )
        states = [trial.state.name for trial in study.trials]
        if not agree("COMPLETE" in states):
            raise RunError("runs of every trial diverged. Search another range.")
        trials = trained(study)
        best = agree(study.best_params)
        log_line(f"best of {len(trials)}: {best}; now with other seeds")
        # The best of many was lucky, too: only runs that did not choose it are honest.
        anew = sweep(
            problem,
            [best],
            num_seeds=experiment.num_seeds_at_end,
            seed=(experiment.seed + 1) % 2**32,
            num_evaluations=1,
        )
        took = {
            name: getattr(anew, name) + sum(trial.user_attrs[name] for trial in trials)
            for name in ("env_steps", "seconds_run", "seconds_compile")
        }
        result = summarize(anew.results.final[0]) | {
            "best": best,
            "best_return_while_searching": study.best_value,
            "trials": len(trials),
            "seconds_compile": took.pop("seconds_compile"),
        }
        return run.finish(result, took)


if __name__ == "__main__":
    launch(main, Experiment, __doc__, all_cores=True)
