"""The plan: a sweep's runs with state, action and expected cost, before anything is started.

Runs that several cells ask for appear once. What has a result is left alone, what another worker
trains is left to it, what was interrupted goes on, what failed is tried again. Reading a plan
changes nothing on disk; `write` creates the run directories it needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from spam_lab.config.fields import ConfigError
from spam_lab.config.identity import canonical, differences
from spam_lab.config.labels import run_labels
from spam_lab.config.schema import SCHEMA_VERSION, RunConfig
from spam_lab.orchestrate.expand import ALL, Expansion, Request
from spam_lab.orchestrate.lease import is_live
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, Status, StoreError, SweepManifest
from spam_lab.tasks.registry import require_ready


class Action(StrEnum):
    """What the plan does about a run."""

    RUN = "run"
    RESUME = "resume"
    RETRY = "retry"
    LEAVE = "running elsewhere"
    QUEUED = "in SLURM's queue"
    NOTHING = "nothing to do"


@dataclass(frozen=True)
class Entry:
    """One run of the plan. `cells` counts the cells of the sweep that share it."""

    run_id: str
    cell_id: str
    label: str
    config: RunConfig
    status: Status
    action: Action
    cells: int

    @property
    def is_due(self) -> bool:
        """Whether this plan will train it."""
        return self.action in (Action.RUN, Action.RESUME, Action.RETRY)

    @property
    def steps_left(self) -> int:
        """Steps it still has to train; 0 where nothing is due."""
        return self.config.schedule.steps - self.status.checkpoint_step if self.is_due else 0


@dataclass(frozen=True)
class Part:
    """One of several sweeps in a plan: the runs it asks for, each once, and its overrides."""

    name: str
    description: str
    run_ids: tuple[str, ...]
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Entries in the order of the sweep. `name` is empty for a single run; `note` is what else
    there is to say about the runs. A plan of several sweeps has their `parts`."""

    root: Path
    entries: tuple[Entry, ...]
    name: str = ""
    description: str = ""
    note: str = ""
    parts: tuple[Part, ...] = ()

    @property
    def sweeps(self) -> list[str]:
        """The names of the sweeps that this plan is of."""
        return [part.name for part in self.parts] or ([self.name] if self.name else [])

    @property
    def due(self) -> list[Entry]:
        """The entries that will be trained."""
        return [entry for entry in self.entries if entry.is_due]

    @property
    def labels(self) -> dict[str, str]:
        """The readable name of each run, by run_id."""
        return {entry.run_id: entry.label for entry in self.entries}

    def directory(self, entry: Entry) -> RunDirectory:
        """The run directory of an entry."""
        return RunDirectory(self.root, entry.run_id)

    def write(self, overrides: Sequence[str]) -> None:
        """Create the run directories of all due entries, and the manifest of each sweep.

        Raises:
            ConfigError: the data or weights of a task are not at hand; nothing is written.
            StoreError: a run directory cannot be made.
        """
        require_ready([entry.config for entry in self.due])
        for entry in self.due:
            directory = self.directory(entry)
            content = dataclasses.asdict(entry.config)
            directory.create(entry.cell_id, SCHEMA_VERSION, content)
            if directory.status().state in (State.PLANNED, State.FAILED):
                directory.move(State.SUBMITTED, steps=entry.config.schedule.steps)
        for part in self.parts or self._whole(overrides):
            scale = self.entries[0].config.scale.name
            SweepManifest(
                part.name, scale, list(part.run_ids), list(part.overrides), part.description
            ).write(self.root)

    def _whole(self, overrides: Sequence[str]) -> tuple[Part, ...]:
        """The one sweep that the plan is of, as its only part; none for single runs."""
        if not self.name:
            return ()
        run_ids = tuple(entry.run_id for entry in self.entries)
        return (Part(self.name, self.description, run_ids, tuple(overrides)),)


def make_plan(
    requests: Sequence[Request],
    root: Path,
    name: str = "",
    description: str = "",
    queued: Collection[str] = (),
) -> Plan:
    """The plan of these requests, as things stand under `root`.

    `queued` are the runs that a job which waits or runs was given: they are left to it.

    Raises:
        StoreError: a run directory was written by another schema version, or holds another config
            under the same run_id; the text shows the difference.
    """
    by_id: dict[str, list[Request]] = {}
    for request in requests:
        by_id.setdefault(request.run_id, []).append(request)
    labels = run_labels([dataclasses.asdict(same[0].config) for same in by_id.values()])
    entries = [
        _entry(root, same, label, same[0].run_id in queued)
        for same, label in zip(by_id.values(), labels, strict=True)
    ]
    return Plan(root, tuple(entries), name, description)


def plan_of_sweeps(
    expansions: Sequence[Expansion], root: Path, queued: Collection[str] = ()
) -> Plan:
    """One plan of several sweeps: a run that several ask for is in it once, and in each's part.

    A sweep with runs to do whose data or weights are not at hand here is left out, and the plan's
    note says so: the others can be trained all the same.

    Raises:
        ConfigError: every sweep would be left out; with all reasons.
    """
    plan = _of_sweeps(expansions, root, queued)
    due = {entry.run_id: entry.config for entry in plan.due}
    refused: dict[str, str] = {}
    for expansion in expansions:
        wanted = [due[r.run_id] for r in expansion.requests if r.run_id in due]
        try:
            require_ready(wanted)
        except ConfigError as error:
            refused[expansion.sweep.name] = str(error)
    if not refused:
        return plan
    ready = [expansion for expansion in expansions if expansion.sweep.name not in refused]
    note = "\n".join(f"sweep {name} is left out: {reason}" for name, reason in refused.items())
    if not ready:
        raise ConfigError(note)
    return dataclasses.replace(_of_sweeps(ready, root, queued), note=note)


def _of_sweeps(expansions: Sequence[Expansion], root: Path, queued: Collection[str]) -> Plan:
    requests = [request for expansion in expansions for request in expansion.requests]
    parts = tuple(
        Part(
            expansion.sweep.name,
            expansion.sweep.description,
            tuple(dict.fromkeys(request.run_id for request in expansion.requests)),
            (f"sweep={expansion.sweep.name}", *expansion.overrides),
        )
        for expansion in expansions
    )
    plan = make_plan(requests, root, ALL, f"{len(parts)} sweeps", queued)
    return dataclasses.replace(plan, parts=parts)


def _entry(root: Path, same: Sequence[Request], label: str, queued: bool) -> Entry:
    request = same[0]
    directory = RunDirectory(root, request.run_id)
    status = Status()
    if directory.path.exists() and (directory.path / "config.json").exists():
        _require_same(directory, request.config)
        status = directory.status()
    action = _action(status, is_live(directory.lease_path), queued)
    return Entry(request.run_id, request.cell_id, label, request.config, status, action, len(same))


def _action(status: Status, live: bool, queued: bool) -> Action:
    if status.state.is_result:
        return Action.NOTHING
    if live:
        return Action.LEAVE
    if queued and status.state is not State.FAILED:
        return Action.QUEUED
    if status.state is State.FAILED:
        return Action.RETRY
    return Action.RESUME if status.checkpoint_step else Action.RUN


def _require_same(directory: RunDirectory, config: RunConfig) -> None:
    stored = directory.config_file(SCHEMA_VERSION)["config"]
    asked = dataclasses.asdict(config)
    if canonical(stored) != canonical(asked):
        lines = "\n  ".join(differences(stored, asked))
        raise StoreError(
            f"{directory.path} holds another config under the same run_id (was it edited?):\n"
            f"  {lines}\nmove it away to run this one"
        )
