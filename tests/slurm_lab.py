"""The lab on a real SLURM cluster, for tests: submit through the command line, wait for what runs
leave on disk, and compare with a run that nothing ever happened to."""

from __future__ import annotations

from pathlib import Path

from spam_lab.orchestrate.slurm.ledger import Submission, submissions
from spam_lab.orchestrate.truth import Condition, truths
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, run_directories
from tests.processes import run_launch, wait_for
from tests.slurm_cluster import Cluster

ON_SLURM = ["cluster=slurm", "cluster.threads=1", "cluster.cpus=1"]

LONG = [
    *["schedule.steps=500", "schedule.warmup_steps=10", "evaluation.every=500"],
    "train.checkpoint_every=10",
]
"""A run of five seconds on a fast machine, with a checkpoint every ten steps: long enough to be
hit. What takes longer to prepare holds the worker still meanwhile."""


def runs_of(tiny: list[str]) -> Path:
    """The folder of runs that the overrides name."""
    return next(Path(o.removeprefix("paths.runs=")) for o in tiny if o.startswith("paths.runs="))


def submit(overrides: list[str], expected: int = 0, where: list[str] = ON_SLURM) -> str:
    """Submit through the real command line; what it printed."""
    code, output = run_launch([*overrides, *where])
    assert code == expected, output
    assert "Traceback" not in output
    return output


def last_submission(root: Path) -> Submission:
    """The newest submission."""
    return submissions(root)[-1]


def job_ids(root: Path) -> list[str]:
    """The jobs of the newest submission."""
    return [job_id for array in last_submission(root).arrays for job_id in array.job_ids]


def only_run(root: Path) -> RunDirectory:
    """The one run there is."""
    (directory,) = run_directories(root)
    return directory


def wait_for_step(directory: RunDirectory, step: int = 20, seconds: float = 120) -> None:
    """Wait until the run has a checkpoint at or after `step`."""

    def there() -> bool:
        status = directory.status()
        assert status.state is not State.FAILED, status.reason
        return status.state is State.RUNNING and status.checkpoint_step >= step

    wait_for(there, seconds, f"a checkpoint of step {step}")


def wait_for_state(directory: RunDirectory, state: State, seconds: float = 150) -> None:
    """Wait until the status says `state`, and the history, which follows it, too."""
    wait_for(
        lambda: has_come_to(directory, state),
        seconds,
        f"{directory.run_id} to be {state}; it is {directory.status()}",
    )


def has_come_to(directory: RunDirectory, state: State) -> bool:
    """Whether status and history both say `state`."""
    return directory.status().state is state and directory.history()[-1]["state"] == state


def condition(root: Path, run_id: str) -> Condition:
    """What the run is really doing, by everything there is to ask."""
    return truths(root, [run_id])[run_id].condition


def states(directory: RunDirectory) -> list[str]:
    """The states the run went through, each once in a row."""
    found: list[str] = []
    for line in directory.history():
        if not found or found[-1] != line["state"]:
            found.append(line["state"])
    return found


def drain(cluster: Cluster) -> None:
    """Have nothing start any more. (A node that is set down comes back by itself.)"""
    for name in cluster.settings.names:
        cluster.run("scontrol", "update", f"NodeName={name}", "State=DRAIN", "Reason=test")


def undrain(cluster: Cluster) -> None:
    """Have jobs start again."""
    for name in cluster.settings.names:
        cluster.resume(name)


def finish_now(cluster: Cluster, directory: RunDirectory, job_id: str) -> None:
    """Let a requeued job start at once, and wait until its run is done."""
    cluster.start_now(job_id)
    wait_for_state(directory, State.DONE)
