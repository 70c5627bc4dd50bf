"""Who trains what: the due runs of a plan, packed into as few job arrays as SLURM allows.

Runs that ask for the same resources share arrays. A job trains its runs one after the other,
several at a time where they are known to fit on its GPUs together, or, where the number of jobs is
given, whatever waits until its time is nearly up. What is not given is decided from what earlier
runs of the same shape were measured to take; without a measurement a job trains one run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spam_lab.config.cluster import ClusterConfig
from spam_lab.config.identity import canonical
from spam_lab.orchestrate.cost import Measured, shape_of
from spam_lab.orchestrate.plan import Entry
from spam_lab.orchestrate.slurm.resources import world_size

TARGET_SECONDS = 900.0
"""What a job should train, at least, so that waiting and starting up are a few percent of it."""

SHARE_OF_TIME = 0.5
"""But no more than this share of its time limit, by the estimate."""

SHORT_STEP = 0.1
"""Seconds. A step that short waits for launches, not for the GPU: such runs gain by sharing it."""

FILLED = 0.8
"""Share of a GPU's memory that runs measured together may take."""

MOST_A_GPU = 8
"""Runs that share a GPU at most."""


@dataclass(frozen=True)
class JobArray:
    """One array of jobs that ask for the same.

    Attributes:
        cluster: what each job asks for; `max_jobs` is this array's share of the throttle.
        run_ids: the runs, in the order of the plan.
        bounds: job i has run_ids[bounds[i]:bounds[i + 1]]; empty where jobs claim what waits.
        jobs: how many jobs.
        side_by_side: runs a job trains at the same time.
        reason: why runs are packed as they are, for people.
    """

    cluster: ClusterConfig
    run_ids: tuple[str, ...]
    bounds: tuple[int, ...]
    jobs: int
    side_by_side: int
    reason: str

    def share(self, index: int) -> tuple[str, ...]:
        """The runs of one job, in the order in which it tries them."""
        return share(self.run_ids, self.bounds, index, self.jobs)


def share(run_ids: Sequence[str], bounds: Sequence[int], index: int, jobs: int) -> tuple[str, ...]:
    """The runs of job `index` of `jobs`; where jobs claim what waits, all, begun elsewhere."""
    if bounds:
        return tuple(run_ids[bounds[index] : bounds[index + 1]])
    start = len(run_ids) * index // jobs
    return (*run_ids[start:], *run_ids[:start])


def pack(
    due: Sequence[Entry], known: Mapping[str, Measured], max_array_size: int
) -> list[JobArray]:
    """The arrays for these runs, in the order of the plan.

    Args:
        due: entries to train; each one's own `config.cluster` says what its job asks for.
        known: seconds a step and memory by shape.
        max_array_size: most jobs an array may have.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in due:
        groups.setdefault(canonical(dataclasses.asdict(entry.config.cluster)), []).append(entry)
    arrays = []
    for alike in groups.values():
        arrays += _arrays(alike, known, max_array_size)
    return arrays


def _arrays(
    alike: Sequence[Entry], known: Mapping[str, Measured], max_array_size: int
) -> list[JobArray]:
    cluster = alike[0].config.cluster
    measured = [known.get(shape_of(dataclasses.asdict(entry.config))) for entry in alike]
    together, why_together = _side_by_side(cluster, measured)
    ids = [entry.run_id for entry in alike]
    if cluster.jobs is not None:
        jobs = min(cluster.jobs, len(ids), max_array_size)
        reason = "each job claims the next run that waits"
        return [JobArray(cluster, tuple(ids), (), jobs, together, f"{reason}{why_together}")]
    many, why = _runs_per_job(cluster, alike, measured, together)
    shares = [ids[start : start + many] for start in range(0, len(ids), many)]
    chunks = [shares[i : i + max_array_size] for i in range(0, len(shares), max_array_size)]
    arrays = []
    for number, chunk in enumerate(chunks):
        bounds = [0]
        for runs in chunk:
            bounds.append(bounds[-1] + len(runs))
        own = dataclasses.replace(cluster, max_jobs=_throttle(cluster, number, len(chunks)))
        run_ids = tuple(run_id for runs in chunk for run_id in runs)
        reason = f"{why}{why_together}"
        arrays.append(JobArray(own, run_ids, tuple(bounds), len(chunk), together, reason))
    return arrays


def _throttle(cluster: ClusterConfig, number: int, chunks: int) -> int | None:
    """This chunk's share of `max_jobs`: SLURM throttles an array, not a plan."""
    if cluster.max_jobs is None:
        return None
    return max(1, (cluster.max_jobs + chunks - 1 - number) // chunks)


def _side_by_side(cluster: ClusterConfig, measured: Sequence[Measured | None]) -> tuple[int, str]:
    if cluster.side_by_side is not None:
        asked = cluster.side_by_side
        return asked, f", {asked} at a time" if asked > 1 else ""
    known = [m for m in measured if m is not None and m.memory_bytes]
    whole = cluster.gpus > 0 and cluster.gpu_memory is not None and len(known) == len(measured)
    if not whole or world_size(cluster) > 1 or max(m.seconds for m in known) > SHORT_STEP:
        return 1, ""
    assert cluster.gpu_memory is not None
    largest = max(m.memory_bytes for m in known)
    a_gpu = max(1, min(MOST_A_GPU, int(FILLED * cluster.gpu_memory * 1e9 / largest)))
    fit = min(a_gpu * cluster.gpus, len(measured))
    told = f", {fit} at a time (the largest was measured to take {largest / 1e9:.1f} GB)"
    return fit, told if fit > 1 else ""


def _runs_per_job(
    cluster: ClusterConfig,
    alike: Sequence[Entry],
    measured: Sequence[Measured | None],
    together: int,
) -> tuple[int, str]:
    if cluster.runs_per_job is not None:
        return cluster.runs_per_job, f"{cluster.runs_per_job} a job"
    seconds = [m.seconds * entry.steps_left for m, entry in zip(measured, alike, strict=True) if m]
    if len(seconds) < len(measured):
        return together, "not timed yet"
    mean = sum(seconds) / len(seconds)
    target = min(TARGET_SECONDS, SHARE_OF_TIME * cluster.time * 60)
    many = min(len(alike), max(together, int(target / max(mean, 1e-3)) * together))
    return many, f"{many} a job, about {mean:.0f} s each"
