"""Scores of any number of (prompt, completion) pairs, whatever their lengths.

Rows are sorted by length within a window, cut into batches that hold about the same
number of tokens, and padded to one of a few lengths, so that few programs are compiled
and little padding is computed. A text's score does not depend on the others'.
"""

import collections
import concurrent.futures
import dataclasses
import datetime
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rljax.numerics.compiler import Stopwatch
from rljax.numerics.sharding import ROWS, device_mesh
from rljax.numerics.validation import check_at_least
from rljax.rlhf.data.encoding import (
    EncodedPair,
    EncodingConfig,
    EncodingError,
    encode_pairs,
    encoding_config,
    not_embedded,
)
from rljax.rlhf.data.pairs import Example, Pair
from rljax.rlhf.data.tokenizer import (
    ChatTemplate,
    Tokenizer,
    check_tokenizer,
    load_tokenizer,
)
from rljax.rlhf.models.reward_model import RewardModel
from rljax.rlhf.pretrained.weights import load_reward_model
from rljax.rlhf.row_files import Counts, batching, model_fingerprint
from rljax.rlhf.scoring.ensembles import scores_and_members
from rljax.rlhf.scoring.scored import Detail, Scored
from rljax.training.sharded import layout, use_mesh

Rows = TypeVar("Rows")

# One of these every chat template should write; some insist on a system or on tools.
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
_CHATS = (
    [{"role": "user", "content": "a"}],
    [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}],
)
_PROBES = [
    Pair("a", "b"),
    *(
        Pair(chat, "b", variables)
        for chat in _CHATS
        for variables in ({}, {"tools": [_TOOL]}, {"documents": [{"text": "d"}]})
    ),
]


class Scorer:
    """A reward model with its tokenizer, ready to score text.

    Programs are compiled once for each length and kept, so make one scorer and use it.
    It sorts `window` pairs together.
    """

    def __init__(
        self,
        module: RewardModel,
        variables: Any,
        tokenizer: Tokenizer,
        encoding: EncodingConfig,
        *,
        max_tokens: int | None = None,
        window: int | None = None,
        devices: Sequence[jax.Device] | None = None,
        mesh: Mesh | None = None,
    ):
        """Places the model on the devices, which share a batch's rows.

        By default they are all of this process.
        Of an ensemble's variables those leaves are stacked in which its members differ;
        what they share is computed once. The mean of the members is the score. A batch
        has `max_tokens` for each device, padding included, by default what is fast here;
        a longer row is a batch by itself. By default, `window` is 16,384 pairs, or as
        many as a processor scores in minutes. In the place of `devices` a `mesh`, of this
        process, divides the parameters, too, over its axis `model`.

        Raises:
            ValueError: model, tokenizer and encoding do not fit one another, or a
                number is out of range.
        """
        config = module.config
        counts = {"max_tokens": max_tokens, "window": window}
        check_at_least(1, **{k: n for k, n in counts.items() if n is not None})
        if encoding.max_length > config.max_length:
            raise ValueError(
                f"max_length must be at most the model's context, {config.max_length} "
                f"tokens, got {encoding.max_length}. Lower it."
            )
        check_tokenizer(tokenizer, config.vocab_size)
        self._module, self._tokenizer, self._encoding = module, tokenizer, encoding
        self._check_encoding()
        if mesh is None:
            mesh = device_mesh(jax.local_devices() if devices is None else devices)
        self._rows = NamedSharding(mesh, PartitionSpec(ROWS))
        self._variables = jax.tree.map(
            lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)),
            variables,
            layout(variables, mesh),
        )
        self._num_devices, platform = mesh.size, mesh.devices.flat[0].platform
        self._max_tokens = max_tokens or batching.default_max_tokens(platform)
        self._grids = [batching.buckets(encoding.max_length, d) for d in (8, 4, 2, 1)]
        self._num_members, score = scores_and_members(module, variables)

        def by_parts(*args: Any) -> Any:
            with use_mesh(mesh):
                return score(*args)

        is_divided = mesh.shape["model"] > 1
        self._score = jax.jit(
            by_parts if is_divided else score, out_shardings=self._rows
        )
        self._compiled: set[int] = set()  # lengths
        num_params = sum(leaf.size for leaf in jax.tree.leaves(variables))
        self._compile_tokens = batching.default_compile_tokens(platform, num_params)
        self.window = window or batching.default_window(platform, num_params)

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        label: str | int | None = None,
        pooling: Literal["transformers", "last"] = "transformers",
        max_length: int | None = None,
        template: bool | ChatTemplate = True,
        date: datetime.date | None = None,
        bos: bool | None = None,
        eos: bool | None = None,
        truncate: Literal["prompt", "completion", "error"] = "prompt",
        allow_empty: bool = False,
        **options: Any,
    ) -> "Scorer":
        """Returns a scorer of the model and the tokenizer in a folder.

        Args:
            folder: as transformers writes it, or `rljax.rlhf.pretrained.save`.
            label: which of several scores the model gives, by name or number.
            pooling: where the score is read: at the last token that is not the folder's
                `pad_token_id`, as transformers does it, or at the last one.
            max_length: longest row, in tokens; the model's context by default.
            template: as for `encoding_config`, and so are `date`, `bos` and `eos`.
            date: see there.
            bos: see there.
            eos: see there.
            truncate: as in `EncodingConfig`, and so is `allow_empty`.
            allow_empty: see there.
            **options: those of a `Scorer`.

        Raises:
            ValueError: the folder holds something else.
        """
        module, variables = load_reward_model(folder, label=label)
        tokenizer = load_tokenizer(folder)
        encoding = encoding_config(
            tokenizer,
            max_length=module.config.max_length if max_length is None else max_length,
            template=template,
            date=date,
            bos=bos,
            eos=eos,
            pad_id=module.pad_id if pooling == "transformers" else None,
            truncate=truncate,
            allow_empty=allow_empty,
        )
        return cls(module, variables, tokenizer, encoding, **options)

    def score(self, pairs: Iterable[Example]) -> np.ndarray:
        """Returns `[N]` float32 scores of N prompts and completions.

        Each is a pair of texts or chat messages, or a `TokenPair` of what was sampled.
        They are read window by window, so an iterator of millions is fine.

        Raises:
            ValueError: a pair cannot be scored; the message has its number.
        """
        return self.detail(pairs).scores

    def detail(self, pairs: Iterable[Example]) -> Detail:
        """As `score`, with each pair's length and truncation, and the work done."""
        chunks, total = [np.zeros((0, 4 + self._num_members))], Counts()
        source = iter(pairs)
        windows = iter(lambda: list(itertools.islice(source, self.window)), [])
        for _, rows, counts in self.stream((None, window) for window in windows):
            for i, row in enumerate(rows, sum(map(len, chunks))):
                if row.error is not None:
                    raise ValueError(f"pair {i}: {row.error}")
            lines = [(*row[:4], *row.members) for row in rows]
            chunks.append(np.array(lines, np.float64))
            total += counts
        table = np.concatenate(chunks)
        scores = table[:, 0].astype(np.float32)
        num_tokens, num_cut, bucket = table[:, 1:4].astype(np.int32).T
        work = total.padding_share, total.compile_count, total.seconds_compile
        each = table[:, 4:].astype(np.float32) if self._num_members else None
        return Detail(scores, num_tokens, num_cut, bucket, *work, each)

    def stream(
        self,
        windows: Iterable[tuple[Rows, Sequence[Example]]],
        on_batch: Callable[[Rows, Counts], None] | None = None,
    ) -> Iterator[tuple[Rows, list[Scored], Counts]]:
        """Scores windows of pairs, each sorted by itself; yields them in order.

        The next window is read and tokenized, in a thread, while the device works on one.

        A window is anything, which comes out again beside the scores, and the pairs.
        After each batch `on_batch` is called with the former and the batch's counts.

        Yields:
            What came with the pairs, a score for each pair, and the window's counts,
            whose time runs since the window before.
        """

        def encoded():
            for rows, pairs in windows:
                encoded = encode_pairs(self._tokenizer, pairs, self._encoding)
                yield rows, [self._embedded(row) for row in encoded]

        source, stopwatch = encoded(), Stopwatch()
        with concurrent.futures.ThreadPoolExecutor(1, "tokenize") as pool:
            ahead = pool.submit(next, source, None)
            while (window := ahead.result()) is not None:
                ahead = pool.submit(next, source, None)
                rows, pairs = window
                report = functools.partial(on_batch, rows) if on_batch else None
                scored, counts = self._score_window(pairs, report)
                counts.seconds_run, stopwatch = stopwatch.seconds_run, Stopwatch()
                yield rows, scored, counts

    def compile(self) -> None:
        """Compiles the program of every bucket now, and pads as little as they allow."""
        self._compile_tokens = 0.0
        for bucket in self._grids[0]:  # the others' lengths are among these
            size = self.num_rows(bucket)
            ids = jax.ShapeDtypeStruct((size, bucket), jnp.int32, sharding=self._rows)
            lengths = jax.ShapeDtypeStruct((size,), jnp.int32, sharding=self._rows)
            self._score.lower(self._variables, ids, lengths).compile()
            self._compiled.add(bucket)

    def num_rows(self, bucket: int) -> int:
        """Rows in a batch of a length, over all devices."""
        return max(1, self._max_tokens // bucket) * self._num_devices

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns text into tokens."""
        return self._tokenizer

    @property
    def fingerprint(self) -> dict[str, str]:
        """What the scores depend on, by name."""
        return model_fingerprint(
            self._variables, self._module.config, self._tokenizer, self._encoding
        )

    def _check_encoding(self) -> None:
        """Encodes some chats, lest a fault of the model's be told of every row."""
        pad_id = self._encoding.pad_id
        whole = dataclasses.replace(self._encoding, max_length=2**30, pad_id=None)
        errors = []
        for probe in _PROBES if whole.template else _PROBES[:1]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # not all templates use tools
                (row,) = encode_pairs(self._tokenizer, [probe], whole)
            row = self._embedded(row)
            if isinstance(row, EncodedPair):
                break
            errors.append(row)
        else:
            raise EncodingError(
                f"no question with its answer can be scored: {errors[0]} Choose another "
                f"chat template, or none."
            )
        if row.ids[1:] and row.ids[-1] == pad_id:
            warnings.warn(
                f"rows end with token {pad_id}, which is the model's padding token, "
                f"so scores are read before it, as transformers does; with pooling "
                f"'last' they are read at it.",
                stacklevel=3,
            )

    def _embedded(
        self, row: EncodedPair | EncodingError
    ) -> EncodedPair | EncodingError:
        """Returns a row, or an error if the model does not embed all of its tokens."""
        if isinstance(row, EncodingError):
            return row
        return not_embedded(row.ids, self._module.config.vocab_size) or row

    def _score_window(
        self,
        rows: list[EncodedPair | EncodingError],
        report: Callable[[Counts], None] | None,
    ) -> tuple[list[Scored], Counts]:
        good = [(i, row) for i, row in enumerate(rows) if isinstance(row, EncodedPair)]
        results = [
            Scored(math.nan, error=str(row) if isinstance(row, EncodingError) else None)
            for row in rows
        ]
        waiting: collections.deque[tuple[batching.Batch, Any]] = collections.deque()
        total = Counts()

        def finish():
            batch, (scores, members) = waiting.popleft()
            found = np.asarray(scores).tolist(), np.asarray(members).tolist()
            for i, score, each in zip(batch.rows, *found, strict=False):
                place, (ids, _, num_cut) = good[i]
                results[place] = Scored(
                    score, len(ids), num_cut, batch.length, members=tuple(each)
                )

        # Other windows are likely to come, more so after a full one, and to share the
        # programs of this one.
        compile_tokens = self._compile_tokens / (8 if len(good) >= self.window else 2)
        lengths = np.array([len(row.ids) for _, row in good], np.int32)
        for batch in batching.plan_batches(
            lengths, self._grids, self.num_rows, compile_tokens
        ):
            scores, counts = self._score_batch(batch, [good[i][1] for i in batch.rows])
            waiting.append((batch, scores))
            total += counts
            if report:
                report(counts)
            if len(waiting) > 2:
                finish()
        while waiting:
            finish()
        return results, total

    def _score_batch(
        self, batch: batching.Batch, rows: list[EncodedPair]
    ) -> tuple[tuple[jax.Array, jax.Array], Counts]:
        """Returns scores `[batch.size]`, and members', that may not be computed yet."""
        ids = np.zeros((batch.size, batch.length), np.int32)
        lengths = np.ones(batch.size, np.int32)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = row.ids
            lengths[i] = len(row.ids)
        new, stopwatch = batch.length not in self._compiled, Stopwatch()
        placed = jax.device_put((ids, lengths), self._rows)
        scores = self._score(self._variables, *placed)
        self._compiled.add(batch.length)
        tokens = int(lengths[: len(rows)].sum())
        seconds = stopwatch.seconds_compile if new else 0.0
        return scores, Counts(len(rows), tokens, ids.size, int(new), seconds)
