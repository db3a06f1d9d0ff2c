"""Batches of prompts, completed by compiled programs and put together again."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.base import Params
from rljax.numerics.compiler import Stopwatch, compiler_options
from rljax.rlhf.data.rows import left_padded
from rljax.rlhf.generation.decoding import (
    Decoding,
    Sampling,
    begin,
    go_on,
    keep,
)
from rljax.rlhf.models.transformer import Transformer, take_apart
from rljax.rlhf.row_files import Counts

_PARTS = 8  # of a completion, after each of which rows that have ended are dropped


class Written(NamedTuple):
    """The tokens of a completion, their summed log-probability, and whether it stopped."""

    ids: list[int]
    log_prob: float
    stopped: bool


class BatchCompleter:
    """Completes batches of up to `batch_size` prompts.

    Where most rows of a batch have ended, the others go on in a smaller one.
    """

    def __init__(
        self,
        module: Transformer,
        params: Params,
        sampling: Sampling,
        *,
        max_new_tokens: int,
        batch_size: int,
        seed: int,
    ):
        """Takes the model's parameters, and their blocks apart."""
        self._params, self._sampling = params, sampling
        self._max_new_tokens, self._seed = max_new_tokens, seed
        # Few, since each is a program: a half, a quarter, ... would be more.
        sizes = [batch_size]
        while sizes[-1] > 2:
            sizes.append(-(-sizes[-1] // 4))
        self._sizes = sizes[::-1]
        options = compiler_options()
        self._begin = jax.jit(
            functools.partial(begin, module, max_new_tokens=max_new_tokens),
            compiler_options=options,
        )
        self._go_on = jax.jit(
            functools.partial(go_on, module),
            donate_argnames="decoding",
            compiler_options=options,
        )
        self._keep = jax.jit(keep)
        self._apart = jax.jit(take_apart)(params)
        self._compiled: set[tuple[str, int, int]] = set()

    def complete(
        self, width: int, prompts: Sequence[list[int]], numbers: np.ndarray
    ) -> tuple[list[Written], Counts]:
        """Returns the completions of prompts, and the work done.

        Args:
            width: the length that prompts are padded to.
            prompts: up to `batch_size` of them.
            numbers: `[2, B]` what each one's random numbers follow from, with the seed.
        """
        stopwatch, counts = Stopwatch(), Counts(len(prompts))
        decoding = self._start(width, prompts, numbers, counts)
        written: dict[int, Written] = {}
        places = np.arange(len(decoding.stopped))  # of the rows in the batch
        step = 1
        while True:
            going = np.flatnonzero(~np.asarray(decoding.stopped))
            finished = not going.size or step >= self._max_new_tokens
            size = self._size(going.size)
            if finished or size < len(places):
                written |= _written(decoding, places)
            if finished:
                break
            if size < len(places):
                ended = np.flatnonzero(np.asarray(decoding.stopped))
                rows = np.resize(ended, size)
                rows[: going.size] = going
                self._note("keep", width, len(places) * 2**16 + size, counts)
                decoding, places = self._keep(decoding, rows), places[rows]
            until = min(step + -(-self._max_new_tokens // _PARTS), self._max_new_tokens)
            self._note("go on", width, size, counts)
            decoding = self._go_on(
                self._params, self._apart, decoding, self._sampling, until
            )
            counts.padded_tokens += size * (int(decoding.step) - step)
            step = int(decoding.step)
        found = [written[i] for i in range(len(prompts))]
        counts.tokens = sum(len(one.ids) for one in found)
        counts.seconds_compile = stopwatch.seconds_compile
        return found, counts

    def _start(
        self,
        width: int,
        prompts: Sequence[list[int]],
        numbers: np.ndarray,
        counts: Counts,
    ) -> Decoding:
        count, size = len(prompts), self._size(len(prompts))
        ids, lengths = left_padded([*prompts, *[[0]] * (size - count)], width)
        every = np.zeros((2, size), np.uint32)
        every[:, :count] = numbers
        keys = _keys(jax.random.key(self._seed), *every)
        self._note("begin", width, size, counts)
        counts.padded_tokens += size
        decoding = self._begin(self._params, ids, lengths, keys, self._sampling)
        return decoding.replace(stopped=decoding.stopped.at[count:].set(True))

    def _size(self, count: int) -> int:
        return next(size for size in self._sizes if size >= count)

    def _note(self, name: str, width: int, size: int, counts: Counts) -> None:
        counts.compile_count += (name, width, size) not in self._compiled
        self._compiled.add((name, width, size))


def _written(decoding: Decoding, places: np.ndarray) -> dict[int, Written]:
    """Returns the completions of a batch's rows by place; of equal places, the first's."""
    found: dict[int, Written] = {}
    arrays: Any = (
        decoding.ids,
        decoding.log_probs,
        decoding.lengths,
        decoding.stopped,
    )
    rows = zip(places.tolist(), *map(np.asarray, arrays), strict=True)
    for place, ids, log_probs, length, stopped in rows:
        log_prob = float(log_probs[:length].sum(dtype=np.float64))
        one = Written(ids[:length].tolist(), log_prob, bool(stopped))
        found.setdefault(place, one)
    return found


@jax.jit
def _keys(key: jax.Array, rows: jax.Array, numbers: jax.Array) -> jax.Array:
    """Returns a key for each completion of each prompt."""
    by_row = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    return jax.vmap(jax.random.fold_in)(by_row, numbers)
