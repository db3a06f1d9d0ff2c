"""The one place where a prompt and its completion become tokens."""

import dataclasses
import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from rljax.rlhf.data.chat import (
    ChatError,
    as_messages,
    is_empty,
    on_date,
    read_transcript,
    write_chat,
    write_prompt,
)
from rljax.rlhf.data.pairs import (
    Example,
    Message,
    Messages,
    Pair,
    TokenPair,
    Transcript,
)
from rljax.rlhf.data.tokenizer import ChatTemplate, Encoding, Tokenizer

Result = TypeVar("Result")


class EncodingError(ValueError):
    """A pair that cannot become tokens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """How a pair becomes a row of at most `max_length` tokens.

    Attributes:
        template: Jinja source that writes a chat as text, or several by name; None joins
            the bare texts.
        begin_ids: tokens that begin a row of text, unless the text begins so itself.
        end_ids: tokens that end it, unless the text ends so itself.
        pad_id: tokens of this id at a row's end are left out: transformers' reward models
            read the score before them. None keeps them.
        truncate: whether what is too long loses the left of the prompt or the end of the
            completion, or is an error.
        allow_empty: whether there may be no completion.
    """

    max_length: int
    template: ChatTemplate | None = None
    begin_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()
    pad_id: int | None = None
    truncate: Literal["prompt", "completion", "error"] = "prompt"
    allow_empty: bool = False

    def __post_init__(self):
        if self.max_length < 1:
            raise ValueError(
                f"max_length must be at least 1 token, got {self.max_length}. Raise it."
            )
        if self.truncate not in ("prompt", "completion", "error"):
            raise ValueError(
                f"truncate must be prompt, completion or error, got {self.truncate!r}."
            )


class EncodedPair(NamedTuple):
    """The tokens of a prompt and its completion.

    The first `num_prompt`, BOS included, come before the completion, to which a token
    belongs that holds the prompt's end and its beginning. `num_cut` more did not fit.
    """

    ids: list[int]
    num_prompt: int
    num_cut: int


def encoding_config(
    tokenizer: Tokenizer,
    *,
    max_length: int,
    template: bool | ChatTemplate = True,
    date: datetime.date | None = None,
    bos: bool | None = None,
    eos: bool | None = None,
    **options: Any,
) -> EncodingConfig:
    """Returns the encoding that suits a tokenizer.

    With a template nothing is added to what it writes. Without one, a row begins and ends
    as the tokenizer begins and ends a text; where that adds no EOS but there is one, the
    row ends with it, as TRL's RewardTrainer trains. What a text has already is not added.

    Args:
        tokenizer: the model's.
        max_length: longest row, in tokens.
        template: Jinja source, or whether to use the tokenizer's, if it has one.
        date: what the template takes for today; None is the clock's.
        bos: whether rows begin with BOS, if not as said above.
        eos: whether rows end with EOS, if not as said above.
        **options: other fields of `EncodingConfig`.

    Raises:
        ValueError: the tokenizer has no such token.
    """
    source = tokenizer.chat_template if template is True else template
    if source is False:
        source = None
    if source is not None and not source:
        raise ValueError("the chat template is empty. Give another, or False for none.")
    if source is not None and date is not None:
        source = on_date(source, date)
    begin, end = tokenizer.begin_ids, tokenizer.end_ids
    if source is not None:
        begin = end = ()
    elif eos is None:
        eos = tokenizer.eos_id is not None or None
    begin = _with(begin, "bos", bos, tokenizer.bos_id)
    end = _with(end[::-1], "eos", eos, tokenizer.eos_id)[::-1]
    return EncodingConfig(
        max_length=max_length,
        template=source,
        begin_ids=begin,
        end_ids=end,
        **options,
    )


def encode_pair(
    tokenizer: Tokenizer,
    prompt: str | Messages,
    completion: str | Message | Messages,
    encoding: EncodingConfig,
) -> EncodedPair:
    """Returns the tokens of a prompt and its completion, texts or chat messages.

    They are encoded as one text, as transformers does it. A completion that was sampled
    should be a `TokenPair`, for `encode_pairs`: its text may have other tokens.

    Raises:
        EncodingError: it cannot be done, as where the completion is empty.
    """
    (pair,) = encode_pairs(tokenizer, [Pair(prompt, completion)], encoding)
    if isinstance(pair, EncodingError):
        raise pair
    return pair


def not_embedded(ids: Sequence[int], vocab_size: int) -> EncodingError | None:
    """Returns the error if one of a row's tokens is not the model's, or None."""
    if max(ids) < vocab_size:
        return None
    found = next(i for i in ids if i >= vocab_size)
    return EncodingError(
        f"token {found} is not among the {vocab_size} that the model embeds. Use the "
        f"model's own tokenizer and template."
    )


def encode_pairs(
    tokenizer: Tokenizer, examples: Sequence[Example], encoding: EncodingConfig
) -> list[EncodedPair | EncodingError]:
    """Returns the tokens of each example, in one call of the tokenizer.

    Where it cannot be done there is the error.
    """
    found = [_try(_as_text, tokenizer, example, encoding) for example in examples]
    texts = [one.text for one in found if isinstance(one, Transcript)]
    encoded = iter(tokenizer.encode(texts) if texts else ())

    def row(one: Transcript | TokenPair) -> EncodedPair:
        if isinstance(one, TokenPair):
            ids = [*one.prompt_ids, *one.completion_ids]
            return _row(ids, len(one.prompt_ids), tokenizer.bos_id, encoding, (), ())
        tokens = next(encoded)
        ends = encoding.begin_ids, encoding.end_ids
        num_prompt = _num_before(tokens, one)
        return _row(list(tokens.ids), num_prompt, tokenizer.bos_id, encoding, *ends)

    return [one if isinstance(one, EncodingError) else _try(row, one) for one in found]


def encode_prompts(
    tokenizer: Tokenizer, prompts: Sequence[Pair], encoding: EncodingConfig
) -> list[list[int] | EncodingError]:
    """Returns the tokens of each prompt, for a completion to follow, or the error.

    Prompts are pairs whose completion does not matter. They begin as `encode_pairs`
    begins them; with a template they end with its generation prompt. However long, they
    are whole; those of no tokens are errors.
    """
    bare = dataclasses.replace(
        encoding,
        template=None,
        end_ids=(),
        pad_id=None,
        max_length=2**30,
        allow_empty=True,
    )

    def as_text(prompt: Pair) -> Transcript:
        if encoding.template is None:
            return _join(prompt._replace(completion=""))
        messages = as_messages(prompt.prompt, "prompt", role="user")
        text = write_prompt(tokenizer, encoding.template, messages, prompt.variables)
        return Transcript(text, len(text))

    found = [_try(as_text, prompt) for prompt in prompts]
    texts = [text for text in found if isinstance(text, Transcript)]
    rows = iter(encode_pairs(tokenizer, texts, bare))
    encoded = [one if isinstance(one, EncodingError) else next(rows) for one in found]
    return [one if isinstance(one, EncodingError) else one.ids for one in encoded]


def _with(
    ids: tuple[int, ...], name: str, wanted: bool | None, special: int | None
) -> tuple[int, ...]:
    """Returns ids that have a special token first, if wanted, or not at all."""
    if wanted and special is None:
        raise ValueError(f"{name} was asked for, but the tokenizer has none.")
    if wanted is False:
        return tuple(i for i in ids if i != special)
    if wanted and special is not None and ids[:1] != (special,):
        return (special, *ids)
    return ids


def _try(function: Callable[..., Result], *arguments: Any) -> Result | EncodingError:
    try:
        return function(*arguments)
    except EncodingError as error:
        return error
    except ChatError as error:
        return EncodingError(*error.args)


def _as_text(
    tokenizer: Tokenizer, example: Any, encoding: EncodingConfig
) -> Transcript | TokenPair:
    """Returns an example as one text, unless it has ids."""
    template = encoding.template
    if isinstance(example, TokenPair):
        return _checked(example, encoding)
    if isinstance(example, Transcript):
        if not example.text[example.start :] and not encoding.allow_empty:
            raise EncodingError(_EMPTY)
        if template is None:
            return _valid(example)
        messages = read_transcript(example.text)
        example = Pair(messages[:-1], messages[-1])
    if not isinstance(example, tuple | list) or not 2 <= len(example) <= 3:
        raise EncodingError(
            f"a pair must be a prompt and its completion, got {example!r:.80}. Rows of a "
            f"data set are read by read_form."
        )
    pair = Pair(*example)
    if not isinstance(pair.variables, Mapping):
        raise EncodingError(
            f"the variables of a pair must be a mapping, got {pair.variables!r:.80}."
        )
    if template is None:
        if pair.completion == "" and not encoding.allow_empty:
            raise EncodingError(_EMPTY)
        return _valid(_join(pair))
    prompt = as_messages(pair.prompt, "prompt", role="user")
    completion = as_messages(pair.completion, "completion", role="assistant")
    if all(map(is_empty, completion)) and not encoding.allow_empty:
        raise EncodingError(_EMPTY)
    text, start = write_chat(tokenizer, template, prompt, completion, pair.variables)
    return _valid(Transcript(text, start))


def _checked(pair: TokenPair, encoding: EncodingConfig) -> TokenPair:
    """Returns ids as lists of ints, whatever sequences they are."""
    both = [np.asarray(ids).tolist() for ids in pair]
    for name, ids in zip(TokenPair._fields, both, strict=True):
        if not all(type(i) is int and 0 <= i < 2**31 for i in ids):
            raise EncodingError(f"{name} must be token ids, got {ids!r:.60}.")
    if not both[1] and not encoding.allow_empty:
        raise EncodingError(_EMPTY)
    return TokenPair(*both)


_EMPTY = "the completion is empty. Give one that is not, or allow empty ones."


def _join(pair: Pair) -> Transcript:
    for name in ("prompt", "completion"):
        if not isinstance(text := getattr(pair, name), str):
            raise EncodingError(
                f"the {name} must be text where there is no chat template, got "
                f"{type(text).__name__}. Use a template, or give text."
            )
    if unused := [name for name, value in pair.variables.items() if value is not None]:
        raise EncodingError(
            f"only a chat template can use {', '.join(unused)}, and there is none. Use "
            f"one, or leave them out."
        )
    return Transcript(str(pair.prompt) + str(pair.completion), len(pair.prompt))


def _valid(text: Transcript) -> Transcript:
    try:
        text.text.encode()
    except UnicodeEncodeError as error:
        inside = error.start >= text.start
        name = "completion" if inside else "prompt"
        raise EncodingError(
            f"the {name} is not valid Unicode: {error.reason} at character "
            f"{error.start - text.start * inside}."
        ) from None
    return text


def _num_before(tokens: Encoding, text: Transcript) -> int:
    """Returns how many tokens come before the one that holds the completion's first."""
    places = map(tokens.char_to_token, range(text.start, len(text.text)))
    return next((i for i in places if i is not None), len(tokens.ids))


def _row(
    ids: list[int],
    num_prompt: int,
    bos_id: int | None,
    encoding: EncodingConfig,
    begin: tuple[int, ...],
    end: tuple[int, ...],
) -> EncodedPair:
    if tuple(ids[: len(begin)]) != begin:
        ids, num_prompt = [*begin, *ids], num_prompt + len(begin)
    if end and tuple(ids[-len(end) :]) != end:
        ids = [*ids, *end]
    ids = _without_padding(ids, encoding.pad_id)
    if not ids:
        raise EncodingError("it has no tokens. Give a text that has.")
    num_cut = max(0, len(ids) - encoding.max_length)
    if num_cut:
        kept = int(ids[0] == bos_id)
        _check_length(len(ids), num_prompt, kept, encoding)
        if encoding.truncate == "prompt":
            ids = ids[:kept] + ids[kept + num_cut :]
            num_prompt -= num_cut
        else:
            last = list(end) if end and tuple(ids[-len(end) :]) == end else []
            ids = ids[: encoding.max_length - len(last)] + last
            ids = _without_padding(ids, encoding.pad_id)
    return EncodedPair(ids, min(num_prompt, len(ids)), num_cut)


def _without_padding(ids: list[int], pad_id: int | None) -> list[int]:
    """Returns ids up to the last that is not padding; of nothing else, the first."""
    size = len(ids)
    while size > 1 and ids[size - 1] == pad_id:
        size -= 1
    return ids[:size]


def _check_length(
    size: int, num_prompt: int, kept: int, encoding: EncodingConfig
) -> None:
    """Raises an error if a row of too many tokens must not be cut, or cannot be."""
    most = encoding.max_length
    num_completion = size - num_prompt
    if encoding.truncate == "error":
        reason = f"it has {size} tokens"
    elif encoding.truncate == "completion" and num_prompt >= most:
        reason = f"the prompt alone has {num_prompt} tokens"
    elif encoding.truncate == "prompt" and num_completion + kept > most:
        reason = f"the completion has {num_completion} tokens, what ends it included"
    else:
        return
    raise EncodingError(
        f"{reason}, and the context holds {most}. Shorten it, raise max_length, or "
        f"choose another way to truncate."
    )
