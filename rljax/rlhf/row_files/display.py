"""The line of progress of a file that is read row by row."""

import time
from collections.abc import Callable

from rljax.rlhf.row_files.counts import Counts, Progress
from rljax.rlhf.row_files.lines import Window
from rljax.training.progress import clock, si


class Display:
    """The line of progress; the batches done are ahead of the rows written."""

    def __init__(self, done: Progress, total_bytes: Callable[[], float | None]):
        self._before = self._done = done
        self._total_bytes, self._started = total_bytes, time.perf_counter()
        self._counts, self._window_pairs = Counts(), 0
        self._window: Window | None = None

    def on_batch(self, window: Window, counts: Counts) -> None:
        """Adds the work on a batch of a window."""
        self._window, self._counts = window, self._counts + counts
        self._window_pairs += counts.pairs

    def on_written(self, done: Progress) -> None:
        """Goes on to the next window."""
        self._done, self._window, self._window_pairs = done, None, 0

    def line(self) -> tuple[float | None, str]:
        """Returns the share of the input that is done, if known, and a line about it."""
        before, counts, window = self._before, self._counts, self._window
        rows, offset = float(self._done.rows), float(self._done.input_bytes)
        if window is not None:
            num_pairs = sum(len(row.pairs) for _, row in window.rows)
            share = min(self._window_pairs / max(num_pairs, 1), 1.0)
            rows += share * len(window.rows)
            offset += share * (window.input_bytes - offset)
        spent = time.perf_counter() - self._started - counts.seconds_compile
        seconds = max(spent, 1e-9)
        rate = (offset - before.input_bytes) / seconds
        size, read, left = self._total_bytes(), None, "-:--:--"
        if size is not None:
            read = min(offset / max(size, 1), 1.0)
            left = clock(max(size - offset, 0) / rate) if rate else left
        return read, (
            f"{si(rows)} rows  {si((rows - before.rows) / seconds)} rows/s  "
            f"{si(counts.tokens / seconds)} tok/s  {counts.padding_share:.0%} padding  "
            f"{left} left"
        )
