"""Trials whose job was killed: their heartbeats stop, they are failed and tried again.

Optuna's heartbeats run only within `optimize`; these do for `ask` and `tell`, in any of
its storages.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rljax.training.loggers import log_line

MAX_RETRIES = 3
"""How often a lost trial's point is tried again, at most: it may be what kills its job."""


@contextlib.contextmanager
def heartbeat(trials: Sequence[Any], interval: float = 15.0) -> Iterator[None]:
    """Stores the time in the trials' user attributes, as long as the block runs.

    Once before the block, then in a thread. If the storage fails, a line on stderr says so
    once, and the block goes on.

    Args:
        trials: `optuna.Trial`s that run.
        interval: seconds from one heartbeat to the next.
    """
    stopped, failed = threading.Event(), threading.Event()

    def beat() -> None:
        for trial in trials:
            try:
                trial.set_user_attr("heartbeat", time.time())
            except Exception as error:  # a database's driver may raise anything
                if not failed.is_set():
                    reason = (str(error) or repr(error)).splitlines()[0]
                    log_line(
                        f"warning: trial {trial.number} has no heartbeat: {reason}"
                    )
                failed.set()

    def beat_on() -> None:
        while not stopped.wait(interval):
            beat()

    beat()
    thread = threading.Thread(target=beat_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def fail_lost(study: Any, grace: float = 120.0) -> None:
    """Fails the trials whose job was killed, and enqueues their points again.

    A trial is lost if it runs and its last heartbeat is too long ago; one without a
    heartbeat, if its start is. Of jobs that find the same trial, the first enqueues it;
    only SQLite, which locks no rows, may let both do so within the same milliseconds.

    Args:
        study: the `optuna.Study`.
        grace: seconds from the last heartbeat after which a trial is lost. Jobs' clocks
            must agree to far less, and their time zones, too, as Optuna's starts are in
            local time.
    """
    from optuna.trial import TrialState

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in running:
        started = trial.datetime_start.timestamp()
        if time.time() - trial.user_attrs.get("heartbeat", started) <= grace:
            continue
        if not fail(study, trial):
            break  # another job has begun with the same trials, and fails the rest
        then = f"given up after {MAX_RETRIES + 1} tries"
        if enqueue_again(study, trial):
            then = "tried again"
        log_line(f"trial {trial.number} was lost with its job; it is {then}")


def fail(study: Any, trial: Any) -> bool:
    """Fails a running trial; returns whether it did, and not another job before."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):  # by how long before says which
        return False
    return True


def enqueue_again(study: Any, trial: Any) -> bool:
    """Enqueues a failed trial's point; returns False if it was retried often enough.

    The new trial's user attribute `retried` is the number of the failed one.
    """
    trials = {other.number: other for other in study.get_trials(deepcopy=False)}
    tries = [trial]
    while (number := tries[0].user_attrs.get("retried")) is not None:
        tries.insert(0, trials[number])
    if len(tries) > MAX_RETRIES:
        return False
    # A job may be killed before it has read the parameters that were enqueued for it.
    point = {name: value for each in tries for name, value in each.params.items()}
    study.enqueue_trial(point, user_attrs={"retried": trial.number})
    return True
