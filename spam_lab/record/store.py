"""The run directory, `<runs>/<run_id>/`: the truth about one run, in JSON and JSON lines.

    config.json      schema version, run_id, cell_id and the resolved config; written once
    provenance.json  commit, versions, machine and command of each attempt
    status.json      state, step and reason; replaced whole at every change
    history.jsonl    one line a change of state, with reason, host and job
    metrics.jsonl    one line a step (`metrics`)
    observations/    spikes and trajectories, where `observe` asks for them (`observations`)
    checkpoints/     what a killed run goes on from (`spam_lab.train.checkpoint`)
    log.txt          what the worker printed, tracebacks included
    lease.json       who runs it now (`spam_lab.orchestrate.lease`)

`<runs>/sweeps/<name>.<scale>.json` lists the runs that a sweep asked for. Every reader tolerates a
file that is not there yet; none tolerates one it cannot understand.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from spam_lab.files import dump_json, number_from, read_json, read_lines, write_json
from spam_lab.record.metrics import MetricLine, read_metrics
from spam_lab.record.state import State, require_move


class StoreError(RuntimeError):
    """A run directory that cannot be used as it is; the text says why and what to do."""


@dataclass(frozen=True)
class Status:
    """Where a run stands.

    `loss` is the last training loss; None until there is one. `host` is the node's name on a
    cluster, `job` SLURM's id of the job that trains or last trained it, as people write it.
    `memory_bytes` is the peak on its device. `lost` counts the attempts in a row that vanished
    without a new checkpoint.
    """

    state: State = State.PLANNED
    step: int = 0
    steps: int = 0
    checkpoint_step: int = 0
    attempt: int = 0
    reason: str = ""
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_per_step: float | None = None
    memory_bytes: int = 0
    host: str = ""
    job: str = ""
    pid: int = 0
    lost: int = 0
    updated_ms: int = 0


class RunDirectory:
    """One run's directory. Creating the object touches nothing on disk."""

    def __init__(self, root: Path, run_id: str) -> None:
        self.run_id = run_id
        self.path = root / run_id

    @property
    def metrics_path(self) -> Path:
        """Where metric lines are appended."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints_path(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def observations_path(self) -> Path:
        """What was observed of its gradients; absent for most runs."""
        return self.path / "observations"

    @property
    def log_path(self) -> Path:
        """What the worker printed."""
        return self.path / "log.txt"

    @property
    def lease_path(self) -> Path:
        """Who runs it now."""
        return self.path / "lease.json"

    def create(self, cell_id: str, schema_version: int, config: dict[str, Any]) -> None:
        """Write config.json where it is missing; one that is there is never replaced.

        Raises:
            StoreError: the directory was written with another schema version.
        """
        content = {
            "schema_version": schema_version,
            "run_id": self.run_id,
            "cell_id": cell_id,
            "config": config,
        }
        path = self.path / "config.json"
        if path.exists():
            self._require_version(read_json(path), schema_version)
            return
        write_json(path, content)

    def config_file(self, schema_version: int | None = None) -> dict[str, Any]:
        """The whole of config.json. With `schema_version`, refuse another version."""
        try:
            content: dict[str, Any] = read_json(self.path / "config.json")
        except FileNotFoundError:
            raise StoreError(f"{self.path} holds no config.json: not a run directory") from None
        except ValueError as error:
            raise StoreError(f"{error}; remove {self.path} and run it again") from None
        if schema_version is not None:
            self._require_version(content, schema_version)
        return content

    def _require_version(self, content: dict[str, Any], schema_version: int) -> None:
        found = content.get("schema_version")
        if found != schema_version:
            raise StoreError(
                f"{self.path} was written with config schema {found}, this program uses "
                f"{schema_version}: keep using the version that wrote it, or give another "
                "paths.runs"
            )

    def status(self) -> Status:
        """The current status; `planned` where none was written yet."""
        try:
            content = read_json(self.path / "status.json")
        except FileNotFoundError:
            return Status()
        except ValueError as error:
            raise StoreError(str(error)) from None
        known = {name: content[name] for name in asdict(Status()) if name in content}
        if known.get("loss") is not None:
            known["loss"] = number_from(known["loss"])
        return Status(**{**known, "state": State(content["state"])})

    def move(self, state: State, **changes: Any) -> Status:
        """Go to `state`, along the state table, and set further fields of the status."""
        old = self.status()
        require_move(self.run_id, old.state, state)
        status = self._write(replace(old, state=state, **changes))
        self._remember(status)
        return status

    def history(self) -> list[dict[str, Any]]:
        """Every change of state, oldest first."""
        lines: list[dict[str, Any]] = []
        read_lines(self.path / "history.jsonl", lines.append)
        return lines

    def _remember(self, status: Status) -> None:
        kept = ("state", "step", "attempt", "reason", "host", "job", "updated_ms")
        line = {name: value for name, value in asdict(status).items() if name in kept}
        with (self.path / "history.jsonl").open("ab") as file:
            file.write(dump_json(line).encode() + b"\n")

    def report(self, **changes: Any) -> Status:
        """Set fields of the status without a change of state."""
        return self._write(replace(self.status(), **changes))

    def _write(self, status: Status) -> Status:
        status = replace(status, updated_ms=time.time_ns() // 1_000_000)
        write_json(self.path / "status.json", asdict(status))
        return status

    def metrics(self) -> list[MetricLine]:
        """All metric lines by step."""
        return read_metrics(self.metrics_path)

    def provenance(self) -> list[dict[str, Any]]:
        """One entry an attempt, oldest first."""
        try:
            attempts: list[dict[str, Any]] = read_json(self.path / "provenance.json")
        except FileNotFoundError:
            return []
        return attempts

    def add_provenance(self, entry: dict[str, Any]) -> None:
        """Add one attempt."""
        write_json(self.path / "provenance.json", [*self.provenance(), entry])


@dataclass
class SweepManifest:
    """What one sweep asked for: its runs in order, and the overrides given with it.

    Of a study, `trials` says of each run which trial it is and what became of it, "12 pruned", and
    `best` what is the best so far.
    """

    name: str
    scale: str
    run_ids: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    description: str = ""
    kind: str = "sweep"
    trials: dict[str, str] = field(default_factory=dict)
    best: str = ""

    def trial(self, run_id: str) -> tuple[str, str]:
        """Number and outcome of a run's trial: complete, diverged, pruned, failed or running; two
        empty texts where it is none."""
        number, _, outcome = self.trials.get(run_id, "").partition(" ")
        return number, outcome

    def path(self, root: Path) -> Path:
        """Where it is kept, under `<root>/sweeps/`."""
        return root / "sweeps" / f"{self.name}.{self.scale}.json"

    def write(self, root: Path) -> None:
        """Keep the manifest."""
        write_json(self.path(root), asdict(self))

    @classmethod
    def read(cls, path: Path) -> SweepManifest:
        """The manifest kept at `path`."""
        return cls(**read_json(path))


def run_directories(root: Path) -> Iterator[RunDirectory]:
    """Every run directory under `root`, by name."""
    for path in sorted(root.glob("*/config.json")):
        yield RunDirectory(root, path.parent.name)


def sweep_manifests(root: Path) -> list[SweepManifest]:
    """Every sweep that was asked for under `root`, by file name."""
    return [SweepManifest.read(path) for path in sorted((root / "sweeps").glob("*.json"))]
