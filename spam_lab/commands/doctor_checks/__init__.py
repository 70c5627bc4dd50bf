"""What `spam-lab doctor` looks at, a module for each thing; a look gives findings, changes nothing.

The modules import torch, mlflow and SLURM's submission only inside their functions: the other verbs
start without them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing looked at: how it is, and what to do where it is not well."""

    what: str
    state: str
    advice: str = ""
    needed: bool = True
    """Whether nothing works without it."""
