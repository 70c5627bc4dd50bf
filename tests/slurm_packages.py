"""The Debian packages behind the tests on a real SLURM cluster: what is missing, how it comes.

`python -m tests.slurm_packages` installs what is missing where it may (root, or sudo without a
password) and says in one line why it could not; it never fails. Nothing is started by the packages,
now or at the next boot. Tests that need a cluster ask `missing`: they are skipped without one, and
fail where `required` says that one must be there.
"""

from __future__ import annotations

import os

from tests.slurm_processes import program

PROGRAMS = {
    # package -> a program it brings
    "munge": "munged",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurm-client": "srun",
}
ACCOUNTING = {"slurmdbd": "slurmdbd", "mariadb-server": "mariadbd"}


def missing(accounting: bool = False) -> list[str]:
    """The packages that a cluster needs and this machine has not."""
    wanted = {**PROGRAMS, **(ACCOUNTING if accounting else {})}
    return [package for package, name in wanted.items() if program(name) is None]


def required() -> bool:
    """Whether a test that needs a cluster must not be skipped."""
    names = ("CI", "SPAM_LAB_REQUIRE_SLURM")
    return any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in names)
