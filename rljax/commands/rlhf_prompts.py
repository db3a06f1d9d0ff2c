"""The prompts of the command `rljax rlhf`: read, encoded, and some of them held out."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rljax.commands.rlhf import Rlhf
from rljax.commands.rlhf_reward import Reader
from rljax.rlhf.data.datasets import read_prompts
from rljax.rlhf.data.encoding import EncodingError, encode_prompts, not_embedded
from rljax.rlhf.data.forms import Columns
from rljax.rlhf.data.pairs import Pair
from rljax.rlhf.data.rows import left_padded
from rljax.training.files import RunError, one_line
from rljax.training.loggers import log_line

_MOST_HELD_OUT = 256

Found = dict[tuple[int, ...], Pair]
"""Different prompts, by their tokens."""


class Prompts(NamedTuple):
    """M different prompts.

    Attributes:
        pairs: each with an empty completion.
        ids: `[M, P]` int32, padded on the left.
        lengths: `[M]` int32.
    """

    pairs: list[Pair]
    ids: np.ndarray
    lengths: np.ndarray


def read_and_split(
    command: Rlhf, policy: Reader, judge: Reader
) -> tuple[Prompts, Prompts]:
    """Returns the prompts to learn from and those held out, none of which is in both.

    Args:
        command: names the files, and how long prompts may be.
        policy: completes them.
        judge: reads them with their completions.

    Raises:
        RunError: there are none or too few, or one cannot be completed or judged.
    """
    found = _read(command, command.prompts, policy, judge)
    if command.eval is not None:
        held_out = _read(command, command.eval, policy, judge)
        learned_from = {ids: pair for ids, pair in found.items() if ids not in held_out}
        if both := len(found) - len(learned_from):
            log_line(f"{both:,} prompts of --eval are in --prompts: left out there")
    else:
        order = np.random.default_rng(command.seed).permutation(len(found))
        count = max(1, min(len(order) // 10, _MOST_HELD_OUT))
        places = set(order[:count].tolist())
        held_out = _some(found, [i in places for i in range(len(found))])
        learned_from = _some(found, [i not in places for i in range(len(found))])
    if len(learned_from) < command.num_prompts or not held_out:
        raise RunError(
            f"an update needs {command.num_prompts} different prompts and a comparison "
            f"one held out, got {len(learned_from)} and {len(held_out)} from "
            f"{command.prompts}. Give more, or lower --num-prompts."
        )
    log_line(f"prompts: {len(learned_from):,}, and {len(held_out):,} held out")
    width = max(map(len, [*learned_from, *held_out]))
    return _prompts(learned_from, width), _prompts(held_out, width)


def _read(command: Rlhf, path: Path, policy: Reader, judge: Reader) -> Found:
    records = read_prompts(
        path,
        columns=Columns(prompt=command.prompt_column),
        skip_bad=command.skip_bad,
    )
    rows = list(records.with_places())
    if not rows:
        raise RunError(f"{path} must hold prompts, got none. Give a file that does.")
    pairs = [pair for _, pair in rows]
    encoded = encode_prompts(policy.tokenizer, pairs, policy.encoding)
    judged = encode_prompts(judge.tokenizer, pairs, judge.encoding)
    found, bad = Found(), [records.first_bad] if records.num_bad else []
    num_bad = records.num_bad
    for (place, pair), ids, theirs in zip(rows, encoded, judged, strict=True):
        reason = _fault(ids, policy, command.max_new_tokens)
        if isinstance(theirs, EncodingError):
            reason = reason or f"the reward model cannot read it: {one_line(theirs)}"
        if reason is None and not isinstance(ids, EncodingError):
            found.setdefault(tuple(ids), pair)
        elif command.skip_bad:
            bad, num_bad = [*bad, f"{place}: {reason}"], num_bad + 1
        else:
            raise RunError(f"{place}: {reason}. Or pass over such with --skip-bad.")
    if num_bad:
        log_line(f"warning: {num_bad:,} prompts passed over, first {bad[0]}")
    if repeated := len(rows) - (num_bad - records.num_bad) - len(found):
        log_line(f"{repeated:,} repeated prompts in {path}: each is taken once")
    return found


def _fault(
    ids: list[int] | EncodingError, policy: Reader, max_new_tokens: int
) -> str | None:
    """Returns why a prompt cannot be completed, or None."""
    if isinstance(ids, EncodingError):
        return one_line(ids)
    if error := not_embedded(ids, policy.vocab_size):
        return one_line(error)
    context = policy.encoding.max_length
    if len(ids) + max_new_tokens > context:
        return (
            f"the prompt has {len(ids)} tokens, and beside {max_new_tokens} new ones the "
            f"policy's context of {context} holds {context - max_new_tokens}. Shorten it, "
            f"or lower --max-new-tokens"
        )
    return None


def _some(found: Found, chosen: Sequence[bool]) -> Found:
    pairs = zip(found.items(), chosen, strict=True)
    return {ids: pair for (ids, pair), is_in in pairs if is_in}


def _prompts(found: Found, width: int) -> Prompts:
    return Prompts(list(found.values()), *left_padded(list(found), width))
