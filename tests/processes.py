"""Real processes for tests: start the command line, wait for something on disk, signal, reap."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.conftest import ROOT, SESSION


@contextmanager
def launched(
    overrides: Sequence[str], program: Sequence[str] = ("launch.py",)
) -> Iterator[subprocess.Popen[str]]:
    """`python launch.py OVERRIDES` in a session of its own; nothing of it is left afterwards."""
    process = subprocess.Popen(
        [sys.executable, *program, *overrides],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        family = [p for p in (process, *_workers()) if _alive(p.pid)]
        for member in family:
            os.kill(member.pid, signal.SIGKILL)
        process.wait(timeout=30)


def run_launch(overrides: Sequence[str], timeout: float = 240) -> tuple[int, str]:
    """Run the command line to its end: (exit code, everything it printed)."""
    with launched(overrides) as process:
        output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def wait_for(condition: Callable[[], bool], seconds: float = 90, what: str = "") -> None:
    """Wait until the condition holds; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what or condition}"
        time.sleep(0.01)


def worker_pids() -> list[int]:
    """The lab's worker processes on this machine, those of SLURM jobs apart."""
    return [process.pid for process in _workers()]


def steps_logged(run: Path) -> int:
    """How many lines the metric log of a run has."""
    try:
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def _workers() -> list[psutil.Process]:
    """Workers of this test session, those of SLURM jobs apart."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if "spam_lab.orchestrate.worker" in line and process.info["status"] != "zombie":
            try:
                variables = process.environ()
            except psutil.Error:
                continue
            if variables.get(SESSION) == os.environ[SESSION] and "SLURM_JOB_ID" not in variables:
                found.append(process)
    return found


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
