"""Rewards that are functions of texts, on the host: a list of prompts and of completions.

    def reward(prompts: list[str], completions: list[str]) -> list[float]

Any such function will do, slow ones too: none of it is compiled.
"""

import ast
import json
import operator
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rljax.training.files import RunError, dumps, one_line, write_atomically

TextReward = Callable[[list[str], list[str]], Sequence[float]]


def exact_match(wanted: Mapping[str, str]) -> TextReward:
    """Returns the reward 1 for the completion wanted of a prompt, but for spaces around it.

    Args:
        wanted: the completion of each prompt.

    Example:
        >>> exact_match({"2 + 2 =": "4"})(["2 + 2 =", "2 + 2 ="], [" 4", "5"])
        [1.0, 0.0]
    """

    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        return [float(text.strip() == wanted[prompt].strip()) for prompt, text in pairs]

    return reward


def matches(pattern: str) -> TextReward:
    """Returns the reward 1 for completions in which a regular expression is found.

    Example:
        >>> matches("^ *yes")(["?", "?"], [" yes, since noon", "no"])
        [1.0, 0.0]
    """
    compiled = re.compile(pattern)

    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        del prompts
        return [float(compiled.search(text) is not None) for text in completions]

    return reward


def arithmetic(prompts: list[str], completions: list[str]) -> list[float]:
    """Returns 1 where a completion begins with the value of its prompt's expression.

    The expression is the last one in the prompt, of integers, + - * // % and parentheses.

    Example:
        >>> arithmetic(["What is (2 + 3) * 4? ", "7 - 9 ="], ["20.", "2"])
        [1.0, 0.0]
    """
    pairs = zip(prompts, completions, strict=True)
    return [float(_first_integer(text) == _value(prompt)) for prompt, text in pairs]


def weighted_texts(weights: Mapping[TextReward, float]) -> TextReward:
    """Returns the sum of rewards times their weights.

    Example:
        >>> weighted_texts({matches("a"): 2.0, matches("b"): -1.0})(["", ""], ["a", "ab"])
        [2.0, 1.0]
    """

    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        columns = [
            weight * _scores(part, prompts, completions)
            for part, weight in weights.items()
        ]
        return [float(total) for total in np.sum(columns, axis=0)]

    return reward


def checked_scores(
    reward: TextReward,
    prompts: list[str],
    completions: list[str],
    folder: Path | None,
) -> np.ndarray:
    """Returns `[N]` float32 scores of completions, one each, all finite.

    Args:
        reward: the function.
        prompts: N of them.
        completions: of these.
        folder: where the completions are kept if it fails; None keeps none.

    Raises:
        RunError: it raised something, or returned what is no list of N finite numbers.
    """
    try:
        return _scores(reward, prompts, completions)
    except RewardError as error:
        kept = "The completions were not kept: give a folder to keep them."
        if folder is not None:
            path = folder / f"unscored-{secrets.token_hex(4)}.jsonl"
            numbers = [None] * len(completions)
            if error.scores is not None:
                numbers = error.scores.tolist()
            rows = zip(prompts, completions, numbers, strict=True)
            names = ("prompt", "completion", "score")
            text = "".join(
                json.dumps(json.loads(dumps(dict(zip(names, row, strict=True))))) + "\n"
                for row in rows
            )
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
            kept = f"What was sampled is kept in {path}."
        raise RunError(
            f"the reward function {error}; it must return one finite number for each "
            f"completion. {kept} The run goes on from its last checkpoint."
        ) from error.__cause__


class RewardError(Exception):
    """A reward of texts has failed; `scores` is what it returned, if that was numbers."""

    def __init__(self, reason: str, scores: np.ndarray | None = None):
        Exception.__init__(self, reason)
        self.scores = scores


def _scores(
    reward: TextReward, prompts: list[str], completions: list[str]
) -> np.ndarray:
    """Returns `[N]` float32 scores; raises a RewardError, which names the function."""
    name = getattr(reward, "__qualname__", type(reward).__name__)
    try:
        returned = reward(list(prompts), list(completions))
    except RewardError:  # of a part of it
        raise
    except Exception as error:
        reason = f"{name} raised {type(error).__name__}: {one_line(error)}"
        raise RewardError(reason) from error
    try:
        with np.errstate(over="ignore"):  # which is infinite, and refused
            scores = np.asarray(returned, np.float64).astype(np.float32)
    except (TypeError, ValueError):
        kind = type(returned).__name__
        raise RewardError(f"{name} returned {kind} that holds no numbers") from None
    if scores.shape != (len(completions),):
        shapes = f"the shape {scores.shape} for {len(completions)} completions"
        raise RewardError(f"{name} returned {shapes}")
    if not np.isfinite(scores).all():
        first = int(np.argmin(np.isfinite(scores)))
        raise RewardError(
            f"{name} returned {returned[first]} for completion {first}", scores
        )
    return scores


OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _value(prompt: str) -> int:
    """Returns the value of the last expression in a text."""
    if re.search(r"\d[.,]\d", prompt):
        raise ValueError(
            f"numbers must be whole, without separators, got the prompt {prompt!r}"
        )
    found = re.findall(r"(?:[-(][-(\s]*)?\d[\d\s+\-*/%()]*", prompt)
    if not found:
        raise ValueError(f"there is no expression in the prompt {prompt!r}")
    text = found[-1].strip()
    try:
        return _evaluate(ast.parse(text, mode="eval").body)
    except (SyntaxError, ZeroDivisionError) as error:
        raise ValueError(f"{text!r} in the prompt {prompt!r} has no value") from error


def _evaluate(node: ast.expr) -> int:
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand)
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    raise SyntaxError("only integers, + - * // % and parentheses")


def _first_integer(text: str) -> int | None:
    found = re.match(r"\s*(-?\d+)(?!\d|[.,]\d)", text)
    return None if found is None else int(found[1])
