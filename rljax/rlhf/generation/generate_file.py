"""Completes the prompts of a file into another of JSON lines, a line for each completion.

How it goes on where it was killed, and what lies beside the output, is described in
`row_files.rewriting`. `rljax score` reads the output as it is.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rljax.numerics.validation import check_at_least
from rljax.rlhf.data.forms import Columns, FormError, read_prompt
from rljax.rlhf.data.pairs import Example
from rljax.rlhf.data.sources import LineError, read_object
from rljax.rlhf.generation.generator import Completion, Draw, Generator
from rljax.rlhf.row_files import (
    Counts,
    Progress,
    RowError,
    Window,
    error_line,
    extended_line,
    rewrite,
)

_ERROR = "completion_error"
_FIELDS = ("completion", "prompt_ids", "completion_ids", "log_prob", "finish_reason")


@dataclasses.dataclass
class GenerationProgress(Progress):
    """How much of a file has been completed, by all the processes that worked on it.

    Attributes:
        stopped: completions that ended by themselves.
    """

    stopped: int = 0

    def joined(self, other: "GenerationProgress") -> "GenerationProgress":
        """As in general."""
        both = Progress.joined(self, other)
        return dataclasses.replace(both, stopped=self.stopped + other.stopped)

    def result(self) -> dict[str, Any]:
        """Returns the summary of a finished file."""
        return self.summary() | {
            "prompts": self.rows - self.errors,
            "completions": self.pairs,
            "stopped": self.stopped,
        }


class PromptRow(NamedTuple):
    """A line of the input, and the prompt in it, once for each completion."""

    line: bytes
    fields: dict[str, Any]
    pairs: list[Example]
    error: str | None = None


def generate_file(
    generator: Generator,
    input: Path,
    output: Path,
    *,
    settings: dict[str, Any],
    num_completions: int = 1,
    error_rows: bool = False,
    columns: Columns | None = None,
) -> dict[str, Any]:
    """Writes completions of every prompt of a file, in order, as `rewrite` does.

    The input is as for `score_file`; of a row only the prompt is needed. Every completion
    is a line with the fields of the row, `completion`, `prompt_ids`, `completion_ids`,
    `log_prob` (the sum over its tokens), and `finish_reason`, "stop" or "length". What it
    is follows from the generator's seed, the number of the line, and that of the
    completion.

    Returns:
        The figures, as they lie in OUT.run.json.

    Raises:
        RowFileError: a prompt cannot be completed, or as `rewrite` has it.
    """
    check_at_least(1, num_completions=num_completions)
    return rewrite(
        _Generation(generator, num_completions, columns),
        input,
        output,
        settings=settings | {"num_completions": num_completions},
        fingerprint=generator.fingerprint,
        error_rows=error_rows,
    )


class _Generation:
    """Generation, as what is done with the rows of a file."""

    def __init__(
        self, generator: Generator, num_completions: int, columns: Columns | None
    ):
        self.window, self.start = generator.window, GenerationProgress()
        self._generator, self._num_completions = generator, num_completions
        self._columns = columns

    def read(self, line: bytes) -> PromptRow:
        """Returns the prompt in a line."""
        fields: dict[str, Any] = {}
        try:
            fields = read_object(line)
            prompt = read_prompt(fields, self._columns)
            for name in (*_FIELDS, _ERROR):
                if name in fields:
                    raise RowError(
                        f"it has a field {name!r} already, which is not overwritten; "
                        f"rename it, or leave it out"
                    )
            return PromptRow(line, fields, [prompt] * self._num_completions)
        except (LineError, RowError, FormError) as error:
            return PromptRow(line, fields, [], str(error))

    def stream(
        self,
        windows: Iterator[tuple[Window, list[Example]]],
        on_batch: Callable[[Window, Counts], None],
    ) -> Iterator[tuple[Window, list[Completion], Counts]]:
        """Yields windows with the completions of their prompts."""

        def draws(window: Window) -> list[Draw]:
            return [
                Draw(prompt, line - 1, number)  # as `Generator.generate` counts
                for line, row in window.rows
                for number, prompt in enumerate(row.pairs)
            ]

        return self._generator.stream(
            ((window, draws(window)) for window, _ in windows), on_batch
        )

    def write(
        self,
        row: PromptRow,
        results: list[Completion],
        place: int,
        done: GenerationProgress,
    ) -> tuple[bytes, str | None]:
        """Returns a line for each completion of a row, or why there is none."""
        here = results[place : place + len(row.pairs)]
        for one in here:
            if one.error is not None:
                return b"", one.error
        lines = []
        for one in here:
            done.stopped += one.finish_reason == "stop"
            values = (
                one.text,
                one.prompt_ids,
                one.ids,
                np.float32(one.log_prob),
                one.finish_reason,
            )
            added = dict(zip(_FIELDS, values, strict=True))
            lines.append(extended_line(row.line, added))
        return b"".join(lines), None

    def write_error(self, row: PromptRow, reason: str) -> bytes:
        """Returns a row with the reason why it has no completion."""
        return error_line(row.fields, reason, _ERROR, ())
