"""A policy optimized too far: the learned reward rises while the true one falls.

    python experiments/overoptimization.py --out runs/overoptimization

A tiny language model of movie reviews is optimized for reward models, proxies, that have
learned from pairs of its own completions which of two is praise. The judge of the pairs,
and of all policies, is the gold reward: a word list's, which counts each word once. Two
ways, best of n and REINFORCE, each for proxies of few and of many pairs; and REINFORCE for an
ensemble of proxies with a penalty on what its members do not agree on.

Gao et al. (2023), https://arxiv.org/abs/2210.10760, on a CPU in a quarter of an hour.
Expected: experiments/results/overoptimization.md.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from overoptimization_learning import (
    keys,
    make_world,
    optimize,
    train_proxy,
)
from overoptimization_report import report
from overoptimization_samples import Pairs, Pool, draw_pairs, draw_pool
from overoptimization_settings import Experiment
from overoptimization_world import Proxy, World, draw, gold_reward, qualities, score

from rljax.base import Params
from rljax.commands.launch import launch
from rljax.commands.training import files_sha256
from rljax.numerics.compiler import Stopwatch
from rljax.numerics.processes import is_main
from rljax.report.plots import require_matplotlib
from rljax.rlhf import RewardModel, selection
from rljax.rlhf.models.reward_model import stack_ensemble
from rljax.rlhf.policy.rewards import Ensemble, ensemble_reward
from rljax.training.files import dumps, read_json, write_atomically
from rljax.training.loggers import log_line
from rljax.training.run_folder import RunFolder

NUM_SHOWN = 5  # samples of each policy that are kept


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the result follows from: flags, and what is in the file that they name."""

    flags: Any
    data_sha256: str | None


def main(experiment: Experiment) -> dict[str, Any]:
    """Runs the study, or goes on with it, and returns the headline figures."""
    out = experiment.run.out
    if out is None:
        raise ValueError("the study needs a folder, got out=None. Name one with --out.")
    data = files_sha256([experiment.data]) if experiment.data else None
    settings = Settings(experiment, data)
    with RunFolder("overoptimization", settings, experiment.run) as folder:
        if folder.result is not None:
            return folder.result
        require_matplotlib()
        world = make_world(experiment)
        stopwatch = Stopwatch()
        learned, tested = draw_pairs(experiment, world)
        pool = draw_pool(experiment, world)
        seconds = [seconds_of(stopwatch)]
        proxies = {
            f"{count} pairs": train_proxies(experiment, world, count, learned)
            for count in experiment.num_preferences
        }
        proxies["ensemble"] = make_ensemble(experiment, world, pool, proxies)
        accuracy = {"gold": tested.accuracy(tested.gold.ravel())} | {
            name: [tested.accuracy(score(one, tested.samples)) for one in some]
            for name, some in proxies.items()
        }
        curves = []
        for name, some in proxies.items():
            log_line(f"{name}: agrees with the judge {accuracy[name]}")
            for seed, proxy in enumerate(some[: experiment.num_seeds]):
                scores = experiment.temperature * score(proxy, pool.drawn.samples)
                about = {"proxy": name, "seed": seed}
                chosen = best_of_n(experiment, pool, scores)
                curves.append({"method": "best_of_n", **about, "points": chosen})
                points = optimized(experiment, world, pool, scores, proxy, about)
                curves.append({"method": "optimization", **about, "points": points})
        if is_main():
            write_atomically(out / "curves.json", dumps(curves, indent=1) + "\n")
        figures = {"pair_accuracy": accuracy, **report(out, curves)}
        results = out.glob("*/result.json")
        seconds += [read_json(path) for path in sorted(results)]
        totals = {name: sum(x[name] for x in seconds) for name in seconds[0]}
        updates = experiment.num_updates * len(curves) // 2
        totals["completions"] = updates * experiment.num_samples
        return folder.finish(figures, totals, unit="completions")


def seconds_of(stopwatch: Stopwatch) -> dict[str, float]:
    """Returns the seconds that went by, compiling and the others."""
    names = "seconds_run", "seconds_compile"
    return {name: getattr(stopwatch, name) for name in names}


def train_proxies(
    experiment: Experiment, world: World, count: int, pairs: Pairs
) -> list[Proxy]:
    """Returns proxies that learn from so many pairs each, and from other judgements."""
    judges = keys(experiment, "judges", experiment.num_members)
    return [
        train_proxy(experiment, world, f"proxy_{count}_{i}", pairs.judged(key, count))
        for i, key in enumerate(judges)
    ]


def make_ensemble(
    experiment: Experiment, world: World, pool: Pool, proxies: dict[str, list[Proxy]]
) -> list[Proxy]:
    """Returns, for each seed, the same ensemble, of the middle number of pairs."""
    count = experiment.num_preferences[len(experiment.num_preferences) // 2]
    members = proxies[f"{count} pairs"]
    centres = [score(member, pool.drawn.samples).mean() for member in members]
    reward = ensemble_reward(RewardModel(world.module.config), "lower")
    variables = stack_ensemble([member.params for member in members])
    params = Ensemble(variables, jnp.array(centres), experiment.penalty)
    return [Proxy(reward, params)] * experiment.num_seeds


def best_of_n(
    experiment: Experiment, pool: Pool, scores: np.ndarray
) -> list[dict[str, float]]:
    """Returns the gains of best of 1, 2, 4 and so on, and what else becomes of the texts."""
    by, gold = (x.reshape(-1, experiment.best_of) for x in (scores, pool.gold))
    gains = {
        name: selection.best_of_n_means(by, worth).mean(axis=0) - worth.mean()
        for name, worth in (("gold", gold), ("proxy", by))
    }
    points = []
    for n in 2 ** np.arange(int(np.log2(experiment.best_of)) + 1):
        best = selection.best_of_n(by[:, :n])
        place = np.arange(len(by)) * experiment.best_of + best
        points.append(
            {
                "n": int(n),
                "distance": float(np.sqrt(selection.best_of_n_kl_bound(n))),
                **{name: float(values[n - 1]) for name, values in gains.items()},
                **qualities(
                    [pool.texts[i] for i in place],
                    np.asarray(pool.drawn.samples.num_learned)[place],
                    np.asarray(pool.drawn.judge_loss)[place],
                ),
            }
        )
    return points


def optimized(
    experiment: Experiment,
    world: World,
    pool: Pool,
    scores: np.ndarray,
    proxy: Proxy,
    about: dict[str, Any],
) -> list[dict[str, float]]:
    """Returns what becomes of a policy that is optimized for a proxy.

    Args:
        experiment: sizes and numbers.
        world: of the policy.
        pool: of completions before.
        scores: `[P N]`, their proxy rewards.
        proxy: the reward.
        about: the name of the proxy, and the seed.
    """
    name = f"policy_{about['proxy']}_{about['seed']}".replace(" ", "_")

    def measure(params: Params, updates: int) -> dict[str, float]:
        (key,) = keys(experiment, "held out", 1)  # the same noise for all
        drawn = draw(world, params, world.corpus.held_out, key)
        texts = world.corpus.texts(drawn.samples.completions)
        gold = gold_reward(texts)
        found = experiment.temperature * score(proxy, drawn.samples)  # in gold's points
        prompts = world.corpus.texts(world.corpus.held_out)
        columns = prompts, texts, gold.tolist(), (found - scores.mean()).tolist()
        shown = list(zip(*(column[:NUM_SHOWN] for column in columns), strict=True))
        path = Path(experiment.run.out or "") / name / f"samples_{updates:06d}.json"
        if is_main():
            write_atomically(path, dumps(shown) + "\n")
        return {
            "distance": float(np.sqrt(max(float(drawn.log_ratio.mean()), 0.0))),
            "gold": float(gold.mean() - pool.gold.mean()),
            "proxy": float(found.mean() - scores.mean()),
            **qualities(texts, drawn.samples.num_learned, drawn.judge_loss),
        }

    return optimize(experiment, world, proxy, name, measure)


if __name__ == "__main__":
    launch(main, Experiment, __doc__)
