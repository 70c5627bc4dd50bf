"""What is in a folder of runs: its sweeps, the truth about every run, and their readable names.

What `status`, `why`, `retry` and `cancel` have in common. It promises to write nothing and to call
no run lost that may be well: where SLURM cannot be asked, a worker that is not heard of is silent,
and the overview says why it does not know better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import psutil

from spam_lab.commands import CommandError, require_runs
from spam_lab.config.labels import run_labels
from spam_lab.files import read_json
from spam_lab.orchestrate.slurm.queue import JobInfo
from spam_lab.orchestrate.truth import Condition, Truth, slurm_account, truths
from spam_lab.record.store import RunDirectory, SweepManifest, run_directories, sweep_manifests

SINGLE = "single runs"
"""The name of what belongs to no sweep."""

ALIVE = (Condition.RUNNING, Condition.SILENT, Condition.QUEUED)
"""Conditions in which somebody trains a run, or will."""


@dataclass
class Overview:
    """A folder of runs at one moment.

    Attributes:
        root: the folder.
        sweeps: what was asked for; what belongs to no sweep comes last, as one of its own.
        truths: by run_id, of every run of `sweeps`.
        jobs: SLURM's account of this user's jobs.
        doubt: why SLURM's account is not known though there were jobs; empty where it is.
    """

    root: Path
    sweeps: list[SweepManifest]
    truths: dict[str, Truth] = field(default_factory=dict)
    jobs: dict[str, JobInfo] = field(default_factory=dict)
    doubt: str = ""
    _labels: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, sweep: str | None = None) -> Overview:
        """The folder as it is now; with `sweep`, only what was launched by that name.

        Raises:
            CommandError: there is no such folder or sweep.
            StoreError: a file in it is damaged.
        """
        require_runs(root)
        manifests = sweep_manifests(root)
        if sweep:
            found = [m for m in manifests if sweep in (m.name, file_name(m))]
            if not found:
                known = ", ".join(sorted({m.name for m in manifests})) or "none yet"
                raise CommandError(f"no sweep {sweep} was launched here: {known}")
            manifests = found
        else:
            served = {run_id for manifest in manifests for run_id in manifest.run_ids}
            others = [d.run_id for d in run_directories(root) if d.run_id not in served]
            if others:
                manifests.append(SweepManifest(SINGLE, "", others))
        overview = cls(root, manifests)
        overview.look()
        return overview

    def look(self) -> None:
        """Find out anew what every run is doing."""
        self.jobs, self.doubt = slurm_account(self.root)
        ids = list(dict.fromkeys(run_id for sweep in self.sweeps for run_id in sweep.run_ids))
        found = truths(self.root, ids, self.jobs)
        # A run that ended between the look at its status and the look at its lease is not lost.
        lost = [run_id for run_id, truth in found.items() if truth.condition is Condition.LOST]
        found |= truths(self.root, lost, self.jobs) if lost else {}
        self.truths = {run_id: self._doubted(truth) for run_id, truth in found.items()}

    def labels(self, sweep: SweepManifest) -> dict[str, str]:
        """The readable names of a sweep's runs; those never begun have none. Read once."""
        key = file_name(sweep)
        if key not in self._labels:
            ids = [i for i in sweep.run_ids if (self.root / i / "config.json").exists()]
            configs = [RunDirectory(self.root, run_id).config_file()["config"] for run_id in ids]
            self._labels[key] = dict(zip(ids, run_labels(configs), strict=True))
        return self._labels[key]

    def label(self, run_id: str) -> str:
        """A run's readable name, as its first sweep has it; empty where it was never begun."""
        return self.labels(self.sweep_of(run_id)).get(run_id, "")

    def named(self, run_id: str) -> str:
        """A run as messages name it: id, and readable name where there is one."""
        label = self.label(run_id)
        return f"{run_id} ({label})" if label else run_id

    def sweep_of(self, run_id: str) -> SweepManifest:
        """The first sweep that asked for a run."""
        return self._first[run_id]

    @cached_property
    def _first(self) -> dict[str, SweepManifest]:
        return {i: sweep for sweep in reversed(self.sweeps) for i in sweep.run_ids}

    def goes_on(self) -> bool:
        """Whether any of the runs is being trained, or will be without a further command."""
        if any(truth.condition in ALIVE for truth in self.truths.values()):
            return True
        return not self.ordered_here().isdisjoint(
            run_id for run_id, truth in self.truths.items() if not truth.status.state.has_ended
        )

    def ordered_here(self) -> set[str]:
        """Runs that live workers of this computer were told to train."""
        orders = {path.name: path for path in (self.root / ".orders").glob("*.json")}
        found: set[str] = set()
        for name in {Path(argument).name for argument in _worker_arguments()} & orders.keys():
            try:
                found |= set(read_json(orders[name])["run_ids"])
            except (FileNotFoundError, ValueError):  # its last worker ended this moment
                continue
        return found

    def _doubted(self, truth: Truth) -> Truth:
        if self.doubt and truth.condition is Condition.LOST and truth.status.job:
            return replace(truth, condition=Condition.SILENT)
        return truth


def file_name(sweep: SweepManifest) -> str:
    """A sweep with its scale, as its file is named: figure9.nano."""
    return f"{sweep.name}.{sweep.scale}"


def title(sweep: SweepManifest) -> str:
    """A sweep as people read it: figure9 (nano)."""
    return f"{sweep.name} ({sweep.scale})" if sweep.scale else sweep.name


def count(number: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def capped(lines: Sequence[str], most: int, what: str) -> Iterator[str]:
    """The first lines, and how many more there are."""
    yield from lines[:most]
    if len(lines) > most:
        yield f"... and {len(lines) - most} more {what}"


def _worker_arguments() -> Iterator[str]:
    """The arguments of every worker process of this computer."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "spam_lab.orchestrate.worker" in line:
            yield from line
