"""Records as training sets: tokenized once, padded, and what was left out, by reason.

What cannot be learned from is dropped and counted, never turned into NaN: rows that cannot
become tokens, pairs whose texts are the same once they are cut, ties, and completions of
which nothing is left.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rljax.numerics.validation import check_at_least
from rljax.rlhf.data.datasets import DataError, Preference, Records
from rljax.rlhf.data.encoding import (
    EncodedPair,
    EncodingConfig,
    EncodingError,
    encode_pairs,
)
from rljax.rlhf.data.pairs import Example, TokenPair
from rljax.rlhf.data.ratings import Rated
from rljax.rlhf.data.rows import (
    Completions,
    LabelledCompletions,
    Rankings,
    Ratings,
)
from rljax.rlhf.data.tokenizer import Tokenizer
from rljax.training.files import one_line

_WINDOW = 1024  # records that are tokenized together

Record = TypeVar("Record")
Rows = TypeVar("Rows", Rankings, Ratings, Completions, LabelledCompletions)
Encoded = EncodedPair | EncodingError


class Counts(NamedTuple):
    """How many records were read and kept, and why the others were not.

    Attributes:
        records: all that could be read.
        kept: rows of the training set.
        bad_lines: rows of the file that could not be read, and are not among the records.
        not_encoded: dropped, since they cannot become tokens.
        identical: dropped, since the completions have the same tokens, once they are cut.
        tied: dropped, since the completions are rated alike.
        bad_label: dropped, since a rating, margin or probability is NaN or out of range.
        nothing_to_learn: dropped, since no token of the completion is left.
        left_out: completions of rankings that are kept without them, for these reasons.
        truncated: texts that are kept and were cut.
        first_bad: where the first row was that is not read or not encoded, and why.
    """

    records: int = 0
    kept: int = 0
    bad_lines: int = 0
    not_encoded: int = 0
    identical: int = 0
    tied: int = 0
    bad_label: int = 0
    nothing_to_learn: int = 0
    left_out: int = 0
    truncated: int = 0
    first_bad: str = ""

    def describe(self) -> str:
        """Returns the counts that are not 0 in words, such as "2 identical when cut"."""
        words = {
            "bad_lines": "cannot be read", "not_encoded": "cannot become tokens",
            "identical": "identical when cut", "tied": "tied",
            "bad_label": "with a label that is no such number",
            "nothing_to_learn": "without a token to learn",
            "left_out": "completions left out", "truncated": "texts cut",
        }  # fmt: skip
        found = [
            f"{count:,} {text}"
            for name, text in words.items()
            if (count := getattr(self, name))
        ]
        first = f" (the first: {self.first_bad})" if self.first_bad else ""
        return ", ".join([f"{self.kept:,} of {self.records:,} kept", *found]) + first


class TrainingSet(NamedTuple, Generic[Rows]):
    """Rows for a learner, what was left out, and which records the rows are.

    Attributes:
        rows: N of them.
        counts: by reason.
        kept: `[N]` int, each row's place among the records.
    """

    rows: Rows
    counts: Counts
    kept: np.ndarray


def tokenize_rankings(
    tokenizer: Tokenizer,
    encoding: EncodingConfig,
    preferences: Iterable[Preference],
    *,
    vocab_size: int | None = None,
    max_bytes: int | None = None,
    multiple: int = 8,
) -> TrainingSet[Rankings]:
    """Returns preferences as token ids, `K` the most completions that any has.

    Of a ranking's completions with the same tokens the best stays.

    Args:
        tokenizer: the model's.
        encoding: how a pair becomes a row.
        preferences: what `read_preferences` returns, or any others.
        vocab_size: ids that the model embeds, above which there must be none.
        max_bytes: how large the rows may be.
        multiple: of tokens that rows are padded to, at most the encoding's `max_length`.

    Raises:
        DataError: nothing is left, a preference is none, a token is not the model's, or
            the rows are too large.
    """
    build = Building("preferences", preferences, tokenizer, encoding, vocab_size)
    texts: list[list[np.ndarray]] = []
    starts: list[list[int]] = []
    labels: list[tuple[float, float]] = []
    for place, one, encoded in build.encode(lambda one: one.examples):
        good = [text for text in encoded if isinstance(text, EncodedPair)]
        ids = {tuple(text.ids): text for text in good}
        if not math.isfinite(one.margin) or not 0 <= one.prob <= 1:
            build.drop("bad_label")
        elif len(good) < min(len(encoded), 2):
            build.drop("not_encoded", place, encoded)
        elif len(encoded) < 2:
            build.drop("tied")
        elif len(ids) < 2:
            build.drop("identical")
        else:
            build.keep(*ids.values())
            build.count["left_out"] += len(encoded) - len(ids) + one.num_tied
            texts.append([np.array(key, np.int32) for key in ids])
            starts.append([text.num_prompt for text in ids.values()])
            labels.append((one.margin, one.prob))
    counts = build.finish()
    if all(
        prob == 0.5 and len(some) == 2
        for (_, prob), some in zip(labels, texts, strict=True)
    ):
        raise DataError(
            f"all {counts.kept:,} preferences have the probability 0.5, from which "
            f"nothing is learned. Give some that prefer one of the two."
        )
    most = max(map(len, texts))
    flat = [
        text for some in texts for text in (*some, *[_NOTHING] * (most - len(some)))
    ]
    more = 4 * (len(flat) + 2 * len(texts))
    padded, lengths = build.pad(flat, multiple, max_bytes, more)
    first = [[*some, *[0] * (most - len(some))] for some in starts]
    margins, probs = jnp.asarray(np.array(labels, np.float32)).T
    rows = Rankings.of(
        jnp.asarray(padded.reshape(len(texts), most, -1)),
        jnp.asarray(lengths.reshape(-1, most)),
        margins,
        probs,
        jnp.asarray(np.array(first, np.int32)),
    )
    return TrainingSet(rows, counts, np.array(build.kept))


def tokenize_ratings(
    tokenizer: Tokenizer,
    encoding: EncodingConfig,
    rated: Iterable[Rated],
    *,
    vocab_size: int | None = None,
    max_bytes: int | None = None,
    multiple: int = 8,
) -> TrainingSet[Ratings]:
    """Returns rated texts as token ids, with their mean ratings.

    Args:
        tokenizer: the model's.
        encoding: how a pair becomes a row.
        rated: what `read_ratings` returns, or any others.
        vocab_size: ids that the model embeds, above which there must be none.
        max_bytes: how large the rows may be.
        multiple: of tokens that rows are padded to, at most the encoding's `max_length`.

    Raises:
        DataError: nothing is left, all are rated alike, a token is not the model's, or
            the rows are too large.
    """
    build = Building("rated texts", rated, tokenizer, encoding, vocab_size)
    texts: list[np.ndarray] = []
    means: list[float] = []
    for place, one, encoded in build.encode(lambda one: [one.example]):
        (text,) = encoded
        if not math.isfinite(one.mean):
            build.drop("bad_label")
        elif isinstance(text, EncodingError):
            build.drop("not_encoded", place, encoded)
        else:
            build.keep(text)
            texts.append(np.array(text.ids, np.int32))
            means.append(one.mean)
    counts = build.finish()
    if len(set(means)) == 1:
        raise DataError(
            f"all {counts.kept:,} rated texts are rated {means[0]:g}, from which nothing "
            f"is learned. Give texts with different ratings."
        )
    ids, lengths = build.pad(texts, multiple, max_bytes, 4 * len(texts))
    ratings = jnp.asarray(np.array(means, np.float32))
    rows = Ratings(ids=jnp.asarray(ids), lengths=jnp.asarray(lengths), ratings=ratings)
    return TrainingSet(rows, counts, np.array(build.kept))


def tokenize_completions(
    tokenizer: Tokenizer,
    encoding: EncodingConfig,
    examples: Iterable[Example],
    *,
    vocab_size: int | None = None,
    max_bytes: int | None = None,
    multiple: int = 8,
) -> TrainingSet[Completions]:
    """Returns prompts with completions as token ids, and where the completions begin.

    Of texts without prompts, those that are too long are dropped unless the encoding cuts
    completions (`truncate="completion"`).

    Args:
        tokenizer: the model's.
        encoding: how a pair becomes a row.
        examples: what `read_completions` returns, or any others.
        vocab_size: ids that the model embeds, above which there must be none.
        max_bytes: how large the rows may be.
        multiple: of tokens that rows are padded to, at most the encoding's `max_length`.

    Raises:
        DataError: nothing is left, a token is not the model's, or the rows are too large.
    """
    build = Building("completions", examples, tokenizer, encoding, vocab_size)
    texts, starts, _ = build.learned(lambda one: one)
    counts = build.finish()
    ids, lengths = build.pad(texts, multiple, max_bytes, 4 * len(texts))
    first = jnp.asarray(np.array(starts, np.int32))
    rows = Completions(ids=jnp.asarray(ids), lengths=jnp.asarray(lengths), starts=first)
    return TrainingSet(rows, counts, np.array(build.kept))


def resident_bytes(rows: Any) -> int:
    """Returns the bytes that a training set, or any tree of arrays, takes."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(rows))


_NOTHING = np.zeros(0, np.int32)


class Building(Generic[Record]):
    """A training set that grows record by record."""

    def __init__(
        self,
        name: str,
        records: Iterable[Record],
        tokenizer: Tokenizer,
        encoding: EncodingConfig,
        vocab_size: int | None,
    ):
        self.count = dict.fromkeys(Counts._fields[:-1], 0)
        self.kept: list[int] = []
        self._first_bad = ""
        self._name, self._records = name, records
        self._tokenizer, self._encoding = tokenizer, encoding
        self._vocab_size = vocab_size

    def encode(self, examples_of: Any) -> Iterator[tuple[str, Record, list[Encoded]]]:
        """Yields records with where they are and the tokens of their examples."""
        records = iter(self._with_places())
        while window := list(islice(records, _WINDOW)):
            examples = [list(examples_of(record)) for _, record in window]
            flat = [example for some in examples for example in some]
            self._check_tokenizer(flat)
            encoded = iter(encode_pairs(self._tokenizer, flat, self._encoding))
            for (place, record), some in zip(window, examples, strict=True):
                texts = list(islice(encoded, len(some)))
                self._check_ids(place, texts)
                self.count["records"] += 1
                yield place, record, texts

    def learned(
        self, example_of: Callable[[Record], Example]
    ) -> tuple[list[np.ndarray], list[int], list[Record]]:
        """Returns texts with tokens to learn, where these start, and the records."""
        texts, starts, records = [], [], []
        for place, record, encoded in self.encode(lambda one: [example_of(one)]):
            (text,) = encoded
            if isinstance(text, EncodingError):
                self.drop("not_encoded", place, encoded)
            elif len(text.ids) <= max(text.num_prompt, 1):
                self.drop("nothing_to_learn")
            else:
                self.keep(text)
                texts.append(np.array(text.ids, np.int32))
                starts.append(text.num_prompt)
                records.append(record)
        return texts, starts, records

    def _with_places(self) -> Iterator[tuple[str, Record]]:
        if isinstance(self._records, Records):
            yield from self._records.with_places()
            self.count["bad_lines"] = self._records.num_bad
            self._first_bad = self._records.first_bad or self._first_bad
        else:
            for number, record in enumerate(self._records, 1):
                yield f"number {number} of the {self._name}", record

    def _check_tokenizer(self, examples: Sequence[Example]) -> None:
        most, size = self._vocab_size, self._tokenizer.vocab_size
        if most is None or size <= most:
            return
        if not all(isinstance(example, TokenPair) for example in examples):
            raise DataError(
                f"the tokenizer has {size:,} ids, but the model embeds only {most:,}. Use "
                f"the model's own tokenizer."
            )

    def _check_ids(self, place: str, texts: list[Encoded]) -> None:
        largest = max(
            (max(text.ids) for text in texts if isinstance(text, EncodedPair)),
            default=0,
        )
        if self._vocab_size is not None and largest >= self._vocab_size:
            raise DataError(
                f"{place} has token {largest:,}, but the model embeds only "
                f"{self._vocab_size:,}. Use the model's own tokenizer."
            )

    def drop(
        self, reason: str, place: str = "", encoded: Sequence[Encoded] = ()
    ) -> None:
        """Counts the record that was yielded last as dropped."""
        self.count[reason] += 1
        if not self._first_bad:
            errors = (one for one in encoded if isinstance(one, EncodingError))
            self._first_bad = next((f"{place}: {one_line(e)}" for e in errors), "")

    def keep(self, *texts: EncodedPair) -> None:
        """Counts the record that was yielded last as kept."""
        self.count["kept"] += 1
        self.kept.append(self.count["records"] - 1)
        self.count["truncated"] += sum(text.num_cut > 0 for text in texts)

    def finish(self) -> Counts:
        """Returns the counts, if anything was kept."""
        counts = Counts(**self.count, first_bad=self._first_bad)
        if counts.kept:
            return counts
        path = getattr(self._records, "path", None)
        source = f" in {path}" if path else ""
        if not counts.records and not counts.bad_lines:
            raise DataError(f"there are no {self._name}{source}. Give at least one.")
        raise DataError(
            f"none of the {self._name}{source} can be learned from: {counts.describe()}. "
            f"Mend them, or raise max_length, which is {self._encoding.max_length}."
        )

    def pad(
        self, texts: list[np.ndarray], multiple: int, max_bytes: int | None, more: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns texts `[M, L]` int32 and their lengths `[M]`."""
        check_at_least(1, multiple=multiple)
        lengths = np.array([len(text) for text in texts], np.int32)
        longest = int(lengths.max())
        size = min(-(-longest // multiple) * multiple, self._encoding.max_length)
        num_bytes = 4 * len(texts) * (size + 1) + more
        if max_bytes is not None and num_bytes > max_bytes:
            typical = int(np.median(lengths[lengths > 0]))
            raise DataError(
                f"{self.count['kept']:,} {self._name} need {num_bytes:,} bytes as "
                f"{len(texts):,} texts padded to {size:,} tokens, and there is room for "
                f"{max_bytes:,}; half of the texts have at most {typical:,} tokens. Lower "
                f"max_length, or use fewer of them."
            )
        ids = np.zeros((len(texts), size), np.int32)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = text
        return ids, lengths
