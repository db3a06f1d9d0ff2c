"""How much work was done, and how much of a file is done."""

import dataclasses
import hashlib
from typing import Any, Self

from rljax.training.manifest import device


@dataclasses.dataclass
class Counts:
    """Work done on some pairs; counts of several add up with `+`.

    Attributes:
        padded_tokens: tokens computed, padding included.
        compile_count: programs compiled, at most one a padded length.
        seconds_run: all the time but that spent compiling; 0 for a batch.
    """

    pairs: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    compile_count: int = 0
    seconds_compile: float = 0.0
    seconds_run: float = 0.0

    def __add__(self, other: "Counts") -> Self:
        names = [field.name for field in dataclasses.fields(other)]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return dataclasses.replace(self, **sums)

    @property
    def padding_share(self) -> float:
        """The share of the computed tokens that was no text."""
        return 1 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0


@dataclasses.dataclass
class Progress(Counts):
    """How much of a file is done, by all the processes that worked on it.

    Attributes:
        rows: rows read and done with, those of errors included.
        errors: how many of them became one with the reason.
        input_bytes: bytes read for the rows, whose hash is `input_sha256`.
        output_bytes: bytes written for them.
    """

    rows: int = 0
    errors: int = 0
    input_bytes: int = 0
    input_sha256: str = hashlib.sha256().hexdigest()
    output_bytes: int = 0

    def joined(self, other: Any) -> Self:
        """Returns what two processes did at the same time: the seconds of the slower one.

        The input remains this one's.
        """
        added = (
            "pairs", "tokens", "padded_tokens", "compile_count", "rows", "errors",
            "output_bytes",
        )  # fmt: skip
        slower = ("seconds_compile", "seconds_run")
        sums = {name: getattr(self, name) + getattr(other, name) for name in added}
        most = {name: max(getattr(self, name), getattr(other, name)) for name in slower}
        return dataclasses.replace(self, **sums, **most)

    def summary(self) -> dict[str, Any]:
        """Returns how much was done, how fast, and on what."""
        return {
            "device": device(),
            "rows": self.rows,
            "errors": self.errors,
            "tokens": self.tokens,
            "tokens_per_second": self.tokens / max(self.seconds_run, 1e-9),
            "padding_share": self.padding_share,
            "compile_count": self.compile_count,
            "seconds_compile": self.seconds_compile,
            "seconds_run": self.seconds_run,
        }

    def result(self) -> dict[str, Any]:
        """Returns the figures of a finished file: the summary, and more in others."""
        return self.summary()
