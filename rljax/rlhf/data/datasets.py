r"""Data sets to learn from, in TRL's formats and others: preferences, completions, ratings.

    {"prompt": ..., "chosen": ..., "rejected": ..., "margin": 1, "prob": 0.8}
    {"chosen": "\n\nHuman: ...", "rejected": ...}           HH-RLHF's transcripts
    {"prompt": ..., "completions": [...], "ratings": [...]} or "ranks", from 1, the best
    {"text": ..., "ratings": [...]}                         as raters gave them, or "rating"
    {"prompt": ..., "completion": ...}, {"messages": [...]}, {"text": ...}

Prompts and completions have any form that `rljax score` reads: see `forms`. A file is JSON
lines, a JSON array or Parquet, gzipped or not. It is read once for each iteration, row by
row.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from rljax.rlhf.data.forms import (
    Columns,
    FormError,
    kind,
    read_form,
    read_prompt,
    rename,
)
from rljax.rlhf.data.pairs import Example, Pair
from rljax.rlhf.data.ratings import Rated
from rljax.rlhf.data.sources import BOM, LineError, open_input, read_object
from rljax.training.files import RunError, one_line

Record = TypeVar("Record", covariant=True)

_ROLES = {
    "assistant", "context", "developer", "documents", "environment", "function",
    "ipython", "system", "tool", "tool_response", "user",
}  # fmt: skip


class DataError(RunError):
    """A data set cannot be read or learned from, for the reason in the message."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """What the columns beside prompts and completions are called.

    Attributes:
        text: a text without a prompt.
        margin: by how much the chosen completion is better, in score, at least 0.
        prob: the probability that it is preferred to the rejected one.
        rating: a number, the higher the better.
        ratings: one for each of several completions, or from each of a text's raters.
        ranks: of several completions, the lower the better.
        label: whether a completion is desirable.
    """

    text: str = "text"
    margin: str = "margin"
    prob: str = "prob"
    rating: str = "rating"
    ratings: str = "ratings"
    ranks: str = "ranks"
    label: str = "label"

    def __post_init__(self):
        names = list(dataclasses.astuple(self))
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(
                f"columns have names of their own, got {twice[0]!r} twice. Rename one."
            )


class Preference(NamedTuple):
    """Completions of a prompt, from the best to the worst; two, but of a ranking more.

    Attributes:
        examples: each completion with its prompt.
        margin: by how much the first is better than the second, in score.
        prob: the probability that the first is preferred to the second.
        num_tied: completions left out, since each is rated as another that is there.
    """

    examples: Sequence[Example]
    margin: float = 0.0
    prob: float = 1.0
    num_tied: int = 0

    @property
    def chosen(self) -> Example:
        """The best."""
        return self.examples[0]

    @property
    def rejected(self) -> Example:
        """The worst."""
        return self.examples[-1]


class Records(Generic[Record]):
    """The records of a file, read anew by each iteration.

    Attributes:
        path: the file.
        num_bad: rows passed over by the last iteration, since they cannot be read.
        first_bad: the first of these and why, or "".
    """

    def __init__(
        self,
        path: Path | str,
        read: Callable[[dict[str, Any]], Iterable[Record]],
        *,
        skip_bad: bool = False,
    ):
        """Reads each row by a function that may raise a FormError."""
        self.path = Path(path)
        self.num_bad, self.first_bad = 0, ""
        self._read, self._skip_bad = read, skip_bad

    def __iter__(self) -> Iterator[Record]:
        """Yields the records in their order in the file."""
        return (record for _, record in self.with_places())

    def with_places(self) -> Iterator[tuple[str, Record]]:
        """Yields records with where they are, such as "line 7 of train.jsonl".

        Raises:
            DataError: a row cannot be read, unless such are passed over; or the file.
            RunError: the file is damaged.
        """
        self.num_bad, self.first_bad = 0, ""
        try:
            with open_input(self.path) as source:
                for number, line in enumerate(source.stream, 1):
                    line = line.removeprefix(BOM) if number == 1 else line
                    if not line.strip():
                        continue
                    place = f"line {number} of {self.path}"
                    try:
                        records = list(self._read(read_object(line)))
                    except (LineError, FormError) as error:
                        self._pass_over(f"{place}: {one_line(error)}", error)
                        continue
                    for record in records:
                        yield place, record
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be read: {one_line(error)}. Give a file that can."
            ) from error

    def _pass_over(self, reason: str, error: ValueError) -> None:
        if not self._skip_bad:
            raise DataError(
                f"{reason}. Mend it, or pass over such lines with skip_bad."
            ) from error
        self.num_bad += 1
        self.first_bad = self.first_bad or reason


def read_preferences(
    path: Path | str,
    *,
    columns: Columns | None = None,
    labels: Labels | None = None,
    skip_bad: bool = False,
) -> Records[Preference]:
    """Returns the preferences of a file: chosen and rejected, or rankings.

    Several completions are ordered by their `ratings` (or `scores`), if there are any, else
    by their `ranks`. Of those with equal ones the first stays, and the others are counted.

    Args:
        path: the file.
        columns: what the columns of prompts and completions are called.
        labels: what the others are called.
        skip_bad: pass over rows that cannot be read, and count them.
    """
    read = functools.partial(_preference, columns=columns, labels=labels or Labels())
    return Records(path, read, skip_bad=skip_bad)


def read_completions(
    path: Path | str,
    *,
    columns: Columns | None = None,
    labels: Labels | None = None,
    turns: Literal["last", "all"] = "last",
    skip_bad: bool = False,
) -> Records[Example]:
    """Returns prompts with completions that a language model is to learn.

    Of `messages` the last is the completion, or, with all `turns`, each of the assistant's
    after the messages before it. A `text` is a completion of nothing. To learn the chosen
    completions of preferences, give `one.chosen for one in read_preferences(path)`.

    Args:
        path: the file.
        columns: what the columns of prompts and completions are called.
        labels: what the column of a bare text is called.
        turns: which of the assistant's messages are learned.
        skip_bad: pass over rows that cannot be read, and count them.
    """
    read = functools.partial(
        _completions, columns=columns, labels=labels or Labels(), turns=turns
    )
    return Records(path, read, skip_bad=skip_bad)


def read_prompts(
    path: Path | str, *, columns: Columns | None = None, skip_bad: bool = False
) -> Records[Pair]:
    """Returns prompts, each as a pair whose completion is empty.

    A row without a `prompt` has it before its completions, as in preferences. A
    completion is not needed.

    Args:
        path: the file.
        columns: what the columns of prompts and completions are called.
        skip_bad: pass over rows that cannot be read, and count them.
    """

    def read(row: dict[str, Any]) -> list[Pair]:
        prompt = read_prompt(row, columns)
        _check_roles(prompt)
        return [prompt]

    return Records(path, read, skip_bad=skip_bad)


def read_ratings(
    path: Path | str,
    *,
    columns: Columns | None = None,
    labels: Labels | None = None,
    skip_bad: bool = False,
) -> Records[Rated]:
    """Returns rated texts: a `text` or a completion, with its `rating` or `ratings`.

    `score` and `scores` are the same. Several completions have a rating each.

    Args:
        path: the file.
        columns: what the columns of prompts and completions are called.
        labels: what the others are called.
        skip_bad: pass over rows that cannot be read, and count them.
    """
    read = functools.partial(_rated, columns=columns, labels=labels or Labels())
    return Records(path, read, skip_bad=skip_bad)


def _preference(
    row: dict[str, Any], *, columns: Columns | None, labels: Labels
) -> list[Preference]:
    found, fields = forms_of(row, columns, labels), labels_of(row, labels)
    if "completions" in found:
        return [_ranked(found["completions"], fields, labels)]
    if "chosen" not in found:
        (column,) = found
        raise FormError(
            f"it has {column!r}, and no preference; it needs a chosen and a rejected "
            f"completion, or several with {labels.ratings!r} or {labels.ranks!r}"
        )
    margin = _number(fields.get("margin", 0.0), labels.margin)
    prob = _number(fields.get("prob", 1.0), labels.prob)
    if margin < 0:
        raise FormError(
            f"{labels.margin!r} must be at least 0, got {margin:g}; it is by how much the "
            f"chosen one is better"
        )
    if not 0 <= prob <= 1:
        raise FormError(f"{labels.prob!r} must be in [0, 1], got {prob:g}")
    return [Preference((*found["chosen"], *found["rejected"]), margin, prob)]


def _ranked(
    examples: list[Example], fields: dict[str, Any], labels: Labels
) -> Preference:
    name, values = _first(fields, labels, "ratings", "scores", "ranks")
    values = _numbers(values, name)
    if len(values) != len(examples):
        raise FormError(
            f"{name!r} must have one number for each of {len(examples)} completions, got "
            f"{len(values)}"
        )
    if len(examples) < 2:
        raise FormError("a ranking needs at least two completions, got one")
    worse = values if name == labels.ranks else [-value for value in values]
    best_first = dict[float, Example]()
    for place in sorted(range(len(worse)), key=lambda i: worse[i]):
        best_first.setdefault(worse[place], examples[place])
    ranked = tuple(best_first.values())
    return Preference(ranked, num_tied=len(examples) - len(ranked))


def _completions(
    row: dict[str, Any],
    *,
    columns: Columns | None,
    labels: Labels,
    turns: Literal["last", "all"],
) -> list[Example]:
    found = forms_of(row, columns, labels)
    if "chosen" in found:
        raise FormError(
            "it has a chosen and a rejected completion; it needs one to be learned"
        )
    ((column, examples),) = found.items()
    if turns == "last" or column not in ("messages", "conversations"):
        return examples
    last: Any = examples[0]
    before = last.prompt
    return [
        Pair(before[:i], before[i : i + 1], last.variables)
        for i, message in enumerate(before)
        if i and message["role"] == "assistant"
    ] + examples


def _rated(
    row: dict[str, Any], *, columns: Columns | None, labels: Labels
) -> list[Rated]:
    found, fields = forms_of(row, columns, labels), labels_of(row, labels)
    examples = [example for column in found.values() for example in column]
    name, value = _first(fields, labels, "ratings", "scores", "rating", "score")
    ratings = _numbers(value if isinstance(value, list) else [value], name)
    if "completions" not in found and len(examples) == 1:
        return [Rated(examples[0], tuple(ratings))]
    if len(ratings) != len(examples):
        raise FormError(
            f"{name!r} must have one number for each of {len(examples)} completions, got "
            f"{len(ratings)}"
        )
    return [Rated(one, (n,)) for one, n in zip(examples, ratings, strict=True)]


def forms_of(
    row: dict[str, Any], columns: Columns | None, labels: Labels
) -> dict[str, list[Example]]:
    """Returns what `read_form` does, of messages whose roles are known."""
    if labels.text != "text":
        row = row | {"text": row.get(labels.text)}
    found = read_form(row, columns, allow_text=True)
    for examples in found.values():
        for example in examples:
            _check_roles(example)
    return found


def _check_roles(example: Example) -> None:
    if not isinstance(example, Pair):
        return
    for messages in (example.prompt, example.completion):
        for message in messages if isinstance(messages, list) else ():
            if (role := message["role"]) not in _ROLES:
                raise FormError(
                    f"a message has the role {role!r:.40}, which is unknown; it must be "
                    f"one of {', '.join(sorted(_ROLES))}"
                )


def labels_of(row: Mapping[str, Any], labels: Labels) -> dict[str, Any]:
    """Returns the columns of a row that are not null, labels by our names for them."""
    return rename(row, _called(labels))


@functools.cache
def _called(labels: Labels) -> dict[str, str]:
    return dataclasses.asdict(labels)


def _first(fields: dict[str, Any], labels: Labels, *names: str) -> tuple[str, Any]:
    """Returns the first column that is there, by the row's name, and what it holds."""
    called = _called(labels)
    for name in names:
        if name in fields:
            return called.get(name, name), fields[name]
    wanted = " or ".join(repr(called[name]) for name in names if name in called)
    raise FormError(f"it has no {wanted}")


def _numbers(values: Any, name: str) -> list[float]:
    if not isinstance(values, list) or not values:
        raise FormError(f"{name!r} must be a list of numbers, got {values!r:.40}")
    return [_number(value, name) for value in values]


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormError(f"{name!r} must be a number, got {kind(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FormError(f"{name!r} must be finite, got {value!r:.40}")
    return number
