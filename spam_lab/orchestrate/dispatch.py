"""Dispatch to this computer: worker processes that pull runs, or this very process.

Workers run in sessions of their own, so a Ctrl-C in the terminal reaches only the dispatcher: the
first asks them to stop at the next step with a checkpoint, the second kills them. A dispatcher that
is itself killed is noticed by its workers.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from spam_lab.orchestrate.census import Census
from spam_lab.orchestrate.plan import Plan
from spam_lab.orchestrate.processes import interruptible
from spam_lab.orchestrate.run import Host
from spam_lab.orchestrate.stop import StopRequest
from spam_lab.orchestrate.worker import Order, work
from spam_lab.orchestrate.workers import Workers


def dispatch(plan: Plan, host: Host, watch: Callable[[Census], None]) -> Census:
    """Train everything that is due, and return how each run of the plan ended.

    Args:
        plan: what to train; its directories have been written.
        host: how this attempt runs; `host.cluster` says where.
        watch: called several times a second with the census, to show progress.

    Raises:
        KeyboardInterrupt: the user stopped it; everything that ran can go on from a checkpoint.
    """
    order = _order(plan, host)
    census = Census(plan.root, [entry.run_id for entry in plan.entries])
    if order.run_ids:
        if host.cluster.name == "inline":
            run_here(plan, host)
        else:
            workers = Workers(order, census, worker_count(host, len(order.run_ids)))
            with interruptible(workers):
                workers.train(watch)
    census.refresh()
    return census


def worker_count(host: Host, runs: int) -> int:
    """Workers to start: as asked, else what the cores allow; never more than there are runs."""
    # Not every system can say which cores a process may use.
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(host.cluster.workers or max(1, cores // host.cluster.threads), max(1, runs))


def run_here(plan: Plan, host: Host) -> None:
    """Train everything that is due in this process, one run after the other.

    Raises:
        KeyboardInterrupt: the user stopped it, at a step boundary and with a checkpoint.
    """
    stop = StopRequest()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop.listen()
    try:
        work(_order(plan, host), stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop.asked:
        raise KeyboardInterrupt


def _order(plan: Plan, host: Host) -> Order:
    return Order(plan.root, tuple(entry.run_id for entry in plan.due), host)
