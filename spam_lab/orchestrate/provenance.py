"""Where a run's numbers come from: the commit, the versions and the machine of one attempt."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from spam_lab.orchestrate.slurm.place import Place
from spam_lab.orchestrate.snapshot import snapshot_of

PACKAGES = ("spam_lab", "torch", "transformers", "tokenizers", "datasets", "numpy", "hydra-core")
ROOT = Path(__file__).resolve().parents[2]


def provenance(command: Sequence[str] = ()) -> dict[str, Any]:
    """One attempt's entry for provenance.json. Holds no environment variable and no secret.

    `command` is the command line that asked for the run; this process's own where it is not known.
    """
    frozen = snapshot_of(ROOT)
    commit, dirty = (frozen.commit, frozen.dirty) if frozen else git_state()
    return {
        "started_ms": time.time_ns() // 1_000_000,
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "host": Place.here().host,
        "job": Place.here().job,
        "command": list(command) or sys.argv,
        "code": frozen.tree if frozen else "",
    }


@cache
def git_state() -> tuple[str, bool]:
    """The commit of the code and whether it was edited since; ("", False) outside a repository."""
    commit = _git("rev-parse", "HEAD")
    return commit, bool(commit and _git("status", "--porcelain", "--untracked-files=no"))


def _git(*arguments: str) -> str:
    try:
        run = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
