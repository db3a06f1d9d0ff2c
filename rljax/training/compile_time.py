"""The one place that measures compiling: a stopwatch that keeps it apart from running."""

import threading
import time

import jax

# Tracing, lowering, and XLA's compiling or reading from the persistent cache.
_EVENTS = frozenset(
    f"/jax/core/compile/{name}_duration"
    for name in ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile")
)
_lock = threading.Lock()
_seconds = 0.0


def _count(event: str, duration_secs: float, **_: object) -> None:
    global _seconds
    if event in _EVENTS:
        with _lock:
            _seconds += duration_secs


jax.monitoring.register_event_duration_secs_listener(_count)


class Stopwatch:
    """Counts the seconds since it was made, compiling and all the rest apart.

    Compiling is what JAX reports of this process: tracing, lowering, and compiling or
    reading a compiled program from the persistent cache.
    """

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._compiled_before = _seconds

    @property
    def seconds_compile(self) -> float:
        """Seconds spent compiling."""
        return _seconds - self._compiled_before

    @property
    def seconds_run(self) -> float:
        """All the other seconds."""
        return time.perf_counter() - self._started - self.seconds_compile
