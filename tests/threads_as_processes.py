"""Processes of a job as threads, for tests: each knows its number, and what others gather."""

import collections
import concurrent.futures
import json
import threading
import types

from rljax.rlhf.row_files import rewriting, shares
from rljax.training import distributed


class LostError(BaseException):
    """Another process of the job is lost."""


class Job:
    """So many threads that rewrite a file together; an error in one is the end of all."""

    def __init__(self, monkeypatch, count):
        self.count = count
        self._local = threading.local()
        monkeypatch.setattr(rewriting, "num_processes", lambda: self.count)
        here = types.SimpleNamespace(process_index=lambda: self.process)
        monkeypatch.setattr(rewriting, "jax", here)
        monkeypatch.setattr(shares, "gather", self._gather)
        monkeypatch.setattr(shares, "agree", lambda value: self._gather(value)[0])
        monkeypatch.setattr(distributed, "gather", self._gather)
        sleep = types.SimpleNamespace(sleep=self._sleep)
        monkeypatch.setattr(shares, "time", sleep)

    @property
    def process(self):
        """This thread's number; none of one that is not the job's."""
        return getattr(self._local, "process", None)

    def run(self, function):
        """Returns what a function of the process's number returns, or raises, in each."""
        self._changed, self._lost = threading.Condition(), threading.Event()
        self._rounds = collections.defaultdict(dict)
        with concurrent.futures.ThreadPoolExecutor(self.count) as pool:
            return list(pool.map(lambda i: self._run(function, i), range(self.count)))

    def _run(self, function, process):
        self._local.process, self._local.round = process, 0
        try:
            return function(process)
        except BaseException as error:
            with self._changed:
                self._lost.set()
                self._changed.notify_all()
            return error

    def _gather(self, value):
        self._local.round += 1
        values = self._rounds[self._local.round]
        with self._changed:
            values[self.process] = json.loads(json.dumps(value))
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: len(values) == self.count or self._lost.is_set()
            )
        if len(values) < self.count:
            raise LostError
        return [values[i] for i in range(self.count)]

    def _sleep(self, seconds):
        if self._lost.wait(seconds / 20):
            raise LostError
