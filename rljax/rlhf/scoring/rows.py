"""Lines of a JSONL file to score: the pairs in them, and the lines that come out.

    {"prompt": ..., "completion": ...}             text, or messages of a chat
    {"messages": [..., {"role": "assistant", ...}]}
    {"prompt": ..., "chosen": ..., "rejected": ...}
    {"chosen": [..., {"role": "assistant", ...}], "rejected": [...]}

Any other fields of a line are kept, byte for byte.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from rljax.rlhf.data.encoding import is_message
from rljax.rlhf.scoring.scorer import Pair, Scored
from rljax.training.files import RunError, dumps

_BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20  # bytes
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class ScoreFileError(RunError):
    """The file cannot be scored, or not further, for the reason in the message."""


class RowError(ValueError):
    """A line that cannot be scored, for the reason in the message."""


class Row(NamedTuple):
    """A line of the input: the object in it, and each pair's score's name.

    Where there is an `error` there are no pairs.
    """

    line: bytes
    fields: dict[str, Any]
    names: list[str]
    pairs: list[Pair]
    error: str | None = None


class Window(NamedTuple):
    """Lines that were read together, by number, and the input up to their end.

    Blank lines are not among the rows.
    """

    rows: list[tuple[int, Row]]
    input_bytes: int
    input_sha256: str


class Reader:
    """Reads the input from some line on; `hash` is that of the `offset` bytes so far."""

    def __init__(self, name: Path, field: str, error_rows: bool):
        self.offset = self._newlines = 0
        self.hash = hashlib.sha256()
        self._name, self._field, self._error_rows = name, field, error_rows

    def skip(self, source: BinaryIO, size: int) -> None:
        """Reads up to `size` bytes, of lines that are already scored."""
        while self.offset < size:
            if not (chunk := source.read(min(_CHUNK, size - self.offset))):
                break
            self._count(chunk)

    def windows(
        self, source: BinaryIO, size: int
    ) -> Iterator[tuple[Window, list[Pair]]]:
        """Yields windows of `size` rows or pairs, and the pairs in them.

        Blank lines at the end are a window without rows.
        """
        rows: list[tuple[int, Row]] = []
        pairs: list[Pair] = []
        end = self.offset
        for line in itertools.chain(source, [b""]):  # b"" is the end
            number, first = self._newlines + 1, self.offset == 0
            self._count(line)
            if first:
                line = line.removeprefix(_BOM)
            if line.strip():
                row = read_row(line, self._field)
                if row.error is not None and not self._error_rows:
                    raise bad_line(self._name, number, row.error)
                rows.append((number, row))
                pairs += row.pairs
            full = max(len(rows), len(pairs)) >= size
            if full or (not line and self.offset > end):
                yield Window(rows, self.offset, self.hash.hexdigest()), pairs
                rows, pairs, end = [], [], self.offset

    def _count(self, data: bytes) -> None:
        self.offset += len(data)
        self._newlines += data.count(b"\n")
        self.hash.update(data)


def bad_line(name: Path, number: int, reason: str) -> ScoreFileError:
    """Returns the error of a row that cannot be scored."""
    return ScoreFileError(
        f"line {number} of {name}: {reason.rstrip('.')}. Mend it, or give --error-rows "
        f"to go on past such lines."
    )


def read_row(line: bytes, field: str) -> Row:
    """Returns what a line that is not blank holds, or why it cannot be scored.

    `field` is the score's name, or the beginning of it where there are two.
    """
    fields: dict[str, Any] = {}
    try:
        fields = _object(line)
        found = _pairs(fields)
        names = [f"{field}_{part}" if part else field for part in found]
        for name in (*names, f"{field}_truncated", f"{field}_error"):
            if name in fields:
                raise RowError(
                    f"it has a field {name!r} of its own, which is not overwritten; "
                    f"choose another name with --field"
                )
        return Row(line, fields, names, list(found.values()))
    except RowError as error:
        return Row(line, fields, [], [], str(error))


def scored_line(row: Row, scored: Sequence[Scored], field: str) -> bytes:
    """Returns the output line of a scored row: the input line and the scores."""
    scores = np.array([one.score for one in scored], np.float32)
    added: dict[str, Any] = dict(zip(row.names, scores, strict=True))
    if num_cut := sum(one.num_cut for one in scored):
        added[f"{field}_truncated"] = num_cut
    # A carriage return can only be space here, but some readers end a line at it.
    kept = row.line.strip().replace(b"\r", b" ")[:-1].rstrip()
    return kept + b", " + dumps(added, ensure_ascii=False)[1:].encode() + b"\n"


def error_line(row: Row, error: str, field: str) -> bytes:
    """Returns the output line of a row without scores: its fields, if any, and the error."""
    name = f"{field}_error"
    ours = {name, f"{field}_truncated"}
    ranked = "chosen" in row.fields or "rejected" in row.fields
    ours |= {f"{field}_chosen", f"{field}_rejected"} if ranked else {field}
    kept = {key: value for key, value in row.fields.items() if key not in ours}
    try:
        text = json.dumps(kept | {name: error}, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"
    except (RecursionError, ValueError):  # what cannot be written is what is wrong
        return json.dumps({name: error}).encode() + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line.decode(), parse_constant=_no_constant)
        if not isinstance(value, dict):
            raise RowError(f"it must be a JSON object, got {_kind(value)}")
        if _SURROGATE.search(line):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RowError:
        raise
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8: {error.reason} at byte {error.start + 1}"
    except UnicodeEncodeError:
        reason = "it holds invalid Unicode, half of a surrogate pair such as \\ud800"
    except json.JSONDecodeError as error:
        reason = f"it is not JSON: {error.msg} at character {error.pos + 1}"
    except ValueError as error:  # an integer of thousands of digits
        reason = f"it cannot be read: {error}"
    except RecursionError:
        reason = "it is nested too deeply to be read"
    raise RowError(reason)


def _no_constant(name: str) -> float:
    raise RowError(f"it holds {name}, which is not JSON")


def _pairs(row: dict[str, Any]) -> dict[str, Pair]:
    """Pairs by what is added to the score's name."""
    ranked = [name for name in ("chosen", "rejected") if name in row]
    if "completion" in row and ranked:
        raise RowError(
            f"it has both 'completion' and {ranked[0]!r}; keep what is to be scored"
        )
    if "completion" in row:
        return {"": _pair(row, "completion")}
    if len(ranked) == 2:
        return {name: _pair(row, name) for name in ranked}
    if ranked:
        raise RowError("it needs both 'chosen' and 'rejected', got only one of them")
    if "messages" not in row:
        raise RowError(
            "it needs 'prompt' and 'completion', or 'prompt', 'chosen' and 'rejected', "
            f"or 'messages'; it has {', '.join(map(repr, row)) or 'no fields'}"
        )
    if "prompt" in row:
        raise RowError("it has both 'prompt' and 'messages'; keep one, or a completion")
    return {"": _pair(row, "messages")}


def _pair(row: dict[str, Any], name: str) -> Pair:
    value = row[name]
    prompt: Any = row.get("prompt")
    if "prompt" in row:
        if not isinstance(prompt, str) and not _messages(prompt, "prompt"):
            raise RowError("'prompt' must have at least one message, got none")
        if isinstance(value, str):
            return prompt, value
    elif isinstance(value, str) and name != "messages":
        raise RowError(f"it has {name!r} but no 'prompt'")
    messages = _messages(value, name)
    before, count = messages[:-1], len(messages)
    if "prompt" not in row:
        if count < 2:
            raise RowError(
                f"{name!r} must be a prompt's messages and an assistant's, got "
                f"{count} of them and no 'prompt'"
            )
        prompt = before
    # The prompt may be there as text, and once more in the messages.
    elif count != 1 and before != [{"role": "user", "content": prompt}]:
        raise RowError(
            f"beside a 'prompt', {name!r} must be text or one assistant's message, got "
            f"{count} messages"
        )
    last = messages[-1]
    if last["role"] != "assistant":
        raise RowError(
            f"the last message of {name!r} must be the assistant's, got role "
            f"{last['role']!r}"
        )
    return prompt, last["content"]


def _messages(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise RowError(
            f"{name!r} must be text or a list of messages, got {_kind(value)}"
        )
    if not all(map(is_message, value)):
        raise RowError(
            f"every message of {name!r} must be an object whose 'role' and 'content' "
            f"are text"
        )
    return value


def _kind(value: Any) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "text"}
    kinds |= {list: "a list", dict: "an object", type(None): "null"}
    return kinds[type(value)]
