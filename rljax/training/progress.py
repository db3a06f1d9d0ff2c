"""A line of progress about work that itself reports too seldom."""

import sys
import threading
from collections.abc import Callable

from rljax.training.loggers import say


class Ticker:
    """Shows on stderr how far something is: a bar in a terminal, now and then a line.

    A context manager; a thread asks how far it is.

    Args:
        state: the share that is done, in [0, 1], and a line about it of at most 69
            characters, so that it fits a terminal of 80 columns.
        seconds: between two lines where stderr is no terminal.
    """

    def __init__(self, state: Callable[[], tuple[float, str]], seconds: float = 10.0):
        from rich import progress
        from rich.console import Console

        console = Console(file=sys.stderr)
        self._state, self._live = state, console.is_terminal
        self._seconds = 1.0 if self._live else seconds
        self._bar = progress.Progress(
            progress.BarColumn(bar_width=4),
            progress.TextColumn("{task.description}"),
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("starting", total=1.0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "Ticker":
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
        share, line = self._state()
        line = f"{share:4.0%}  {line}"
        if self._live:
            self._bar.update(self._task, completed=share, description=line)
        else:
            say(line)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: 3725 is 1:02:05."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def si(number: float) -> str:
    """At most five characters: 1234567 is 1.23M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * limit:
            return f"{number / limit:.3g}{suffix}"
    return f"{number:.3g}"
