"""A run of RLHF as one self-contained HTML page: its curves, its figures, its texts."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rljax.numerics.validation import check_name
from rljax.report.pages import TradeOff, short, trade_off_data
from rljax.report.replay import fill_template
from rljax.rlhf.data.tokenizer import Tokenizer, token_texts
from rljax.rlhf.policy import Samples
from rljax.sweeps.results import Results
from rljax.training.files import write_atomically

# The metrics with a chart, and what they are of.
_CURVES = (
    ("reward", "reward of a completion"),
    ("gold", "gold reward of a completion"),
    ("held_out", "on held-out prompts"),
    ("kl", "KL(policy, reference), nats a completion"),
    ("completion_tokens", "length, tokens a completion"),
    ("entropy", "entropy, nats a token"),
)
_LEAST_RANGE = 0.1  # nats; what is less is rounding or noise, and stays pale


class ShownCompletion(NamedTuple):
    """A completion, its tokens' texts, and each token's log-ratio.

    Attributes:
        prompt: its text.
        tokens: the completion's text in pieces, one for each token; may be empty ones.
        log_ratios: log pi - log pi_ref of each token, in nats.
        figures: such as `{"reward": 0.3, "gold": 0.7}`.
    """

    prompt: str
    tokens: Sequence[str]
    log_ratios: Sequence[float]
    figures: Mapping[str, float]


def shown_completions(
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    samples: Samples,
    figures: Mapping[str, Any],
) -> list[ShownCompletion]:
    """Returns the first completions of samples, one for each of the prompts, to be shown.

    Args:
        tokenizer: the policy's.
        prompts: texts of the samples' prompts; as many are shown.
        samples: with log-probabilities under the policy and the reference.
        figures: by name one number for each of the samples.
    """
    ratios = np.asarray(samples.log_probs - samples.reference_log_probs)
    completions, counts = map(np.asarray, (samples.completions, samples.num_learned))
    shown = []
    for i, prompt in enumerate(prompts):
        tokens = token_texts(tokenizer, completions[i, : counts[i]].tolist())
        of_one = {name: np.asarray(x)[i].item() for name, x in figures.items()}
        shown.append(
            ShownCompletion(prompt, tokens, ratios[i, : counts[i]].tolist(), of_one)
        )
    return shown


def save_rlhf_page(
    path: Path | str,
    *,
    title: str,
    command: str,
    versions: Mapping[str, str],
    figures: Mapping[str, Any],
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    unit: str,
    before: Sequence[ShownCompletion] = (),
    after: Sequence[ShownCompletion] = (),
    stages: Sequence[Mapping[str, Any]] = (),
    frontier: TradeOff | None = None,
    frontier_results: Results | None = None,
) -> None:
    """Writes a run's curves, figures, stages and completions as one page.

    Of the metrics those are drawn that the rows have: reward, gold, held_out, kl (nats a
    completion), completion_tokens, entropy (nats a token). A figure that is None or NaN is
    shown as "-"; a point of a curve that is one, as a gap.

    Args:
        path: where to write it.
        title: of the page.
        command: the command line that made it.
        versions: of packages, by name.
        figures: the headline's, by name: numbers, lists of them, or words.
        curves: the rows of each run's `metrics.jsonl`, by the run's name.
        unit: the rows' key along the horizontal axis, such as "completions".
        before: completions of the policy before training.
        after: completions of the learned policy, of the same prompts in the same order.
        stages: rows of a table, such as a recipe's stages; their keys are its columns.
        frontier: a chart of one metric over another, of the runs of a sweep.
        frontier_results: the sweep's.

    Raises:
        ValueError: a row lacks the unit or has a metric that is no number, the prompts
            before and after differ, tokens and log-ratios differ in number, or there is
            one without the other of the frontier and its results.
    """
    _check_completions(before, after)
    columns = list(dict.fromkeys(itertools.chain.from_iterable(stages)))
    data = {
        "unit": unit.replace("_", " "),
        "figures": _named(figures),
        "runs": list(curves),
        "curves": list(_curves(curves, unit)),
        "columns": [name.replace("_", " ") for name in columns],
        "stages": [[_words(row.get(name)) for name in columns] for row in stages],
        "range": _range(after),
        "samples": [
            {"prompt": pair[0].prompt, "completions": list(map(_completion, pair))}
            for pair in zip(before, after, strict=True)
        ],
        "frontier": _frontier(frontier, frontier_results),
        "command": command,
        "versions": list(versions.items()),
    }
    write_atomically(path, fill_template("rlhf.html", title, data))


def _check_completions(
    before: Sequence[ShownCompletion], after: Sequence[ShownCompletion]
) -> None:
    if len(before) != len(after):
        raise ValueError(
            f"completions before and after must be of the same prompts, got "
            f"{len(before)} before and {len(after)} after. Show both policies the same."
        )
    for i, (first, second) in enumerate(zip(before, after, strict=True)):
        if first.prompt != second.prompt:
            raise ValueError(
                f"completions before and after must be of the same prompts, in the same "
                f"order, got {first.prompt!r} and {second.prompt!r} at {i}. Sort them."
            )
        for one in (first, second):
            if len(one.tokens) != len(one.log_ratios):
                raise ValueError(
                    f"a completion must have a log-ratio for each token, got "
                    f"{len(one.tokens)} tokens and {len(one.log_ratios)} log-ratios at "
                    f"{i}. Leave out what is not of the completion."
                )


def _curves(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], unit: str
) -> Iterator[dict[str, Any]]:
    """Of each metric that a run has: its label, and each run's points (x, y)."""
    for name, rows in curves.items():
        for i, row in enumerate(rows):
            check_name(unit, list(row), f"row {i} of {name!r}")
    for metric, label in _CURVES:
        lines = [
            [
                (_number(unit, row[unit]), _number(metric, row[metric]))
                for row in rows
                if metric in row
            ]
            for rows in curves.values()
        ]
        if any(math.isfinite(y) for line in lines for _, y in line):
            yield {"name": metric, "label": label, "lines": lines}


def _number(name: str, value: Any) -> float:
    """Returns a number of a row; NaN for None."""
    if isinstance(value, str) or np.ndim(value):
        raise ValueError(
            f"{name} in a row of a run must be a number, got {value!r}. Give the rows of "
            f"a single run."
        )
    return short(math.nan if value is None else value)


def _frontier(
    frontier: TradeOff | None, results: Results | None
) -> dict[str, Any] | None:
    """The chart's data, and of each configuration, the best first: rank and label."""
    if frontier is None and results is None:
        return None
    if frontier is None or results is None:
        missing = "frontier" if frontier is None else "frontier_results"
        raise ValueError(
            f"a frontier is drawn from the results of a sweep, got no {missing}. Give "
            f"both, or neither."
        )
    rows = [
        {"rank": rank, "label": results.label(index)}
        for rank, index in enumerate(results.ranking(), 1)
    ]
    return trade_off_data(frontier, results) | {"rows": rows}


def _completion(shown: ShownCompletion) -> dict[str, Any]:
    return {
        "tokens": list(shown.tokens),
        "log_ratios": list(map(short, shown.log_ratios)),
        "figures": _named(shown.figures),
    }


def _range(completions: Sequence[ShownCompletion]) -> float:
    """Returns where colors are strongest: 19 of 20 log-ratios are nearer to 0.

    It is 1, 2 or 5 times a power of ten, so that the legend has round numbers.
    """
    sizes = np.abs([x for one in completions for x in one.log_ratios])
    sizes = sizes[np.isfinite(sizes)]
    least = max(np.quantile(sizes, 0.95) if len(sizes) else 1.0, _LEAST_RANGE)
    power = 10 ** math.floor(math.log10(least))
    return short(next(x * power for x in (1, 2, 5, 10) if x * power >= 0.999 * least))


def _named(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), _words(x)) for name, x in figures.items()]


def _words(value: Any) -> str:
    """Returns a figure as it is shown: four digits or all before the point."""
    if hasattr(value, "__array__"):
        value = np.asarray(value).tolist()
    match value:
        case list() | tuple():
            return ", ".join(map(_words, value))
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}"
        case float() if math.isfinite(value):
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case None | float():
            return "-"
    return str(value)
