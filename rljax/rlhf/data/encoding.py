"""The one place where a prompt and its completion become tokens."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from rljax.extras import require
from rljax.rlhf.data.tokenizer import Tokenizer

Prompt = str | Sequence[Mapping[str, Any]]
Result = TypeVar("Result")


class EncodingError(ValueError):
    """A pair that cannot become tokens."""


class Tokens(struct.PyTreeNode):
    """Rows of tokens, padded on either side: `ids` `[..., L]` int32.

    The `mask`, `[..., L]` bool, is true where a token is real.
    """

    ids: jax.Array
    mask: jax.Array

    @property
    def lengths(self) -> jax.Array:
        """`[...]` int32: the place after each row's last real token."""
        size = self.mask.shape[-1]
        last = jnp.argmax(self.mask[..., ::-1], axis=-1)
        return jnp.where(self.mask.any(axis=-1), size - last, 0).astype(jnp.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """How a pair becomes a row of at most `max_length` tokens.

    It may begin with BOS and end with EOS. `template` is Jinja source that writes the
    chat as text; None joins the bare texts.
    """

    max_length: int
    bos: bool
    eos: bool
    template: str | None = None

    def __post_init__(self):
        if self.max_length < 1:
            raise ValueError(
                f"max_length must be at least 1 token, got {self.max_length}. Raise it."
            )


class EncodedPair(NamedTuple):
    """The tokens of a prompt and its completion.

    The first `num_prompt`, BOS included, come before the completion; `num_cut` more were
    cut off the prompt's left to fit.
    """

    ids: list[int]
    num_prompt: int
    num_cut: int


def encoding_config(
    tokenizer: Tokenizer,
    *,
    max_length: int,
    template: bool = True,
    bos: bool | None = None,
    eos: bool | None = None,
) -> EncodingConfig:
    """Returns the encoding that suits a tokenizer.

    `template` uses the tokenizer's chat template, if it has one. By default `bos` is as
    the tokenizer does it and `eos` is true if it has one, both only without a template,
    which writes all that a row needs.

    Raises:
        ValueError: the tokenizer has no such token.
    """
    source = tokenizer.chat_template if template else None
    if bos is None:
        bos = source is None and tokenizer.adds_bos
    if eos is None:
        eos = source is None and tokenizer.eos_id is not None
    for name, wanted in (("bos", bos), ("eos", eos)):
        if wanted and getattr(tokenizer, f"{name}_id") is None:
            raise ValueError(f"{name} was asked for, but the tokenizer has none.")
    return EncodingConfig(max_length=max_length, bos=bos, eos=eos, template=source)


def encode_pair(
    tokenizer: Tokenizer, prompt: Prompt, completion: str, encoding: EncodingConfig
) -> EncodedPair:
    """Returns the tokens of a prompt (text, or chat messages) and its completion.

    Both are encoded by themselves and joined, so that a completion that was generated
    scores as it was sampled. There is at most one BOS. What is too long loses tokens at
    the prompt's left; a completion is never cut.

    Raises:
        EncodingError: it cannot be done, as where the completion is empty.
    """
    (pair,) = encode_pairs(tokenizer, [(prompt, completion)], encoding)
    if isinstance(pair, EncodingError):
        raise pair
    return pair


def encode_pairs(
    tokenizer: Tokenizer, pairs: Sequence[tuple[Prompt, str]], encoding: EncodingConfig
) -> list[EncodedPair | EncodingError]:
    """As `encode_pair`, in one call of the tokenizer; errors stay with their pair."""
    texts = [_try(_texts, tokenizer, pair, encoding) for pair in pairs]
    found = (both for both in texts if isinstance(both, list))
    distinct = list(dict.fromkeys(itertools.chain.from_iterable(found)))
    ids = dict(zip(distinct, tokenizer.encode(distinct), strict=True))
    return [
        _try(_join, tokenizer, *map(ids.get, both), encoding)
        if isinstance(both, list)
        else both
        for both in texts
    ]


def is_message(value: Any) -> bool:
    """Returns whether a value is a chat message: `role` and `content`, both text."""
    return isinstance(value, Mapping) and all(
        isinstance(value.get(name), str) for name in ("role", "content")
    )


def _try(function: Callable[..., Result], *arguments: Any) -> Result | EncodingError:
    try:
        return function(*arguments)
    except EncodingError as error:
        return error


def _join(
    tokenizer: Tokenizer,
    prompt: list[int],
    completion: list[int],
    encoding: EncodingConfig,
) -> EncodedPair:
    if not completion:
        raise EncodingError("the completion has no tokens. Give one that has.")
    begin = encoding.bos
    while prompt and prompt[0] == tokenizer.bos_id:
        prompt, begin = prompt[1:], True  # a template's own
    first = [tokenizer.bos_id] if begin and tokenizer.bos_id is not None else []
    ended = completion[-1] == tokenizer.eos_id
    last = [tokenizer.eos_id] if encoding.eos and not ended else []
    room = encoding.max_length - len(first) - len(completion) - len(last)
    if room < 0:
        raise EncodingError(
            f"the completion has {len(completion)} tokens, with BOS and EOS "
            f"{encoding.max_length - room}, and the context holds "
            f"{encoding.max_length}. Shorten it, or raise max_length."
        )
    num_cut = max(0, len(prompt) - room)
    before = [*first, *prompt[num_cut:]]
    ids = [i for i in (*before, *completion, *last) if i is not None]
    return EncodedPair(ids, len(before), num_cut)


def _texts(tokenizer: Tokenizer, pair: Any, encoding: EncodingConfig) -> list[str]:
    """Returns the texts to encode: the prompt's and the completion's."""
    if isinstance(pair, str) or len(pair) != 2:
        raise EncodingError(
            f"a pair must be a prompt and its completion, got {pair!r:.80}."
        )
    prompt, completion = pair
    if not isinstance(completion, str):
        raise EncodingError(
            f"the completion must be text, got {type(completion).__name__}."
        )
    if not completion:
        raise EncodingError("the completion is empty. Give one that is not.")
    if encoding.template is not None:
        prompt, completion = _chat(tokenizer, prompt, completion, encoding.template)
    elif not isinstance(prompt, str):
        raise EncodingError(
            f"the prompt must be text where there is no chat template, got "
            f"{type(prompt).__name__}. Use the template, or give text."
        )
    for name, text in (("prompt", prompt), ("completion", completion)):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EncodingError(
                f"the {name} is not valid Unicode: {error.reason} at character "
                f"{error.start}."
            ) from None
    return [prompt, completion]


def _chat(
    tokenizer: Tokenizer, prompt: Prompt, completion: str, source: str
) -> tuple[str, str]:
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    for message in prompt:
        if not is_message(message):
            raise EncodingError(
                "a chat message must have a role and a content, both text, got "
                f"{message!r:.80}."
            )
    reply = {"role": "assistant", "content": completion}
    before = _render(tokenizer, source, [*prompt], add_generation_prompt=True)
    whole = _render(tokenizer, source, [*prompt, reply], add_generation_prompt=False)
    if not whole.startswith(before):
        raise EncodingError(
            "the chat template does not write a completion after what it writes before "
            "one, so there is no telling them apart. Score without the template."
        )
    return before, whole.removeprefix(before)


def _render(tokenizer: Tokenizer, source: str, messages: Any, **options: Any) -> str:
    jinja2 = require("jinja2", "chat templates need", "lm")
    try:
        return _compiled(source).render(
            messages=messages,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
            tools=None,
            documents=None,
            **options,
        )
    except (jinja2.TemplateError, TypeError, ValueError, OverflowError) as error:
        raise EncodingError(f"the chat template refuses this chat: {error}.") from error


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    jinja2 = require("jinja2", "chat templates need", "lm")
    sandbox = require("jinja2.sandbox", "chat templates need", "lm")

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = refuse
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(
            f"the chat template is not valid Jinja: line {error.lineno}: {error}."
        ) from error
