"""The workers of a study as SLURM jobs: one array, a worker a job, none of which waits for another.

A job that is told to stop has itself requeued while trials are left; its trial goes on with whoever
takes it up first.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spam_lab.orchestrate.slurm.job import listen, requeued
from spam_lab.orchestrate.slurm.ledger import ArrayRecord, Submission, make_private
from spam_lab.orchestrate.slurm.packing import JobArray
from spam_lab.orchestrate.slurm.place import Place
from spam_lab.orchestrate.slurm.submit import CHECKOUT, check_arrays, hand_over
from spam_lab.orchestrate.snapshot import freeze
from spam_lab.orchestrate.tune.storage import open_study
from spam_lab.orchestrate.tune.worker import StudyOrder
from spam_lab.orchestrate.tune.workers import StudyWorkers


@dataclass(frozen=True)
class StudyJob:
    """Worker `index` of the study whose order is at `path`: all that submitit pickles."""

    path: str
    index: int

    def __call__(self) -> str:
        """Work until there are trials enough; what became of it, for submitit's files."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        order = StudyOrder.read(Path(self.path))
        cluster = order.host.cluster
        order = replace(order, ends_at=time.time() + cluster.time * 60 - cluster.signal_seconds)
        study = open_study(order.folder, order.study)
        many = cluster.side_by_side or 1
        workers = StudyWorkers(order, many, study, self.index * many, _one_gpu_each)
        listen(workers.stop)
        workers.search()
        if not workers.is_left():
            return "done"
        if not workers.stopping and order.ends_at is not None and time.time() < order.ends_at:
            return "the last trials are with other workers"
        return "requeued" if requeued(Place.here(), cluster.signal_seconds) else "stopped"

    def checkpoint(self) -> Any:
        """The same job again: a signal came before ours could be heard, so nothing was begun."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _one_gpu_each(number: int) -> Mapping[str, str]:
    """One GPU for each worker, in turn, where the job has several."""
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    return {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if len(gpus) > 1 else {}


def submit_study(order: StudyOrder, jobs: int, checkout: Path = CHECKOUT) -> list[str]:
    """Submit the workers; their job ids.

    Raises:
        SlurmError: SLURM refuses them; nothing was submitted.
        SnapshotError: the code cannot be frozen.
    """
    cluster = order.host.cluster
    array = JobArray(cluster, (), (), jobs, cluster.side_by_side or 1, "workers of a study")
    check_arrays([array])
    paths = order.host.paths
    absolute = replace(paths, runs=str(order.root), cache=str(Path(paths.cache).resolve()))
    order = replace(order, host=replace(order.host, paths=absolute))
    submission = Submission.new(order.root, order.folder.title, order.scale)
    frozen = freeze(checkout, order.root)
    path = submission.order_path(0)
    order.write(path)
    name = f"spam_lab-{order.study.name}-{submission.name}-0"
    submission.arrays.append(ArrayRecord(name, [], [], jobs))
    submission.write()
    make_private(submission.jobs_folder)
    work = [StudyJob(str(path), index) for index in range(jobs)]
    record = submission.arrays[0]
    record.job_ids = hand_over(submission, array, name, frozen, work)
    submission.write()
    return record.job_ids
