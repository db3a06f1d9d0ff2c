"""SIGTERM and Ctrl-C as requests to stop once everything is saved."""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A signal stopped the work; the message is the signal's name."""


@dataclasses.dataclass
class Interrupts:
    """The first signal that was received: "SIGTERM" or "SIGINT", or None."""

    received: str | None = None


@contextlib.contextmanager
def catch_interrupts(*, raise_at_once: bool = False) -> Iterator[Interrupts]:
    """Catches the first SIGTERM or Ctrl-C; a second one acts as it did before.

    Outside the main thread nothing is caught. With `raise_at_once`, `Interrupted` is
    raised, too, wherever the program is.
    """
    interrupts, before = Interrupts(), dict[int, Any]()

    def handle(number: int, frame: Any) -> None:
        signal.signal(number, before[number])
        interrupts.received = signal.Signals(number).name
        if raise_at_once:
            raise Interrupted(interrupts.received)
        text = f"{interrupts.received}: stopping once all is saved; again to stop now"
        os.write(2, text.encode() + b"\n")  # print may be what was interrupted

    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not the main thread
                before[number] = signal.getsignal(number)
                signal.signal(number, handle)
        yield interrupts
    finally:
        for caught, handler in before.items():
            with contextlib.suppress(ValueError):
                signal.signal(caught, handler)
