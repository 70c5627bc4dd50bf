"""Reading ahead: an iterator's items pass through a function in threads, and come out in order.

It promises the order and the results of the plain built-in `map`, errors included; threads only
change when the work is done.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

_QUEUED_PER_WORKER = 4
_PATIENCE = 5.0  # seconds
_POLL = 0.1  # seconds between looks at whether to stop


class ReadAhead(Generic[In, Out]):
    """`map(function, items)`, with one thread that draws the items and `workers` that map them."""

    def __init__(self, function: Callable[[In], Out], items: Iterator[In], workers: int) -> None:
        """Start reading."""
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="read-ahead")
        self._results: queue.Queue[Future[Out] | None] = queue.Queue(workers * _QUEUED_PER_WORKER)
        self._stopped = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(function, items), daemon=True)
        self._reader.start()

    def __iter__(self) -> Iterator[Out]:
        return self

    def __next__(self) -> Out:
        if self._stopped.is_set():
            raise StopIteration
        result = self._results.get()
        if result is None:
            self._put(None)  # so that asking once more ends again instead of waiting for ever
            raise StopIteration
        return result.result()

    def close(self) -> None:
        """Stop the threads and forget what was read."""
        self._stopped.set()
        self._reader.join(_PATIENCE)  # it may be waiting for a network; it is a daemon
        self._pool.shutdown(cancel_futures=True)

    def _read(self, function: Callable[[In], Out], items: Iterator[In]) -> None:
        try:
            for item in items:
                if not self._put(self._pool.submit(function, item)):
                    return
        except BaseException as error:  # handed to the consumer, in its turn
            failed: Future[Out] = Future()
            failed.set_exception(error)
            self._put(failed)
        self._put(None)

    def _put(self, result: Future[Out] | None) -> bool:
        """Queue `result`, waiting for room; False if told to stop instead."""
        while not self._stopped.is_set():
            try:
                self._results.put(result, timeout=_POLL)
            except queue.Full:
                continue
            return True
        return False
