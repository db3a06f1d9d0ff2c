"""Chat messages as the text that a template writes, and where the completion begins."""

import datetime
import functools
import re
import string
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rljax.extras import require
from rljax.rlhf.data.pairs import Message, Messages
from rljax.rlhf.data.tokenizer import ChatTemplate, Tokenizer
from rljax.training.files import one_line

_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_TEXT_PARTS = ("text", "thinking", "reasoning")
# Arguments of transformers' apply_chat_template that are no variables of the template.
_RESERVED = {
    "self", "conversation", "conversations", "messages", "chat_template",
    "add_generation_prompt", "continue_final_message", "tokenize",
    "sanitize_control_tokens", "padding",
    "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs",
}  # fmt: skip


class ChatError(ValueError):
    """Messages that a template does not write."""


def write_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    prompt: Messages,
    completion: Messages,
    variables: Mapping[str, Any],
) -> tuple[str, int]:
    """Returns prompt and completion as one text, and the completion's first character.

    The text is what transformers' `apply_chat_template` writes of all the messages. The
    completion begins where that and the prompt with its generation prompt part.

    Args:
        tokenizer: has the special tokens that templates write.
        template: Jinja source; of several by name, the one that transformers takes.
        prompt: messages before the completion.
        completion: messages of the completion.
        variables: what else the template is given, `tools` and `documents` among it.

    Raises:
        ChatError: the template refuses the messages.
    """
    source = choose_template(template, variables)
    _check_variables(source, variables)

    def write(messages: Messages, generation_prompt: bool) -> str:
        return _write(tokenizer, source, messages, generation_prompt, variables)

    whole = write([*prompt, *completion], False)
    try:
        before = write(prompt, True)
    except ChatError:  # it writes no prompts alone
        return whole, 0
    return whole, shared_length(before, whole)


def write_prompt(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    prompt: Messages,
    variables: Mapping[str, Any],
) -> str:
    """Returns a prompt with its generation prompt, which a completion is to follow.

    It is what transformers' `apply_chat_template` writes with `add_generation_prompt`.
    Arguments and errors are those of `write_chat`.
    """
    source = choose_template(template, variables)
    _check_variables(source, variables)
    return _write(tokenizer, source, prompt, True, variables)


def _write(
    tokenizer: Tokenizer,
    source: str,
    messages: Messages,
    generation_prompt: bool,
    variables: Mapping[str, Any],
) -> str:
    try:
        return tokenizer.apply_chat_template(
            messages, source, add_generation_prompt=generation_prompt, **variables
        )
    except ImportError:
        raise
    except Exception as error:  # a template is a program, and may raise anything
        raise ChatError(
            f"the chat template refuses this chat: {one_line(error)}."
        ) from error


def shared_length(one: str, other: str) -> int:
    """Returns how many characters two texts begin with alike."""
    if other.startswith(one):
        return len(one)
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), len(other))


def as_messages(value: Any, name: str, *, role: str) -> list[Message]:
    """Returns a text, a message or messages as messages; a text is one of a role.

    A message has a role, and a content that is text or parts without pictures or sound,
    or none beside something else, such as tool calls.

    Raises:
        ChatError: they are not; or the last one is not of the role, for an assistant.
    """
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    messages = [value] if isinstance(value, Mapping) else value
    if not isinstance(messages, Sequence):
        raise ChatError(
            f"the {name} must be text or messages of a chat, got "
            f"{type(value).__name__}."
        )
    for message in messages:
        if not isinstance(message, Mapping) or not _is_message(message):
            raise ChatError(
                f"a chat message of the {name} must have a role and a content, text or "
                f"parts of text (no pictures or sound), got {message!r:.80}."
            )
    if role == "assistant" and (not messages or messages[-1]["role"] != role):
        last = repr(messages[-1]["role"]) if messages else "no message"
        raise ChatError(
            f"the last message of the {name} must be the assistant's, got {last}."
        )
    return list(messages)


def _is_message(message: Message) -> bool:
    content = message.get("content")
    others = (key for key, value in message.items() if value is not None)
    if not isinstance(message.get("role"), str):
        return False
    if content is None:
        return bool(set(others) - {"role"})
    parts = [] if isinstance(content, str) else content
    return isinstance(parts, Sequence) and all(map(_is_text_part, parts))


def _is_text_part(part: Any) -> bool:
    if isinstance(part, str):
        return True
    if not isinstance(part, Mapping):
        return False
    filled = {name for name, value in part.items() if value is not None}
    return part.get("type") in _TEXT_PARTS or filled == {"text"}


def is_empty(message: Message) -> bool:
    """Returns whether a message says nothing: no text, no tool call, no thought."""
    said = {k: v for k, v in message.items() if k not in ("role", "name") and v}
    content = said.get("content")
    if isinstance(content, Sequence) and not isinstance(content, str):
        texts = (
            part if isinstance(part, str) else part.get(part.get("type") or "text")
            for part in content
        )
        if not any(texts):
            del said["content"]
    return not said


def _check_variables(source: str, variables: Collection[str]) -> None:
    """Refuses names that are not for templates, and warns of what has no use."""
    if taken := sorted(_RESERVED & set(variables)):
        raise ChatError(f"a chat template cannot be given a variable {taken[0]!r}.")
    for name in variables:
        if name not in _variables_of(source):
            warnings.warn(
                f"the chat template does not use {name!r}, so no score depends on it.",
                stacklevel=2,
            )


@functools.lru_cache(maxsize=8)
def _variables_of(source: str) -> Collection[str]:
    """Returns the names of the variables that a template uses."""
    jinja2 = require("jinja2", "chat templates need", "lm")
    meta = require("jinja2.meta", "chat templates need", "lm")
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        # transformers' own tag, which Jinja does not know.
        source = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", source)
        return meta.find_undeclared_variables(environment.parse(source))
    except jinja2.TemplateSyntaxError:
        return ()


def choose_template(template: ChatTemplate, variables: Mapping[str, Any]) -> str:
    """Returns the template that transformers takes, where there are several by name.

    Raises:
        ChatError: there is none by default.
    """
    if isinstance(template, str):
        return template
    if variables.get("tools") is not None and "tool_use" in template:
        return template["tool_use"]
    if "default" not in template:
        raise ChatError(
            f"of the chat templates {', '.join(template)} none is called default. "
            f"Choose one as a file."
        )
    return template["default"]


def on_date(template: ChatTemplate, date: datetime.date) -> ChatTemplate:
    """Returns a template to which today is a date, whenever it is written.

    Without this, the function `strftime_now` of templates reads the clock.
    """
    if not isinstance(template, str):
        return {name: str(on_date(one, date)) for name, one in template.items()}
    if "strftime_now" not in template:
        return template
    now = datetime.datetime.combine(date, datetime.time())
    flags = ["", *"-_0^#EO"]
    directives = [f"%{flag}{c}" for flag in flags for c in string.ascii_letters]
    known = {one: now.strftime(one) for one in directives if now.strftime(one) != one}
    changes = [["%%", "\0"], *map(list, known.items()), ["\0", "%"]]
    # The newline goes with the block before it, so what follows begins a line as before.
    return (
        "{% macro strftime_now(format) %}{% set found = namespace(text=format) %}"
        f"{{% for old, new in {changes!r} %}}"
        "{% set found.text = found.text.replace(old, new) %}{% endfor %}"
        f"{{{{ found.text }}}}{{% endmacro %}}\n{template}"
    )


def read_transcript(text: str) -> list[Message]:
    r"""Returns the messages of a transcript as HH-RLHF writes it.

    Example:
        >>> read_transcript("\n\nHuman: Hi\n\nAssistant: Hello")[1]
        {'role': 'assistant', 'content': 'Hello'}

    Raises:
        ChatError: it does not begin with a turn.
    """
    before, *parts = _TURN.split(text)
    if before.strip() or not parts:
        raise ChatError(
            "a text without a prompt, for a model with a chat template, must be a "
            "transcript whose turns begin with '\\n\\nHuman:' and '\\n\\nAssistant:', got "
            f"{text!r:.60}. Give the prompt, or score without the template."
        )
    return [
        {"role": _SPEAKERS[role], "content": content.strip()}
        for role, content in zip(parts[::2], parts[1::2], strict=True)
    ]
