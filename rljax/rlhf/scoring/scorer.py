"""Scores of any number of (prompt, completion) pairs, whatever their lengths.

Rows are sorted by length within a window, cut into batches that hold about the same
number of tokens, and padded to one of a few lengths, so that few programs are compiled
and little padding is computed. A text's score does not depend on the others'.

    scorer = Scorer.load(folder)
    scores = scorer.score([("a prompt", "a completion"), ...])
"""

import collections
import concurrent.futures
import hashlib
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rljax.numerics.sharding import line
from rljax.rlhf.data.encoding import (
    EncodedPair,
    Encoding,
    Prompt,
    encode_pairs,
    encoding_for,
)
from rljax.rlhf.data.tokenizer import Tokenizer, load_tokenizer
from rljax.rlhf.models.hf_weights import load_reward_model
from rljax.rlhf.models.reward_model import RewardModel

Pair = tuple[Prompt, str]


class Scored(NamedTuple):
    """What became of one pair.

    Attributes:
        score: NaN where there is an error.
        num_tokens: of prompt and completion together, as scored.
        num_cut: how many of the prompt's first tokens the context had no room for.
        bucket: the length that the row was padded to.
        error: why there is no score, or None.
    """

    score: float
    num_tokens: int = 0
    num_cut: int = 0
    bucket: int = 0
    error: str | None = None


class Detail(NamedTuple):
    """Scores of N pairs, and what they took.

    Attributes:
        scores: `[N]` float32.
        num_tokens: `[N]` int32, as scored.
        num_cut: `[N]` int32, tokens cut off the prompt's left; above 0 if truncated.
        bucket: `[N]` int32, the length that the row was padded to.
        padding_share: of the computed tokens, the share that was no text.
        compile_count: programs compiled for this call.
    """

    scores: np.ndarray
    num_tokens: np.ndarray
    num_cut: np.ndarray
    bucket: np.ndarray
    padding_share: float
    compile_count: int


class Scorer:
    """A reward model with its tokenizer, ready to score text.

    Programs are compiled once for each length and kept, so make one scorer and use it.

    Attributes:
        pairs: pairs scored so far.
        tokens: their tokens.
        padded_tokens: tokens computed for them, padding included.
        compile_count: programs compiled so far, at most one a bucket.
        seconds_compile: what that took.
    """

    def __init__(
        self,
        module: RewardModel,
        variables: Any,
        tokenizer: Tokenizer,
        encoding: Encoding,
        *,
        max_tokens: int | None = None,
        window: int | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Places the model on the devices.

        Args:
            module: the reward model.
            variables: its variables; of an ensemble, stacked, whose members' mean is
                the score.
            tokenizer: makes token ids of text.
            encoding: how a pair becomes a row; its `max_length` is the longest one.
            max_tokens: tokens in a batch, padding included, for each device; a row
                longer than that is a batch of its own. By default what is fast here.
            window: how many pairs are sorted together. By default 16,384, or as many as
                a processor scores in minutes.
            devices: those to share the rows of a batch; all by default.

        Raises:
            ValueError: model, tokenizer and encoding do not fit one another, or a
                number is out of range.
        """
        config = module.config
        for name, value in {"max_tokens": max_tokens, "window": window}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}. Raise it.")
        if encoding.max_length > config.max_length:
            raise ValueError(
                f"max_length must be at most the model's context, {config.max_length} "
                f"tokens, got {encoding.max_length}. Lower it."
            )
        if tokenizer.vocab_size > config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} ids, but the model embeds "
                f"only {config.vocab_size}. Use the model's own tokenizer."
            )
        self._module, self._tokenizer, self._encoding = module, tokenizer, encoding
        devices = jax.devices() if devices is None else list(devices)
        mesh = line(devices, "rows")
        self._rows = NamedSharding(mesh, PartitionSpec("rows"))
        self._variables = jax.device_put(
            variables, NamedSharding(mesh, PartitionSpec())
        )
        self._num_devices = len(devices)
        self._max_tokens = max_tokens or default_max_tokens(devices[0].platform)
        self._grids = [
            buckets(encoding.max_length, density) for density in (8, 4, 2, 1)
        ]
        self._programs: dict[int, Any] = {}
        num_params = sum(leaf.size for leaf in jax.tree.leaves(variables))
        self._compile_tokens = default_compile_tokens(devices[0].platform, num_params)
        self.window = window or default_window(devices[0].platform, num_params)
        self.pairs = self.tokens = self.padded_tokens = self.compile_count = 0
        self.seconds_compile = 0.0

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        max_length: int | None = None,
        template: bool = True,
        bos: bool | None = None,
        eos: bool | None = None,
        **options: Any,
    ) -> "Scorer":
        """A scorer of the model and the tokenizer in a Hugging Face folder.

        Args:
            folder: as transformers writes it, or `pretrained.save`.
            max_length: longest row, in tokens; by default the model's context.
            template: whether to use the tokenizer's chat template, if it has one.
            bos: whether rows begin with BOS; by default as `encoding_for` has it.
            eos: whether rows end with EOS; likewise.
            options: as of a `Scorer`.

        Raises:
            ValueError: the folder holds something else.
        """
        module, variables = load_reward_model(folder)
        tokenizer = load_tokenizer(folder)
        encoding = encoding_for(
            tokenizer,
            max_length=max_length or module.config.max_length,
            template=template,
            bos=bos,
            eos=eos,
        )
        return cls(module, variables, tokenizer, encoding, **options)

    def score(self, pairs: Iterable[Pair]) -> np.ndarray:
        """`[N]` float32 scores, in the pairs' order.

        Args:
            pairs: N times a prompt, text or chat messages, and its completion. They
                are read window by window, so an iterator of millions is fine.

        Raises:
            ValueError: a pair cannot be scored; the message says which.
        """
        return self.detail(pairs).scores

    def detail(self, pairs: Iterable[Pair]) -> Detail:
        """As `score`, with what became of each pair."""
        before = self.tokens, self.padded_tokens, self.compile_count
        chunks: list[np.ndarray] = []
        count = 0
        for rows in self.stream(_windows(pairs, self.window)):
            for i, row in enumerate(rows):
                if row.error is not None:
                    raise ValueError(f"pair {count + i}: {row.error}")
            count += len(rows)
            numbers = [(r.score, r.num_tokens, r.num_cut, r.bucket) for r in rows]
            chunks.append(np.array(numbers, np.float64))
        table = np.concatenate([np.zeros((0, 4)), *chunks])
        tokens, padded = self.tokens - before[0], self.padded_tokens - before[1]
        num_tokens, num_cut, bucket = table[:, 1:].T.astype(np.int32)
        return Detail(
            table[:, 0].astype(np.float32),
            num_tokens,
            num_cut,
            bucket,
            padding_share=1 - tokens / padded if padded else 0.0,
            compile_count=self.compile_count - before[2],
        )

    def stream(self, windows: Iterable[Sequence[Pair]]) -> Iterator[list[Scored]]:
        """Scores windows of pairs, each sorted by itself; yields them in order.

        The next window is read and tokenized while the device works on one.
        """

        def read() -> tuple[int, list[Any]] | None:
            pairs = next(source, None)
            if pairs is None:
                return None
            return len(pairs), encode_pairs(self._tokenizer, pairs, self._encoding)

        source = iter(windows)
        with concurrent.futures.ThreadPoolExecutor(1, "tokenize") as pool:
            ahead = pool.submit(read)
            while (found := ahead.result()) is not None:
                ahead = pool.submit(read)
                yield self._score_window(found[1])

    def compile(self) -> None:
        """Compiles the program of every bucket now, and pads as little as they allow."""
        self._compile_tokens = 0.0
        for bucket in self._grids[0]:  # the others' lengths are among these
            self._program(bucket)

    def num_rows(self, bucket: int) -> int:
        """Rows in a batch of a length, over all devices."""
        return max(1, self._max_tokens // bucket) * self._num_devices

    @property
    def fingerprint(self) -> dict[str, str]:
        """What the scores follow from: change one, and they may change."""
        weights = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(self._variables):
            weights.update(jax.tree_util.keystr(path).encode())
            weights.update(np.ascontiguousarray(leaf).tobytes())
        return {
            "weights": weights.hexdigest(),
            "config": repr(self._module.config),
            "tokenizer": self._tokenizer.fingerprint,
            "encoding": repr(self._encoding),
        }

    def _score_window(self, rows: list[Any]) -> list[Scored]:
        results = [
            Scored(
                float("nan"), error=None if isinstance(row, EncodedPair) else str(row)
            )
            for row in rows
        ]
        good = [i for i, row in enumerate(rows) if isinstance(row, EncodedPair)]
        good.sort(key=lambda i: len(rows[i].ids), reverse=True)
        grid = self._grid(np.array([len(rows[i].ids) for i in good], np.int32))
        waiting: collections.deque[tuple[list[int], int, jax.Array]] = (
            collections.deque()
        )

        def finish():
            batch, bucket, scores = waiting.popleft()
            for i, score in zip(batch, np.asarray(scores).tolist(), strict=False):
                row = rows[i]
                results[i] = Scored(score, len(row.ids), row.num_cut, bucket)

        while good:
            # The longest row left chooses the length; shorter ones fill its batch, so
            # that only a window's last batch has empty rows.
            bucket = grid[np.searchsorted(grid, len(rows[good[0]].ids))]
            size = self.num_rows(bucket)
            batch, good = good[:size], good[size:]
            ids = np.zeros((size, bucket), np.int32)
            lengths = np.ones(size, np.int32)
            for row, i in enumerate(batch):
                tokens = rows[i].ids
                ids[row, : len(tokens)] = tokens
                lengths[row] = len(tokens)
            program = self._program(bucket)
            placed = jax.device_put((ids, lengths), self._rows)
            waiting.append((batch, bucket, program(self._variables, *placed)))
            self.pairs += len(batch)
            self.tokens += sum(len(rows[i].ids) for i in batch)
            self.padded_tokens += size * bucket
            if len(waiting) > 2:
                finish()
        while waiting:
            finish()
        return results

    def _grid(self, lengths: np.ndarray) -> list[int]:
        """The lengths to pad a window to that cost least: padding and compiling.

        It follows from the window alone, so that the same rows meet the same programs
        whatever was scored before, or by a process that was killed.
        """
        # Others are likely to come, more so after a full one, and to share its programs.
        windows = 8 if len(lengths) >= self.window else 2

        def cost(grid):
            used = np.searchsorted(grid, lengths)
            compiled = len(np.unique(used)) * self._compile_tokens / windows
            return np.take(grid, used).sum() + compiled

        return min(self._grids, key=cost)

    def _program(self, bucket: int) -> Any:
        if bucket not in self._programs:
            started = time.perf_counter()
            rows = self.num_rows(bucket)

            def shape(*sizes):
                return jax.ShapeDtypeStruct(sizes, jnp.int32, sharding=self._rows)

            score: Any = self._module.apply
            if np.ndim(self._variables["scale"]["mean"]):
                members = jax.vmap(score, in_axes=(0, None, None))
                score = lambda *arguments: members(*arguments).mean(axis=0)  # noqa: E731
            program = jax.jit(score, out_shardings=self._rows)
            self._programs[bucket] = program.lower(
                self._variables, shape(rows, bucket), shape(rows)
            ).compile()
            self.compile_count += 1
            self.seconds_compile += time.perf_counter() - started
        return self._programs[bucket]


def buckets(max_length: int, density: int = 8) -> list[int]:
    """The lengths that rows are padded to: so many an octave, and multiples of 8.

    Example:
        >>> buckets(100)
        [8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 100]
        >>> buckets(100, density=2)
        [8, 16, 24, 32, 48, 64, 96, 100]
    """
    found, length = [], 8
    while length < max_length:
        found.append(length)
        length += max(8, 2 ** (length.bit_length() - 1) // density)
    return [*found, max_length]


def default_max_tokens(platform: str) -> int:
    """Tokens in a batch for each device: enough to keep it busy, few enough to fit."""
    return 1024 if platform == "cpu" else 65_536


def default_compile_tokens(platform: str, num_params: int) -> float:
    """How many tokens are scored in the time that compiling a program takes, about."""
    # A second or two, of a processor's 1e11 FLOP/s or of an accelerator's 1e14.
    return (1e11 if platform == "cpu" else 1e14) / (2 * num_params)


def default_window(platform: str, num_params: int) -> int:
    """Pairs to sort together; scores are handed on, and saved, a window at a time."""
    most = 2**36 // num_params if platform == "cpu" else 16_384
    return min(max(most, 512), 16_384)


def _windows(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    source = iter(pairs)
    while window := list(itertools.islice(source, size)):
        yield window
