r"""Rows of data sets, as objects by column, and the prompts and completions in them.

    {"prompt": ..., "completion": ...}             text, or messages of a chat
    {"prompt": ..., "completions": [..., ...]}     several of the same prompt
    {"prompt": ..., "chosen": ..., "rejected": ...}
    {"chosen": ..., "rejected": ...}               with the prompt in both
    {"messages": [..., {"role": "assistant", "content": ...}]}
    {"conversations": [..., {"from": "gpt", "value": ...}]}
    {"prompt_ids": [...], "completion_ids": [...]} tokens as they were sampled
    {"prompt_ids": [...], "chosen_ids": [...], "rejected_ids": [...]}
    {"text": ...}                                  a completion of nothing, to learn from

Beside these, `system` is the system's message, and `tools`, `documents` and
`chat_template_kwargs` are for the chat template. A column that is null is not there.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

from rljax.rlhf.data.chat import ChatError, as_messages, shared_length
from rljax.rlhf.data.pairs import Example, Message, Pair, TokenPair, Transcript

_LAST_TURN = "\n\nAssistant:"
_ROLES = {
    "human": "user", "user": "user", "system": "system", "tool": "tool",
    "function_call": "assistant", "observation": "tool", "function_response": "tool",
    "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "assistant": "assistant", "model": "assistant",
}  # fmt: skip
# What is scored, the first that is there; the others may accompany it.
_FORMS = (
    ("completion_ids",), ("chosen_ids", "rejected_ids"), ("completions",),
    ("completion",), ("chosen", "rejected"), ("messages",), ("conversations",),
)  # fmt: skip
# Where none of these is, a text is all that there is.
_NOT_BARE = {"prompt", "prompt_ids", *(name for form in _FORMS for name in form)}
# What was sampled has its ids beside its text.
_TEXT_OF_IDS = {"completion_ids": "completion", "chosen_ids": "chosen"}


class FormError(ValueError):
    """A row that holds no prompt with a completion, for the reason in the message."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a data set are called."""

    prompt: str = "prompt"
    completion: str = "completion"
    chosen: str = "chosen"
    rejected: str = "rejected"
    messages: str = "messages"

    def __post_init__(self):
        names = list(dataclasses.astuple(self))
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"columns must have names of their own, got {twice[0]!r} twice."
            )


def read_form(
    row: Mapping[str, Any], columns: Columns | None = None, *, allow_text: bool = False
) -> dict[str, list[Example]]:
    """Returns the examples in a row, by column.

    The column is "completion", "completions", "chosen" and "rejected", "messages",
    "conversations", "completion_ids" or "text", whatever it is called in the row; each has
    one example but "completions". Chosen and rejected ids are "chosen" and "rejected".
    A "text" is read only where that is allowed, and there is nothing else.

    Raises:
        FormError: it has none of the forms above, or a column that would not be used.
    """
    names = _names(columns)
    fields = rename(row, names)
    if allow_text and "text" in fields and not fields.keys() & _NOT_BARE:
        return {"text": [_bare_text(fields["text"])]}
    form = _choose_form(fields, names, row)
    try:
        if form == ("completion_ids",):
            return {"completion_ids": [_token_pair(fields, "completion_ids")]}
        if form == ("chosen_ids", "rejected_ids"):
            ids = {"chosen": "chosen_ids", "rejected": "rejected_ids"}
            return {name: [_token_pair(fields, of)] for name, of in ids.items()}
        if form == ("completions",):
            return {"completions": _completions(fields)}
        if form == ("chosen", "rejected") and "prompt" not in fields:
            return _without_prompt(fields)
        return {name: [_pair(fields, name)] for name in form}
    except (FormError, ChatError) as error:
        raise FormError(_as_called(str(error), names)) from error


def read_prompt(row: Mapping[str, Any], columns: Columns | None = None) -> Pair:
    """Returns the prompt in a row, with an empty completion.

    It is the column of that name, or what comes before the completions of another form.

    Raises:
        FormError: there is none.
    """
    names = _names(columns)
    fields = rename(row, names)
    if "prompt" not in fields:
        (first, *_), *_ = read_form(row, columns).values()
        match first:
            case Pair(prompt, _, variables):
                return Pair(prompt, "", variables)
            case Transcript(text, start) if start:
                return Pair(text[:start], "")
        raise FormError(f"it has no {names['prompt']!r}, and none in another form")
    try:
        prompt = fields["prompt"]
        if not isinstance(prompt, str):
            prompt = _messages(prompt, "prompt", "user")
        if (system := fields.get("system")) not in (None, ""):
            prompt = _with_system(system, prompt)
        return Pair(prompt, "", _variables(fields))
    except (FormError, ChatError) as error:
        raise FormError(_as_called(str(error), names)) from error


def rename(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Returns the columns of a row that are not null, by our names for them.

    `names` are the row's, by ours. A column that has a name of ours for something else is
    left out.
    """
    renamed = {theirs: ours for ours, theirs in names.items()}
    hidden = set(names) - set(names.values())
    return {
        renamed.get(name, name): value
        for name, value in row.items()
        if value is not None and name not in hidden
    }


@functools.cache
def _names(columns: Columns | None) -> dict[str, str]:
    return dataclasses.asdict(columns or Columns())


def _as_called(message: str, names: dict[str, str]) -> str:
    """Returns a message with the columns' names in the row."""
    for ours, theirs in names.items():
        message = message.replace(repr(ours), repr(theirs))
    return message


def _choose_form(
    fields: dict[str, Any], names: dict[str, str], row: Mapping[str, Any]
) -> tuple[str, ...]:
    found = [form for form in _FORMS if any(name in fields for name in form)]
    if not found:
        columns = ", ".join(map(repr, row)) or "no fields"
        prompt, completion = names["prompt"], names["completion"]
        raise FormError(
            f"it needs {prompt!r} and {completion!r}, or {prompt!r}, "
            f"{names['chosen']!r} and {names['rejected']!r}, or {names['messages']!r}; "
            f"it has {columns}"
        )
    first = found[0]
    if "prompt_ids" in fields and first[0] not in _TEXT_OF_IDS:
        raise FormError("it has 'prompt_ids' but no 'completion_ids'")
    if first == ("messages",) and ("conversations",) in found:
        raise FormError("it has both 'messages' and 'conversations'; keep one")
    if len(found) > 1 and found[1][0] not in ("messages", "conversations"):
        both = [next(name for name in form if name in fields) for form in found[:2]]
        if _TEXT_OF_IDS.get(first[0]) != both[1]:
            raise FormError(
                f"it has both {both[0]!r} and {both[1]!r}; keep what is to be scored"
            )
    if missing := [
        names[name] for name in first if name in names and name not in fields
    ]:
        here = names["rejected" if missing[0] == names["chosen"] else "chosen"]
        raise FormError(f"it has {here!r} but no {missing[0]!r}; it needs both")
    return first


def _bare_text(text: Any) -> Example:
    if not isinstance(text, str):
        raise FormError(f"'text' must be text, got {kind(text)}")
    return Transcript(text, 0)


def _token_pair(fields: dict[str, Any], completion: str) -> Example:
    if "prompt_ids" not in fields:
        raise FormError(f"it has {completion!r} but no 'prompt_ids'")
    for name in ("prompt_ids", completion):
        ids = fields.get(name)
        if not isinstance(ids, list) or not all(type(i) is int for i in ids):
            raise FormError(f"{name!r} must be a list of token ids, got {ids!r:.40}")
    return TokenPair(fields["prompt_ids"], fields[completion])


def _completions(fields: dict[str, Any]) -> list[Example]:
    many = fields["completions"]
    if not isinstance(many, list) or not many:
        raise FormError(f"'completions' must be a list of some, got {many!r:.40}")
    return [_pair(fields | {"completion": one}, "completion") for one in many]


def _without_prompt(fields: dict[str, Any]) -> dict[str, list[Example]]:
    """Returns the examples of two completions that begin with their prompt."""
    both = {name: fields[name] for name in ("chosen", "rejected")}
    texts = [isinstance(one, str) for one in both.values()]
    if any(texts) and not all(texts):
        raise FormError(
            f"'chosen' and 'rejected' must both be text or both messages, got "
            f"{kind(both['chosen'])} and {kind(both['rejected'])}"
        )
    if not all(texts):
        return {name: [_pair(fields, name)] for name in both}
    if fields.get("system") or _variables(fields):
        raise FormError(
            "a text with its prompt in it has no place for 'system', 'tools', 'documents' "
            "or 'chat_template_kwargs'; give messages, or leave them out"
        )
    shared = both["chosen"][: shared_length(*both.values())]
    # The last turn of HH-RLHF, where both have it; else all that they share.
    turn = shared.rfind(_LAST_TURN)
    start = turn + len(_LAST_TURN) if turn >= 0 else len(shared)
    if turn < 0 and (shared.endswith(" ") or shared in both.values()):
        start = max(shared.rfind(" "), 0)  # so that neither completion is empty
    return {name: [Transcript(text, start)] for name, text in both.items()}


def _pair(fields: dict[str, Any], name: str) -> Pair:
    value, prompt = fields[name], fields.get("prompt")
    if isinstance(value, str) and name not in ("messages", "conversations"):
        if prompt is None:
            raise FormError(f"it has {name!r} but no 'prompt'")
        if isinstance(prompt, str) and "system" not in fields:
            return Pair(prompt, value, _variables(fields))
    if name in ("messages", "conversations") and isinstance(value, str):
        raise FormError(f"{name!r} must be a list of messages, got text")
    messages = _messages(value, name, "assistant")
    if prompt is None:
        if len(messages) < 2:
            raise FormError(
                f"{name!r} must be a prompt's messages and an assistant's, got "
                f"{len(messages)} of them and no 'prompt'"
            )
        prompt, after = messages[:-1], messages[-1:]
    else:
        prompt, after = _beside(prompt, messages, name)
    if (system := fields.get("system")) not in (None, ""):
        prompt = _with_system(system, prompt)
    return Pair(prompt, after, _variables(fields))


def _beside(
    prompt: Any, messages: list[Message], name: str
) -> tuple[str | list[Message], list[Message]]:
    """Returns prompt and completion where the messages may hold the prompt once more."""
    if prompt == []:
        raise FormError("'prompt' must have at least one message, got none")
    before, after = messages[:-1], messages[-1:]
    if isinstance(prompt, str):
        repeated = any(
            one["role"] == "user" and one.get("content") == prompt for one in before
        )
        if repeated:
            return before, after
        prompt = _messages(prompt, "prompt", "user")
    else:
        prompt = _messages(prompt, "prompt", "user")
        size = len(prompt)
        if messages[:size] == prompt and len(messages) > size:
            return prompt, messages[size:]
        if before and before == prompt[-len(before) :]:
            return prompt, after
    if messages[0]["role"] in ("user", "system"):
        raise FormError(
            f"beside a 'prompt', {name!r} must be the completion alone, or hold the "
            f"prompt as well; got {len(messages)} messages that do not"
        )
    return prompt, messages


def _messages(value: Any, name: str, role: str) -> list[Message]:
    """Returns messages with role and content, of those with from and value too."""
    if isinstance(value, list) and any(
        isinstance(one, dict) and "from" in one and "role" not in one for one in value
    ):
        value = [_renamed(one, name) for one in value]
    if not isinstance(value, str | list | dict):
        raise FormError(
            f"{name!r} must be text or a list of messages, got {kind(value)}"
        )
    if value == []:
        raise FormError(f"{name!r} must have at least one message, got none")
    messages = as_messages(value, name, role=role)
    # Arrow writes every key of every message; the template must not see those that are null.
    return [{k: v for k, v in one.items() if v is not None} for one in messages]


def _renamed(message: Any, name: str) -> Message:
    role = message.get("from") if isinstance(message, dict) else None
    if role not in _ROLES or not isinstance(message.get("value"), str):
        raise FormError(
            f"every message of {name!r} must have a 'value' that is text and a 'from' of "
            f"{', '.join(_ROLES)}, got {message!r:.60}"
        )
    rest = {k: v for k, v in message.items() if k not in ("from", "value")}
    return {"role": _ROLES[role], "content": message["value"], **rest}


def _with_system(system: Any, prompt: str | list[Message]) -> list[Message]:
    if not isinstance(system, str):
        raise FormError(f"'system' must be text, got {kind(system)}")
    messages = as_messages(prompt, "prompt", role="user")
    message = {"role": "system", "content": system}
    if messages and messages[0]["role"] == "system":
        if messages[0] != message:
            raise FormError("it has a 'system' and another system's message; keep one")
        return messages
    return [message, *messages]


def _variables(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns what a row has for the chat template."""
    found: dict[str, Any] = {}
    for name in ("tools", "documents"):
        if (value := fields.get(name)) not in (None, [], ""):
            found[name] = _list(value, name)
    more = fields.get("chat_template_kwargs") or {}
    if not isinstance(more, dict):
        raise FormError(f"'chat_template_kwargs' must be an object, got {kind(more)}")
    found |= {key: value for key, value in more.items() if value is not None}
    return found


def _list(value: Any, name: str) -> list[Any]:
    if isinstance(value, str):  # as data sets of tools store them
        try:
            value = json.loads(value)
        except ValueError as error:
            raise FormError(f"{name!r} must be JSON, got {value!r:.40}") from error
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise FormError(f"{name!r} must be a list of objects, got {value!r:.40}")
    return value


def kind(value: Any) -> str:
    """Returns what a value of JSON is, in words."""
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "text"}
    kinds |= {list: "a list", dict: "an object", type(None): "null"}
    return kinds[type(value)]
