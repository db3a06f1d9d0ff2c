"""Completions of texts and chats, whatever their number and lengths.

Prompts are sorted by length within a window, padded to one of a few lengths, and completed
in batches. What a prompt's completion is does not depend on the others, but for rounding.
"""

import datetime
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np

from rljax.numerics.compiler import Stopwatch
from rljax.numerics.validation import check_at_least
from rljax.rlhf.data.encoding import (
    EncodingConfig,
    EncodingError,
    encode_prompts,
    encoding_config,
    not_embedded,
)
from rljax.rlhf.data.pairs import Messages, Pair
from rljax.rlhf.data.tokenizer import (
    ChatTemplate,
    Tokenizer,
    check_tokenizer,
    load_tokenizer,
)
from rljax.rlhf.generation.batch import BatchCompleter, Written
from rljax.rlhf.generation.decoding import Sampling
from rljax.rlhf.generation.generate import check
from rljax.rlhf.generation.sampling import WHOLE, Truncation
from rljax.rlhf.generation.stopping import read_stop_ids
from rljax.rlhf.models.parameters import check_language_model
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.pretrained import load_language_model
from rljax.rlhf.row_files import Counts, batching, model_fingerprint

Rows = TypeVar("Rows")
Prompt = str | Messages | Pair


class Completion(NamedTuple):
    """A completion of a prompt; without text and tokens where there is an `error`.

    `ids` include the token that ended it, if the reason is "stop" and not "length", which
    the text does not. `log_prob` is the sum over the tokens, each under the distribution
    that it was drawn from.
    """

    text: str
    prompt_ids: list[int]
    ids: list[int]
    log_prob: float
    finish_reason: Literal["stop", "length"] | None
    error: str | None = None


class Draw(NamedTuple):
    """A prompt, and the numbers that its completion's randomness follows from."""

    prompt: Pair
    row: int
    number: int = 0


class Generator:
    """A language model with its tokenizer, ready to complete prompts.

    Programs are compiled once for each length and kept, so make one generator and use it.
    It sorts `window` prompts together.
    """

    def __init__(
        self,
        module: Transformer,
        params: Any,
        tokenizer: Tokenizer,
        encoding: EncodingConfig,
        *,
        max_new_tokens: int,
        sampling: Sampling = Sampling(),  # noqa: B008 (immutable)
        seed: int = 0,
        batch_size: int | None = None,
        window: int | None = None,
    ):
        """Completes by up to `max_new_tokens`, in batches of `batch_size` prompts.

        By default these are as many as are fast here, and a window is eight batches.

        Raises:
            ValueError: model and tokenizer do not fit one another, or a number is out of
                range.
        """
        config = module.config
        counts = {"batch_size": batch_size, "window": window}
        check_at_least(1, **{k: n for k, n in counts.items() if n is not None})
        check(module, 1, max_new_tokens, sampling.stop_ids, sampling.temperature)
        check_tokenizer(tokenizer, config.vocab_size)
        check_language_model(module, params)
        self._module, self._tokenizer, self._encoding = module, tokenizer, encoding
        self._params, self._sampling = params, sampling
        self._max_new_tokens = max_new_tokens
        self._longest_prompt = config.max_length - max_new_tokens
        usual = 32 if jax.default_backend() == "cpu" else 256
        self._batch_size = batch_size or usual
        self.window = window or 8 * self._batch_size
        self._grids = [batching.buckets(self._longest_prompt, d) for d in (4, 2, 1)]
        num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
        self._compile_tokens = batching.default_compile_tokens(
            jax.default_backend(), num_params
        )
        self._batches = BatchCompleter(
            module,
            params,
            sampling,
            max_new_tokens=max_new_tokens,
            batch_size=self._batch_size,
            seed=seed,
        )

    @classmethod
    def load(
        cls,
        folder: Path | str,
        *,
        max_new_tokens: int,
        stop: Sequence[str | int] = (),
        temperature: float = 1.0,
        truncation: Truncation = WHOLE,
        greedy: bool = False,
        template: bool | ChatTemplate = True,
        date: datetime.date | None = None,
        bos: bool | None = None,
        **options: Any,
    ) -> "Generator":
        """Returns a generator of the language model and the tokenizer in a folder.

        Args:
            folder: as transformers writes it.
            max_new_tokens: tokens of a completion, at most.
            stop: tokens that end a completion, as ids or texts, beside those that the
                folder names.
            temperature: logits are divided by it.
            truncation: which tokens may be drawn.
            greedy: take the most probable token instead of drawing one.
            template: as for `encoding_config`, and so are `date` and `bos`.
            date: see there.
            bos: see there.
            **options: those of a `Generator`.

        Raises:
            ValueError: the folder holds something else.
        """
        module, variables = load_language_model(folder)
        tokenizer = load_tokenizer(folder)
        length = module.config.max_length
        encoding = encoding_config(
            tokenizer, max_length=length, template=template, date=date, bos=bos
        )
        stop_ids = read_stop_ids(Path(folder), tokenizer, stop)
        sampling = Sampling(temperature, truncation, greedy, stop_ids)
        return cls(
            module,
            variables["params"],
            tokenizer,
            encoding,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            **options,
        )

    def generate(
        self, prompts: Iterable[Prompt], num_completions: int = 1
    ) -> list[Completion]:
        """Returns completions in the prompts' order, those of a prompt together.

        A prompt is a text, chat messages, or a `Pair` of which the completion does not
        matter. What completion j of prompt i is follows from the seed, i and j.

        Raises:
            ValueError: a prompt cannot be completed; the message has its number.
        """
        check_at_least(1, num_completions=num_completions)
        draws = [
            Draw(prompt if isinstance(prompt, Pair) else Pair(prompt, ""), i, j)
            for i, prompt in enumerate(prompts)
            for j in range(num_completions)
        ]
        starts = range(0, len(draws), self.window)
        windows = ((i, draws[i : i + self.window]) for i in starts)
        found = [one for _, window, _ in self.stream(windows) for one in window]
        for draw, one in zip(draws, found, strict=True):
            if one.error is not None:
                raise ValueError(f"prompt {draw.row}: {one.error}")
        return found

    def stream(
        self,
        windows: Iterable[tuple[Rows, Sequence[Draw]]],
        on_batch: Callable[[Rows, Counts], None] | None = None,
    ) -> Iterator[tuple[Rows, list[Completion], Counts]]:
        """Completes windows of prompts, each sorted by itself; yields them in order.

        A window is anything, which comes out again beside the completions, and the draws.
        After each batch `on_batch` is called with the former and the batch's counts.

        Yields:
            What came with the draws, a completion for each of them, and the window's
            counts, whose time runs since the window before.
        """
        stopwatch = Stopwatch()
        for rows, draws in windows:
            report = functools.partial(on_batch, rows) if on_batch else None
            found, counts = self._complete_window(draws, report)
            counts.seconds_run, stopwatch = stopwatch.seconds_run, Stopwatch()
            yield rows, found, counts

    @property
    def tokenizer(self) -> Tokenizer:
        """What turns text into tokens."""
        return self._tokenizer

    @property
    def fingerprint(self) -> dict[str, str]:
        """What the completions depend on, besides settings, by name."""
        made_with = model_fingerprint(
            self._params, self._module.config, self._tokenizer, self._encoding
        )
        return made_with | {"stop_ids": repr(self._sampling.stop_ids)}

    def _complete_window(
        self, draws: Sequence[Draw], report: Callable[[Counts], None] | None
    ) -> tuple[list[Completion], Counts]:
        encoded = self._encode(draws)
        results = [
            Completion("", [], [], 0.0, None, str(ids))
            if isinstance(ids, EncodingError)
            else Completion("", ids, [], 0.0, None)
            for ids in encoded
        ]
        good = [i for i, one in enumerate(results) if one.error is None]
        lengths = np.array([len(results[i].prompt_ids) for i in good], np.int32)
        total = Counts()
        for batch in batching.plan_batches(
            lengths, self._grids, lambda _: self._batch_size, self._compile_tokens
        ):
            places = [good[i] for i in batch.rows]
            prompts = [results[i].prompt_ids for i in places]
            numbers = np.array([draws[i][1:] for i in places], np.uint32).T
            found, counts = self._batches.complete(batch.length, prompts, numbers)
            for i, one in zip(places, found, strict=True):
                results[i] = self._completion(results[i].prompt_ids, one)
            total += counts
            if report:
                report(counts)
        return results, total

    def _completion(self, prompt_ids: list[int], one: Written) -> Completion:
        # What ended it is no part of the text.
        text = self._tokenizer.decode(one.ids[:-1] if one.stopped else one.ids)
        reason: Literal["stop", "length"] = "stop" if one.stopped else "length"
        return Completion(text, prompt_ids, one.ids, one.log_prob, reason)

    def _encode(self, draws: Sequence[Draw]) -> list[list[int] | EncodingError]:
        """Returns the tokens of prompts, each of which is encoded once."""
        rows = {draw.row: draw.prompt for draw in draws}
        encoded = encode_prompts(self._tokenizer, list(rows.values()), self._encoding)
        by_row = dict(zip(rows, map(self._checked, encoded), strict=True))
        return [by_row[draw.row] for draw in draws]

    def _checked(self, ids: list[int] | EncodingError) -> list[int] | EncodingError:
        if isinstance(ids, EncodingError):
            return ids
        if error := not_embedded(ids, self._module.config.vocab_size):
            return error
        if len(ids) > self._longest_prompt:
            return EncodingError(
                f"the prompt has {len(ids)} tokens, and beside {self._max_new_tokens} "
                f"new ones the context of {self._module.config.max_length} holds "
                f"{self._longest_prompt}. Shorten it, or lower max_new_tokens."
            )
        return ids
