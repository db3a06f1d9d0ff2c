"""What the command `rljax rlhf` reports: two policies on the same held-out prompts."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rljax.commands.rlhf import Rlhf
from rljax.commands.rlhf_prompts import Prompts
from rljax.report.rlhf_page import (
    ShownCompletion,
    save_rlhf_page,
    shown_completions,
)
from rljax.rlhf.data.tokenizer import Tokenizer
from rljax.rlhf.evaluation import win_rate
from rljax.rlhf.policy import Samples
from rljax.rlhf.policy.held_out import divergences
from rljax.training.run_folder import RunFolder

_NUM_SHOWN = 10


class Judged(NamedTuple):
    """Completions of M held-out prompts.

    Attributes:
        samples: with log-probabilities under the policy and the reference.
        texts: of the completions.
        scores: `[M]`, of the reward model.
    """

    samples: Samples
    texts: list[str]
    scores: np.ndarray


def figures_of(before: Judged, after: Judged) -> dict[str, Any]:
    """Returns the headline figures of a policy before and after training.

    `win_rate` is the share of prompts whose completion after training has the higher
    score, a tie one half; `kl` is in nats of a completion.
    """
    wins = win_rate(after.scores, before.scores)
    figures: dict[str, Any] = {
        "held_out_prompts": wins.num_pairs,
        "proxy_before": before.scores.mean(dtype=np.float64),
        "proxy_after": after.scores.mean(dtype=np.float64),
        "win_rate": wins.share,
        "win_rate_ci95": wins.interval,
        "kl": np.asarray(divergences(after.samples)).mean(dtype=np.float64),
    }
    for name, one in (("before", before), ("after", after)):
        figures |= {
            f"completion_tokens_{name}": np.asarray(one.samples.num_learned).mean(),
            f"stopped_{name}": np.asarray(one.samples.stopped).mean(),
        }
    return figures


def save_page(
    command: Rlhf,
    folder: RunFolder,
    rows: Sequence[dict[str, Any]],
    figures: dict[str, Any],
    judged: tuple[Judged, Judged],
    held_out: Prompts,
    tokenizer: Tokenizer,
) -> None:
    """Writes curves, figures, and the completions of a few prompts before and after."""
    before, after = (_shown(one, held_out, tokenizer) for one in judged)
    save_rlhf_page(
        Path(str(folder.path)) / "rlhf.html",
        title=f"{command.policy.name} by {command.recipe}",
        command=shlex.join(["rljax", *sys.argv[1:]]),
        versions=folder.manifest["versions"],
        figures=figures,
        curves={command.recipe: rows},
        unit="completions",
        before=before,
        after=after,
    )


def _shown(
    judged: Judged, held_out: Prompts, tokenizer: Tokenizer
) -> list[ShownCompletion]:
    prompts = [_prompt_text(pair.prompt) for pair in held_out.pairs[:_NUM_SHOWN]]
    samples = judged.samples
    figures = {"reward": judged.scores, "tokens": samples.num_learned}
    return shown_completions(tokenizer, prompts, samples, figures)


def _prompt_text(prompt: Any) -> str:
    """Returns a prompt as text, of a chat each message with its role."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{one['role']}: {_content(one)}" for one in prompt)


def _content(message: Any) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else str(content or "")
