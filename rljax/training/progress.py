"""Progress on stderr: of a training run, and of any long work."""

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from rljax.training.loggers import Row, log_line


class Console:
    """A `Logger` of progress on stderr: a bar in a terminal, else a line per evaluation.

    `total` is the updates of the whole run, `headline` the value of a row to show, and
    `unit` what rows count.
    """

    def __init__(self, total: int, headline: str, unit: str = "env_steps"):
        from rich import progress

        self._total, self._headline, self._shown = total, headline, ""
        self._unit = unit
        self._bar, self._live = _bar(
            "{task.description}",
            progress.BarColumn(bar_width=None),
            progress.TaskProgressColumn(),
            "{task.fields[rate]}",
            progress.TimeRemainingColumn(elapsed_when_finished=True),
            "{task.fields[shown]}",
        )
        self._task = self._bar.add_task("compiling", total=total, rate="", shown="")
        self._bar.start()

    def write(self, row: Row) -> None:
        """Updates the bar."""
        if evaluated := self._headline in row:
            values = np.asarray(row[self._headline], np.float64).ravel()
            known = values[~np.isnan(values)]  # not of diverged runs, say
            mean = "unknown"
            if len(known):  # a share needs more digits than a return does
                mean = format(known.mean(), ".1f" if abs(known.mean()) > 1 else ".3f")
            self._shown = f"{self._headline.replace('_', ' ')} {mean}"
        unit = self._unit.removeprefix("env_").replace("_", " ")
        rate = f"{si(row[f'{self._unit}_per_second'])} {unit}/s"
        self._bar.update(
            self._task,
            completed=row["step"],
            description="trained" if row["step"] >= self._total else "training",
            rate=rate,
            shown=self._shown,
        )
        if evaluated and not self._live:
            log_line(f"update {row['step']:,}/{self._total:,}  {rate}  {self._shown}")

    def sync(self) -> None:
        """Does nothing: nothing is stored."""

    def close(self) -> None:
        """Stops the bar; its last state stays on the screen."""
        self._bar.stop()


class ProgressTicker:
    """Shows the progress of long work on stderr: a bar in a terminal, else timed lines.

    A context manager: a thread calls `state` at regular times.

    Args:
        state: returns the fraction done, in [0, 1] or None if it is not known, and a line
            of up to 69 characters.
        seconds: between two lines where stderr is no terminal.
    """

    def __init__(
        self, state: Callable[[], tuple[float | None, str]], seconds: float = 10.0
    ):
        from rich.progress import BarColumn

        self._state = state
        self._bar, self._live = _bar(BarColumn(bar_width=4), "{task.description}")
        self._seconds = 1.0 if self._live else seconds
        self._task = self._bar.add_task("starting", total=1.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "ProgressTicker":
        self._bar.start()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._live:
            self._show()  # the last state stays on the screen
        self._bar.stop()

    def _tick(self) -> None:
        while not self._stop.wait(self._seconds):
            self._show()

    def _show(self) -> None:
        fraction, text = self._state()
        line = f"{'  ? ' if fraction is None else format(fraction, '4.0%')}  {text}"
        if self._live:
            self._bar.update(self._task, completed=fraction, description=line)
        else:
            log_line(line)


def _bar(*columns: Any) -> tuple[Any, bool]:
    """A bar on stderr, disabled where that is no terminal, and whether it is one."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    live = console.is_terminal
    return Progress(*columns, console=console, disable=not live), live


def clock(seconds: float) -> str:
    """Formats seconds as hours, minutes and seconds: 3725 is 1:02:05."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def si(number: float) -> str:
    """Formats a number in at most five characters: 1234567 is 1.23M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * limit:
            return f"{number / limit:.3g}{suffix}"
    return f"{number:.3g}"
