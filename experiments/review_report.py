"""What is measured of completions of review prompts, and shown of them."""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import review_reward
import sentiment

from rljax.base import Params
from rljax.numerics.processes import is_main
from rljax.report.rlhf_page import (
    ShownCompletion,
    save_rlhf_page,
    shown_completions,
)
from rljax.rlhf.data.rows import Completions
from rljax.rlhf.direct.reference import row_log_probs
from rljax.rlhf.evaluation import distinct_n, win_rate
from rljax.rlhf.models import Transformer
from rljax.rlhf.policy import Samples
from rljax.rlhf.policy.held_out import divergences
from rljax.rlhf.policy.text_training import completion_texts
from rljax.rlhf.recipes.stages import Stages
from rljax.training.files import dumps, read_json, write_atomically
from rljax.training.loggers import log_line, read_rows

NUM_SHOWN = 10


def log_likelihoods(
    module: Transformer, params: Params, rows: Completions
) -> np.ndarray:
    """Returns `[N]`, each completion's mean log-probability of a token, in nats."""
    return row_log_probs(module, params, rows) / np.asarray(rows.num_learned)


def measure(
    path: Path,
    judge: review_reward.Judge,
    prompts: Sequence[str],
    samples: Samples,
    stop_ids: tuple[int, ...],
    proxy: np.ndarray,
) -> dict[str, Any]:
    """Returns measures `[M]` of completions, and writes them with their texts to a file.

    Args:
        path: of the file.
        judge: the pretrained model, for perplexities.
        prompts: M.
        samples: with log-probabilities under the policy and the reference.
        stop_ids: tokens that end a completion.
        proxy: `[M]`, the learned reward of each.
    """
    tokenizer = judge.tokenizer
    texts = completion_texts(tokenizer, samples, stop_ids)
    rows = Completions(samples.ids, samples.lengths, samples.starts)
    measures: dict[str, Any] = {
        "gold": sentiment.vader(texts),
        "proxy": proxy,
        "afinn": sentiment.afinn(texts),
        "kl": np.asarray(divergences(samples), np.float64),
        "tokens": np.asarray(samples.num_learned),
        "stopped": np.asarray(samples.stopped, np.float64),
        "pretrained_log_prob": row_log_probs(judge.module, judge.params, rows),
        "distinct_2": distinct_n(texts, 2),
    }
    judged = {name: measures[name] for name in ("gold", "proxy", "afinn")}
    shown = shown_completions(tokenizer, prompts, samples, judged)
    lines = [
        dumps(
            {
                "prompt": one.prompt,
                "completion": text,
                "tokens": one.tokens,
                "log_ratios": one.log_ratios,
                **one.figures,
            }
        )
        for one, text in zip(shown, texts, strict=True)
    ]
    if is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "\n".join(lines) + "\n")
    return measures


def compare(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Returns the headline figures of one run."""
    figures: dict[str, Any] = {}
    for name in ("gold", "proxy", "afinn"):
        spread = before[name].std(ddof=1) or np.nan  # where all are the same
        wins = win_rate(after[name], before[name])
        figures |= {
            f"{name}_before": before[name].mean(),
            f"{name}_after": after[name].mean(),
            f"{name}_rise_in_sd": (after[name].mean() - before[name].mean()) / spread,
            f"{name}_win_rate": wins.share,
            f"{name}_win_rate_ci95": wins.interval,
        }
    figures["kl"] = after["kl"].mean()
    figures["kl_standard_error"] = after["kl"].std(ddof=1) / len(after["kl"]) ** 0.5
    for name, measures in (("before", before), ("after", after)):
        nats = -measures["pretrained_log_prob"].sum() / measures["tokens"].sum()
        figures |= {
            f"perplexity_{name}": np.exp(nats),
            f"distinct_2_{name}": measures["distinct_2"],
            f"tokens_{name}": measures["tokens"].mean(),
            f"stopped_{name}": measures["stopped"].mean(),
        }
    return {name: _plain(value) for name, value in figures.items()}


def finish(folder: Path, stages: Stages) -> dict[str, Any]:
    """Returns a run's figures; prints ten completions, and writes the run's page."""
    before, after = (stages.measured[name] for name in ("before", "policy"))
    figures = compare(before, after)
    shown = [_shown(folder / f"{name}.jsonl") for name in ("before", "after")]
    for first, second in zip(*shown, strict=True):
        log_line(first["prompt"])
        for name, row in (("before", first), ("after", second)):
            log_line(f"  {name:6} {row['gold']:+.2f} {row['completion'].strip()!r}")
    rows = [{k: row.get(k) for k in COLUMNS} for row in stages.table]
    metrics = read_rows(folder / "policy" / "metrics.jsonl", 2**31)
    if is_main():
        save_rlhf_page(
            folder / "rlhf.html",
            title=f"InstructGPT's steps, {folder.name}",
            command=shlex.join(["python", *sys.argv]),
            versions=read_json(folder / "policy" / "manifest.json")["versions"],
            figures=figures,
            curves={folder.name: metrics},
            unit="completions",
            before=list(map(_completion, shown[0])),
            after=list(map(_completion, shown[1])),
            stages=rows,
        )
    return {"stages": rows, "figures": figures, "rows": metrics[-1]}


def headline(runs: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns figures of all runs, a list of each, and what they took."""
    figures: dict[str, Any] = {
        name: [run["figures"][name] for run in runs] for name in runs[0]["figures"]
    }
    for name in ("win_rate", "win_rate_ci95"):
        figures[name] = figures[f"gold_{name}"]
    figures["stages"] = [run["stages"] for run in runs]
    figures["seconds_each"] = [
        sum(row["seconds_run"] + row["seconds_compile"] for row in run["stages"])
        for run in runs
    ]
    totals = {
        "completions": sum(run["rows"]["completions"] for run in runs),
        **{
            name: sum(row[name] for run in runs for row in run["stages"])
            for name in ("seconds_run", "seconds_compile")
        },
    }
    return figures, totals


COLUMNS = ("stage", "improves", "before", "after", "difference", "interval", "kl", "seconds_run", "seconds_compile")  # fmt: skip


def _shown(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:NUM_SHOWN]]


def _completion(row: dict[str, Any]) -> ShownCompletion:
    figures = {name: row[name] for name in ("gold", "proxy", "afinn")}
    return ShownCompletion(row["prompt"], row["tokens"], row["log_ratios"], figures)


def _plain(value: Any) -> Any:
    return list(map(float, value)) if isinstance(value, tuple) else float(value)
