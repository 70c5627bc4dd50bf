"""The Debian packages behind the tests on a real SLURM cluster: what is missing, how it comes.

`python -m tests.slurm_packages` installs what is missing where it may (root, or sudo without a
password) and says in one line why it could not; it never fails. Nothing is started by the packages,
now or at the next boot. Tests that need a cluster ask `obstacle`: they are skipped where there is
one, and fail where `required` says that a cluster must be had.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.slurm_processes import program

PROGRAMS = {
    # package -> a program it brings
    "munge": "munged",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurm-client": "srun",
}
ACCOUNTING = {"slurmdbd": "slurmdbd", "mariadb-server": "mariadbd"}
SERVICES = ("munge", "slurmctld", "slurmd", "slurmdbd", "mariadb")
POLICY = Path("/usr/sbin/policy-rc.d")  # asked before a package starts a service; 101 forbids it
SECONDS = 300


class CannotInstall(Exception):
    """Why the packages cannot be had here, in one line."""


def missing(accounting: bool = False) -> list[str]:
    """The packages that a cluster needs and this machine has not."""
    wanted = {**PROGRAMS, **(ACCOUNTING if accounting else {})}
    return [package for package, name in wanted.items() if program(name) is None]


def obstacle(accounting: bool = False) -> str | None:
    """Why a cluster cannot be had here."""
    if packages := missing(accounting):
        return f"not installed: {' '.join(packages)} (`python -m tests.slurm_packages` does it)"
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return f"SLURM runs for users with a name, and user {os.getuid()} has none"
    return None


def required() -> bool:
    """Whether a test that needs a cluster must not be skipped."""
    names = ("CI", "SPAM_LAB_REQUIRE_SLURM")
    return any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in names)


def install(packages: Sequence[str]) -> None:
    """Install packages, or raise CannotInstall."""
    root = _root()
    end = time.monotonic() + SECONDS
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1", "apt-get"]
    apt += ["-qq", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3"]
    apt += ["-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30"]
    get = [*apt, "install", "--yes", "--no-install-recommends"]
    with _no_services(root):
        # Only the loading depends on a network, and may be cut off and tried again without harm.
        for left in (2, 1, 0):
            try:
                _call(root, [*apt, "update"], end)
                _call(root, [*get, "--download-only", *packages], end)
                break
            except CannotInstall:
                if not left or time.monotonic() > end:
                    raise
                time.sleep(5)
        _call(root, [*get, *packages], time.monotonic() + SECONDS)
    if shutil.which("systemctl"):
        for service in SERVICES:
            if service in packages or f"{service}-server" in packages:
                command = [*root, "systemctl", "disable", "--quiet", service]
                subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)


def main() -> None:
    """Install what is missing and say so, or why not."""
    wanted = missing(accounting=True)
    if not wanted:
        return
    names = " ".join(wanted)
    try:
        install(wanted)
    except CannotInstall as reason:
        print(f"tests on a real SLURM cluster lack {names}: {reason}", flush=True)
    else:
        print(f"installed for the tests on a real SLURM cluster: {names}", flush=True)


def _root() -> list[str]:
    """What to put before a command that needs root."""
    if shutil.which("apt-get") is None:
        raise CannotInstall("there is no apt-get here; install them by hand")
    if os.getuid() == 0:
        return []
    if shutil.which("sudo") is None:
        raise CannotInstall("installing needs root, and there is no sudo")
    ask = ["sudo", "-n", "true"]
    if subprocess.run(ask, capture_output=True, stdin=subprocess.DEVNULL).returncode:
        raise CannotInstall("installing needs root, and sudo wants a password")
    return ["sudo", "-n"]


@contextmanager
def _no_services(root: list[str]) -> Iterator[None]:
    """While this lasts, no package starts a service."""
    if POLICY.exists():
        if subprocess.run([POLICY, "slurmctld", "start"], capture_output=True).returncode != 101:
            raise CannotInstall(f"{POLICY} would let them start services")
        yield
        return
    script = f"printf '#!/bin/sh\\nexit 101\\n' >{POLICY} && chmod 755 {POLICY}"
    _call(root, ["sh", "-c", script], time.monotonic() + 30)
    try:
        yield
    finally:
        _call(root, ["rm", "-f", str(POLICY)], time.monotonic() + 30)


def _call(root: list[str], command: list[str], end: float) -> None:
    """Run a command until `end` at most; CannotInstall with the first error that it tells."""
    seconds = max(1, round(end - time.monotonic()))
    # Not Python's own timeout: an ordinary user may not kill what sudo started.
    limited = [*root, "timeout", "--kill-after=10", str(seconds), *command]
    done = subprocess.run(limited, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode in (124, 137):
        raise CannotInstall(f"apt-get took longer than {SECONDS} s")
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["apt-get failed"]
        raise CannotInstall(next((line for line in said if line.startswith("E:")), said[-1]))


if __name__ == "__main__":
    main()
