"""A job of several processes: how they find one another, and that they are the same job."""

import collections
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax

from rljax.numerics.processes import gather
from rljax.numerics.validation import check_at_least
from rljax.training.files import RunError, one_line
from rljax.training.manifest import differences

HEARTBEAT_SECONDS = 15
"""After so long without a sign of life a process is lost, and its job ends."""


def connect(where: str, timeout: int = 50) -> None:
    """Makes this process one of several, as `--distributed` says; before JAX is used.

    Args:
        where: `auto`, as JAX finds it out under SLURM, Open MPI, on Cloud TPU and
            elsewhere; or `HOST:PORT,N,I`: the address of the first process, how many
            there are, and which one this is, from 0.
        timeout: seconds to wait for all of them.

    If they have not all come by then, the process exits with status 1 and a line that
    says so.

    Raises:
        ValueError: `where` is neither, or the processes count differently.
        RunError: it cannot be found out, or the address cannot be used.
    """
    check_at_least(1, connect_timeout=timeout)
    arguments: dict[str, Any] = {}
    if where != "auto":
        address, count, index = _parsed(where)
        arguments = {
            "coordinator_address": address,
            "num_processes": count,
            "process_id": index,
            "cluster_detection_method": "deactivate",
        }
    before = signal.getsignal(signal.SIGTERM)
    # JAX would abort the process, and not say what for.
    watch = threading.Timer(timeout, _give_up, (where, timeout))
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=2 * timeout,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"the processes of --distributed {where} did not find one another: "
            f"{one_line(error)}. Outside of SLURM, Open MPI and Cloud TPU name them: "
            f"HOST:PORT,N,I."
        ) from error
    finally:
        watch.cancel()
    # JAX has taken SIGTERM, which would be lost where nobody asks JAX for it.
    signal.signal(signal.SIGTERM, before)
    counts = collections.Counter(x.process_index for x in jax.devices())
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"all processes must have equally many devices, got "
            f"{', '.join(f'{n} in process {i}' for i, n in sorted(counts.items()))}. Give "
            f"each the same number of cores or accelerators."
        )
    with _stdout_as_stderr():
        # JAX takes the first one's word for how many there are.
        check_same_everywhere({"job": {"N": arguments.get("num_processes")}})


@contextlib.contextmanager
def _stdout_as_stderr() -> Iterator[None]:
    """Sends to stderr what C++ prints, as Gloo does when processes first meet."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def check_same_everywhere(about: dict[str, dict[str, Any]]) -> None:
    """Raises a ValueError, in every process, if one is about to run something else.

    Args:
        about: flat dictionaries of JSON by name: settings, versions and so on.
    """
    first, *others = gather(about)
    found = [
        f"in process {i}: {text}"
        for i, other in enumerate(others, start=1)
        for group in first
        if (text := "; ".join(differences(first[group], other[group], _WORDS)))
    ]
    if found:
        raise ValueError(
            f"the processes of a job must be the same but for their number; those other "
            f"than in the first one are {', '.join(found)}. Start all with the same "
            f"command and the same installation."
        )


_WORDS = ("in the first", "there")


def _give_up(where: str, timeout: int) -> None:
    expected = "the processes"
    if where != "auto":
        _, count, index = _parsed(where)
        expected = f"{count} processes, of which this is number {index},"
    text = (
        f"error: {expected} of --distributed {where} did not all come within {timeout} s. "
        f"Start as many as there are to be, each with a number of its own and the first "
        f"one's address, or wait longer with --connect-timeout.\n"
    )
    os.write(2, text.encode())
    os._exit(1)


def _parsed(where: str) -> tuple[str, int, int]:
    address, *numbers = where.split(",")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or len(numbers) != 2:
        numbers = []
    if not all(x.isdigit() for x in numbers) or not numbers:
        raise ValueError(
            f"--distributed must be auto or HOST:PORT,N,I, got {where!r}. Name the first "
            f"process's address, how many processes there are, and which one this is: "
            f"10.0.0.1:8476,2,0."
        )
    count, index = map(int, numbers)
    if index >= count:
        raise ValueError(
            f"--distributed numbers {count} processes from 0 to {count - 1}, got {index}. "
            f"Change it."
        )
    return address, count, index
