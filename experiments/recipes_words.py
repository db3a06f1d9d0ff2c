"""What the recipes learn from and are measured by, on words to be written backwards.

The verifiable reward is 1 for the word backwards. The judge, whom the preferences are of,
looks at the share of right letters. The demonstrations are of careless people, who leave
out the last letter of two completions in five: imitation alone learns that, too. Prompts
of the other kind are beginnings of verse: a completion is good that brings the line to its
end soon, but not at once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pretrain_tiny
import word_problems
from word_problems import ANSWER_LENGTH, END, PROMPT_LENGTH

from rljax.base import Params
from rljax.rlhf.data.rows import Completions, left_padded
from rljax.rlhf.models import Transformer
from rljax.rlhf.policy.held_out import divergences, sample_held_out
from rljax.rlhf.policy.rewards import equals_target, share_of_target
from rljax.rlhf.policy.samples import Samples
from rljax.rlhf.recipes import (
    Evaluate,
    InstructGPTData,
    Mixture,
    R1Data,
    RewardedPrompts,
    Tulu3Data,
    reward_by_kind,
)
from rljax.training.files import RunError

NUM_SHOWN = 200  # words that the model has seen solved when it begins
NUM_DEMONSTRATIONS = 500
NUM_WORKED = 300
NUM_OTHER = 200  # pieces of verse to fine-tune on
SHORTEST_END = 3  # letters that come before the end of a line, at least


class Texts(NamedTuple):
    """Words and verse; no held-out word is elsewhere, nor a held-out beginning practised.

    The plays that verse is from are read in pretraining.

    Attributes:
        shown: words that pretraining shows solved.
        demonstrated: words of demonstrations.
        asked: words that are only asked.
        held_out: words to measure by.
        verse: beginnings, to be gone on from.
        held_out_verse: others, to measure by.
        other: pieces of verse to fine-tune on.
    """

    shown: list[str]
    demonstrated: list[str]
    asked: list[str]
    held_out: list[str]
    verse: list[str]
    held_out_verse: list[str]
    other: Completions


def read_texts(num_held_out: int, num_asked: int) -> Texts:
    """Returns words and verse of Shakespeare, half as much verse held out as words.

    Raises:
        RunError: there are fewer words to hold out, or to ask of, than that.
    """
    text = word_problems.read_text()
    most = pretrain_tiny.Experiment.num_held_out
    words = word_problems.split_words(text, NUM_SHOWN, most)
    there_are = len(words.practised) - NUM_DEMONSTRATIONS
    if num_held_out > most or num_asked > there_are:
        raise RunError(
            f"there are {most:,} words to hold out and {there_are:,} to ask of, got "
            f"num_held_out={num_held_out:,} and a recipe that asks of {num_asked:,}. Lower "
            f"num_held_out, or num_sampled."
        )
    lines = [line[:PROMPT_LENGTH] for line in text.splitlines() if len(line) > 30]
    verse = sorted(set(lines))
    verse = [verse[i] for i in np.random.default_rng(1).permutation(len(verse))]
    half = num_held_out // 2
    width = word_problems.LENGTH
    other = word_problems.passages(text[-width * NUM_OTHER :], width)
    return Texts(
        words.shown,
        words.practised[:NUM_DEMONSTRATIONS],
        words.practised[NUM_DEMONSTRATIONS:],
        words.held_out[:num_held_out],
        verse[half:],
        verse[:half],
        other,
    )


def asked(words: Sequence[str], reward: Any) -> RewardedPrompts:
    """Returns words as prompts, with a reward that compares with the right completion."""
    ids, lengths = prompts([f"{word}>" for word in words])
    return RewardedPrompts(ids, lengths, reward, word_problems.targets(words))


def prompts(texts: Sequence[str]) -> tuple[jax.Array, jax.Array]:
    """Returns ids `[N, P]`, padded on the left, and lengths `[N]` of texts."""
    rows = [list(text.encode()) for text in texts]
    ids, lengths = left_padded(rows, PROMPT_LENGTH)
    return jnp.asarray(ids), jnp.asarray(lengths)


def ends_line(params: Any, samples: Samples) -> jax.Array:
    """Returns 1 where the line is brought to its end, after a few letters, else 0."""
    del params
    late_enough = samples.num_learned > SHORTEST_END
    return (samples.stopped & late_enough).astype(jnp.float32)


def mixed(words: Sequence[str], verse: Sequence[str]) -> RewardedPrompts:
    """Returns words, of which the reward verifies, and verse, whose end is rewarded."""
    ids, lengths = prompts([*[f"{word}>" for word in words], *verse])
    kinds = np.repeat(np.array([0, 1], np.int32), [len(words), len(verse)])
    wanted = word_problems.targets([*words, *["none"] * len(verse)])
    params = Mixture((wanted, jnp.float32(0.0)), jnp.asarray(kinds))
    return RewardedPrompts(
        ids, lengths, reward_by_kind(equals_target, ends_line), params
    )


def demonstrations(words: Sequence[str]) -> Completions:
    """Returns words written backwards by people who leave out some last letters."""
    rows = word_problems.solved(words)
    ids, lengths = np.array(rows.ids), np.array(rows.lengths)
    careless = (np.arange(len(words)) % 5 < 2).nonzero()[0]
    ids[careless, lengths[careless] - 2] = END
    ids[careless, lengths[careless] - 1] = 0
    lengths[careless] -= 1
    return rows.replace(ids=jnp.asarray(ids), lengths=jnp.asarray(lengths))


def tulu3_data(texts: Texts, num_sampled: int) -> Tulu3Data:
    """Returns demonstrations, words whose completions are judged, and all the words."""
    return Tulu3Data(
        demonstrations(texts.demonstrated),
        asked(texts.asked[:num_sampled], share_of_target),
        asked(texts.asked[num_sampled:], equals_target),
    )


def instructgpt_data(texts: Texts, num_sampled: int) -> InstructGPTData:
    """Returns demonstrations, words whose completions are compared, and all the words."""
    ids, lengths = prompts([f"{word}>" for word in texts.asked[num_sampled:]])
    return InstructGPTData(
        demonstrations(texts.demonstrated),
        asked(texts.asked[:num_sampled], share_of_target),
        asked(texts.held_out, share_of_target),
        ids,
        lengths,
    )


def r1_data(texts: Texts, num_sampled: int) -> R1Data:
    """Returns a few worked examples, words to verify, verse, and a mixture of both."""
    words = texts.asked[:num_sampled]
    return R1Data(
        word_problems.solved(texts.demonstrated[:NUM_WORKED]),
        asked(words, equals_target),
        texts.other,
        mixed(texts.asked[num_sampled : 2 * num_sampled], texts.verse[:num_sampled]),
    )


def measures(
    module: Transformer, texts: Texts, key: jax.Array, *, with_verse: bool
) -> Evaluate:
    """Returns what measures a model: each measure is of held-out words or verse.

    exact_match and judge, of words; kl of their completions from the start of the stage,
    in nats; ends_line, of verse, and mixed, of both, if asked for.
    """
    words = asked(texts.held_out, equals_target)
    both = mixed(texts.held_out, texts.held_out_verse if with_verse else [])

    def evaluate(params: Params, start: Params) -> dict[str, Any]:
        samples = sample_held_out(
            module, params, start, both.ids, both.lengths, key,
            max_new_tokens=ANSWER_LENGTH, stop_ids=(END,), rows_at_once=100,
        )  # fmt: skip
        count = len(texts.held_out)
        of_words = jax.tree.map(lambda x: x[:count], samples)
        found = {
            "exact_match": words.scores(of_words),
            "judge": np.asarray(share_of_target(words.params, of_words)),
            "kl": divergences(of_words),
        }
        if with_verse:
            scores = both.scores(samples)
            found |= {"ends_line": scores[count:], "mixed": scores}
        return found

    return evaluate
