"""Who trains what on a cluster: every run in exactly one share, arrays below SLURM's limit, and
decisions that follow from what was measured. No SLURM: pure planning."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spam_lab.config.cluster import ClusterConfig
from spam_lab.config.compose import compose_run
from spam_lab.config.fields import ConfigError
from spam_lab.orchestrate.cost import Measured, shape_of
from spam_lab.orchestrate.expand import expand
from spam_lab.orchestrate.grid import Cell, Sweep
from spam_lab.orchestrate.plan import Action, Entry
from spam_lab.orchestrate.slurm.packing import MOST_A_GPU, JobArray, pack, share
from spam_lab.record.store import Status

BASE = compose_run(["cluster=slurm"])


def entries(count: int, **cluster: Any) -> list[Entry]:
    config = dataclasses.replace(BASE, cluster=dataclasses.replace(BASE.cluster, **cluster))
    return [
        Entry(f"run{i:05d}", "cell", f"run {i}", config, Status(), Action.RUN, 1)
        for i in range(count)
    ]


def measured(due: list[Entry], seconds_a_run: float, memory: int = 0) -> dict[str, Measured]:
    shape = shape_of(dataclasses.asdict(due[0].config))
    return {shape: Measured(seconds_a_run / due[0].steps_left, memory)}


def shares(arrays: list[JobArray]) -> list[tuple[str, ...]]:
    return [array.share(i) for array in arrays for i in range(array.jobs)]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 60),
    many=st.integers(1, 9),
    size=st.integers(1, 12),
    throttle=st.none() | st.integers(1, 20),
)
def test_every_run_is_in_one_share(count: int, many: int, size: int, throttle: int | None) -> None:
    due = entries(count, runs_per_job=many, max_jobs=throttle)
    arrays = pack(due, {}, size)
    handed = [run_id for one in shares(arrays) for run_id in one]
    assert handed == [entry.run_id for entry in due], "each once, in the order of the plan"
    assert all(1 <= array.jobs <= size for array in arrays)
    jobs = math.ceil(count / many)
    assert len(arrays) == math.ceil(jobs / size), "as few arrays as possible"
    if throttle is not None:
        limits = [array.cluster.max_jobs or 0 for array in arrays]
        assert min(limits) >= 1
        assert sum(limits) == max(throttle, len(arrays))


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 60), jobs=st.integers(1, 70))
def test_jobs_that_claim_what_waits_all_see_every_run(count: int, jobs: int) -> None:
    (array,) = pack(entries(count, jobs=jobs), {}, 1000)
    assert array.jobs == min(count, jobs)
    for index in range(array.jobs):
        assert sorted(array.share(index)) == sorted(array.run_ids)
    firsts = [array.share(index)[0] for index in range(array.jobs)]
    assert len(set(firsts)) == array.jobs, "they begin at different runs"


def test_unequal_resources_are_unequal_arrays() -> None:
    small, large = entries(3), entries(2, gpus=8, time=1440)
    arrays = pack([*small, *large], {}, 1001)
    assert [(a.cluster.gpus, a.cluster.time, a.jobs) for a in arrays] == [(1, 240, 3), (8, 1440, 2)]


def test_short_runs_share_a_job_and_unknown_ones_do_not() -> None:
    due = entries(100)
    (unknown,) = pack(due, {}, 1001)
    assert unknown.jobs == 100 and "not timed yet" in unknown.reason
    (known,) = pack(due, measured(due, 60.0), 1001)
    assert known.jobs == 7, "fifteen of a minute make a quarter of an hour"
    short_jobs = entries(100, time=10)
    (brief,) = pack(short_jobs, measured(short_jobs, 60.0), 1001)
    assert brief.jobs == 20, "no more than half of a job's ten minutes"
    (slow,) = pack(due, measured(due, 7200.0), 1001)
    assert slow.jobs == 100


@pytest.mark.parametrize(
    ("gigabytes", "expected"), [(30.0, 2), (9.0, 7), (1.0, MOST_A_GPU), (70.0, 1)]
)
def test_runs_share_a_gpu_by_their_measured_memory(gigabytes: float, expected: int) -> None:
    due = entries(64, gpu_memory=80.0)
    (array,) = pack(due, measured(due, 5.0, int(gigabytes * 1e9)), 1001)
    assert array.side_by_side == expected
    more = entries(64, gpu_memory=80.0, gpus=2, processes=1)
    (two_gpus,) = pack(more, measured(more, 5.0, int(gigabytes * 1e9)), 1001)
    assert two_gpus.side_by_side == 2 * expected


def test_long_steps_and_unmeasured_runs_do_not_share_a_gpu() -> None:
    due = entries(8, gpu_memory=80.0)
    seconds = 0.2 * due[0].steps_left
    assert pack(due, measured(due, seconds, 10**9), 1001)[0].side_by_side == 1
    assert pack(due, {}, 1001)[0].side_by_side == 1
    alone = entries(8)
    assert pack(alone, measured(alone, 5.0, 10**9), 1001)[0].side_by_side == 1


def test_share_of_a_pulling_job_rotates() -> None:
    assert share(["a", "b", "c", "d"], [], 1, 2) == ("c", "d", "a", "b")


def test_a_cell_may_ask_for_resources_and_the_command_line_wins() -> None:
    cell = Cell({}, {"optimizer.theta": 100, "cluster.gpus": 4, "cluster.time": 600})
    sweep = Sweep("a_sweep", "a question", (cell,), seeds=(0,))
    (own,) = expand(sweep, ["cluster=slurm"])
    (told,) = expand(sweep, ["cluster=slurm", "cluster.gpus=2"])
    assert (own.config.cluster.gpus, own.config.cluster.time) == (4, 600)
    assert (told.config.cluster.gpus, told.config.cluster.time) == (2, 600)
    assert own.run_id == told.run_id
    with pytest.raises(ConfigError, match=r"sets optimizer\.theta itself"):
        expand(sweep, ["optimizer.theta=5"])


def test_the_default_cluster_needs_no_slurm() -> None:
    assert ClusterConfig().name == "local"
