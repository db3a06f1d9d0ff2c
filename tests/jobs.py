"""Jobs of several real processes on this machine, one CPU device each."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def start(
    command, folder, *, count=2, flags=None, listed=None, devices=(1, 1), cwd=ROOT
):
    """Starts the processes of a job, which print into `folder/0.log` and so on.

    Args:
        command: the script and its flags.
        folder: where their output goes.
        count: how many there are.
        flags: further ones of a process, by its number.
        listed: how many `--distributed` says there are, if not as many.
        devices: of each process.
        cwd: where they are started, or one for each.
    """
    address = f"127.0.0.1:{free_port()}"
    folder.mkdir(parents=True, exist_ok=True)
    processes = []
    for i in range(count):
        where = f"{address},{listed or count},{i}"
        with (folder / f"{i}.log").open("w") as log:
            own = list(map(str, (flags or {}).get(i, ())))
            processes.append(
                subprocess.Popen(
                    [sys.executable, *map(str, command), "--distributed", where, *own],
                    cwd=cwd[i] if isinstance(cwd, list) else cwd,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ
                    | {
                        "PYTHONPATH": str(ROOT),
                        "PJRT_NPROC": "8" if max(devices) > 1 else "1",
                        "JAX_NUM_CPU_DEVICES": str(devices[i % len(devices)]),
                    },
                )
            )
    return processes


def ended(processes, within):
    """Exit statuses; a process that has not ended in so many seconds is an error."""
    limit = time.monotonic() + within
    try:
        return [p.wait(max(limit - time.monotonic(), 0.01)) for p in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def output(folder, number):
    return (folder / f"{number}.log").read_text()


def last_line(folder, number):
    return output(folder, number).strip().splitlines()[-1]


def wait_for(condition, within=240.0):
    limit = time.monotonic() + within
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.02)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
