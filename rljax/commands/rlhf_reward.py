"""How a reward model reads completions: the policy's tokens, or else their texts.

What it gives is what `rljax score` gives of the same texts. Tokens are read within the
compiled update, which spares a policy and a reward model of one tokenizer the way over
text. That is the same only where a completion's text has the tokens that were sampled: a
special token, say, or half of a character, is lost in text, and a policy could learn to
please the reward model with those alone.
"""

import datetime
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.rlhf.data.chat import ChatError, as_messages, write_chat, write_prompt
from rljax.rlhf.data.encoding import EncodingConfig, encoding_config
from rljax.rlhf.data.pairs import Pair
from rljax.rlhf.data.tokenizer import Tokenizer, load_tokenizer
from rljax.rlhf.models import RewardModel
from rljax.rlhf.policy import Samples
from rljax.rlhf.policy.rewards import Reward, TextReward, model_reward
from rljax.rlhf.policy.samples import followed_by
from rljax.rlhf.pretrained import load_reward_model
from rljax.rlhf.scoring import Scorer
from rljax.training.files import FolderError, RunError

# What some templates trim or take apart stands in it.
_PROBE = " <think>a</think> b \n"


class Reader(NamedTuple):
    """A model's way from text to tokens.

    Attributes:
        tokenizer: the model's.
        encoding: how prompts, and completions after them, become tokens.
        vocab_size: tokens that the model embeds.
    """

    tokenizer: Tokenizer
    encoding: EncodingConfig
    vocab_size: int


class Judge(NamedTuple):
    """A reward model.

    Attributes:
        module: the model.
        variables: its variables.
        reader: how prompts and completions become its tokens.
        of_texts: the reward of texts; the prompts that it is called with are `Pair`s.
    """

    module: RewardModel
    variables: Any
    reader: Reader
    of_texts: TextReward


def load_judge(folder: Path, label: str | None, date: datetime.date) -> Judge:
    """Returns the reward model in a folder, which reads as `rljax score` does.

    Empty completions are read, too: a policy may stop at once.

    Args:
        folder: as transformers writes it, or `rljax reward`.
        label: which of several scores.
        date: what the chat template takes for today.

    Raises:
        RunError: there is no reward model.
    """
    try:
        module, variables = load_reward_model(folder, label=label)
    except FolderError as error:
        raise RunError(
            f"--reward must be the folder of a reward model: {error}"
        ) from error
    tokenizer = load_tokenizer(folder)
    encoding = encoding_config(
        tokenizer,
        max_length=module.config.max_length,
        date=date,
        pad_id=module.pad_id,
        allow_empty=True,
    )
    scorer = Scorer(module, variables, tokenizer, encoding)
    reader = Reader(tokenizer, encoding, module.config.vocab_size)
    return Judge(module, variables, reader, _reward_of_texts(scorer))


def _reward_of_texts(scorer: Scorer) -> TextReward:
    def reward_model(prompts: list[Any], completions: list[str]) -> list[float]:
        pairs = zip(prompts, completions, strict=True)
        examples = [pair._replace(completion=text) for pair, text in pairs]
        return scorer.score(examples).tolist()

    return reward_model


def closing_tokens(
    policy: Reader,
    judge: Judge,
    stop_ids: tuple[int, ...],
    prompts: Sequence[Pair],
    longest: int,
) -> tuple[int, ...] | str:
    """Returns the tokens that follow a completion's text in what a reward model reads.

    Or else the reason why it cannot read the policy's tokens with these after them.

    Args:
        policy: what has written the tokens.
        judge: what is to read them.
        stop_ids: tokens that end a policy's completion.
        prompts: some, to try the chat template on.
        longest: tokens of the longest prompt and completion together.
    """
    theirs = judge.reader
    if policy.tokenizer.fingerprint != theirs.tokenizer.fingerprint:
        return "it has another tokenizer"
    if policy.vocab_size > theirs.vocab_size:
        return f"it embeds {theirs.vocab_size:,} of {policy.vocab_size:,} tokens"
    if policy.encoding.template != theirs.encoding.template:
        return "it has another chat template"
    if policy.encoding.begin_ids != theirs.encoding.begin_ids:
        return "its texts begin with other tokens"
    if np.ndim(judge.variables["scale"]["mean"]):
        return "it is an ensemble"
    closing = theirs.encoding.end_ids
    if theirs.encoding.template is not None:
        texts = {_text_after(theirs, prompt) for prompt in prompts}
        if len(texts) > 1 or None in texts:
            return "its chat template changes completions"
        closing = tuple(theirs.tokenizer.encode([str(*texts)])[0].ids)
    if closing and closing[0] not in stop_ids:
        return f"its texts end with token {closing[0]}, where no completion stops"
    if longest + len(closing) > theirs.encoding.max_length:
        return f"its context has {theirs.encoding.max_length:,} tokens"
    return closing


@functools.cache
def closed_reward(
    module: RewardModel, closing: tuple[int, ...], rows_at_once: int | None
) -> Reward:
    """Returns the reward of a reward model that reads a policy's tokens, closed.

    Args:
        module: the reward model; `params` are its variables.
        closing: tokens in the place of the one that a completion stopped with.
        rows_at_once: as for `model_reward`.
    """
    of_rows = model_reward(module, rows_at_once)

    def reward(variables: Any, samples: Samples) -> Any:
        return of_rows(variables, closed(samples, closing, module.pad_id))

    return reward


def closed(samples: Samples, closing: tuple[int, ...], pad_id: int | None) -> Samples:
    """Returns samples whose rows end as texts do that a reward model reads.

    Args:
        samples: N completions, of rows of L tokens.
        closing: K tokens in the place of the stop token, or after what did not stop;
            rows then have L + K.
        pad_id: tokens of this id at a row's end are left out, as `EncodingConfig` has it.
    """
    ends = samples.lengths - samples.stopped  # of the completions' texts
    ids = followed_by(samples.ids, ends, closing)
    places = jnp.arange(ids.shape[1])[None]
    kept = places < ends[:, None] + len(closing)
    if pad_id is not None:
        kept &= ids != pad_id
    lengths = jnp.where(kept, places + 1, 1).max(axis=1)
    return samples.replace(ids=ids, lengths=lengths)


def num_read_otherwise(
    judge: Judge, closing: tuple[int, ...], samples: Samples, scores: np.ndarray
) -> int:
    """Returns of how many completions the tokens have another score than the text.

    Args:
        judge: the reward model.
        closing: as `closing_tokens` returns them.
        samples: N completions.
        scores: `[N]`, of their texts.
    """
    reward = jax.jit(closed_reward(judge.module, closing, rows_at_once=1))
    by_tokens = np.asarray(reward(judge.variables, samples))
    return int((~np.isclose(by_tokens, scores, rtol=1e-3, atol=1e-3)).sum())


def _text_after(reader: Reader, pair: Pair) -> str | None:
    """Returns what a template writes after a completion; None if it changes that."""
    template = reader.encoding.template
    assert template is not None  # checked by the caller
    prompt = as_messages(pair.prompt, "prompt", role="user")
    completion = as_messages(_PROBE, "completion", role="assistant")
    try:
        before = write_prompt(reader.tokenizer, template, prompt, pair.variables)
        whole, _ = write_chat(
            reader.tokenizer, template, prompt, completion, pair.variables
        )
    except ChatError:
        return None
    before += _PROBE
    return whole[len(before) :] if whole.startswith(before) else None
