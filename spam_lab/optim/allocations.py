"""How much memory a call takes beyond what was there before it.

It promises a count of what torch's allocators gave out and took back, not of what the system's
pages say: it neither misses a temporary that fits into memory freed earlier, nor depends on when
the C library returns memory.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch


def peak_of(call: Callable[[], Any], device: torch.device) -> int:
    """The most bytes on `device` that were in use at once during `call`, above those before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    with (
        _quiet(),
        torch.autograd.profiler.profile(use_device=None, profile_memory=True) as profile,
    ):
        call()
    assert profile.kineto_results is not None, "the profile is over"
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    in_use = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        in_use += event.nbytes()
        peak = max(peak, in_use)
    return peak


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that torch's profiler writes to the file of standard error itself."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
