"""A study whose workers are jobs of a real SLURM cluster: independent of each other, submitted
once, and at its total in the end though one is cancelled and a node dies."""

from __future__ import annotations

import shutil
from pathlib import Path

from spam_lab.config.schema import StudyConfig
from spam_lab.files import read_json
from spam_lab.orchestrate.slurm.ledger import submissions
from spam_lab.orchestrate.tune.ongoing import RUN_ID, WORKER
from spam_lab.orchestrate.tune.progress import outcome
from spam_lab.orchestrate.tune.storage import StudyFolder, open_study
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, run_directories
from tests.processes import run_launch, wait_for
from tests.slurm_cluster import Cluster
from tests.slurm_lab import ON_SLURM, job_ids, submit
from tests.tuning_lab import SHORT

TRIALS = 5


def test_a_study_reaches_its_total_though_a_job_is_cancelled_and_a_node_dies(
    slurm: Cluster, tmp_path: Path, cache: Path
) -> None:
    root = tmp_path / "runs"
    study = ["study=theta_delta_t", f"study.trials={TRIALS}", "study.pruner=none", *SHORT]
    study += ["schedule.steps=500", "evaluation.every=250", f"paths.cache={cache}"]
    study += [f"paths.runs={root}", "study.workers=3"]
    assert "(3 workers)" in submit(study)
    jobs = job_ids(root)
    assert len(jobs) == 3

    def trained(job: str) -> list[RunDirectory]:
        found = [d for d in run_directories(root) if d.status().job == job]
        return [d for d in found if d.status().state is State.RUNNING and d.status().step > 10]

    wait_for(lambda: all(trained(job) for job in jobs), 120, "every job to train a trial")
    assert "its workers are in SLURM already: job" in submit(study)
    assert len(submissions(root)) == 1

    (cancelled,) = trained(jobs[0])
    slurm.run("scancel", jobs[0])
    slurm.wait_state(jobs[0], "CANCELLED")
    (lost,) = trained(jobs[1]) or [d for d in run_directories(root) if d.status().job == jobs[1]]
    node = lost.status().host
    slurm.kill_node(node)
    slurm.down(node)

    folder = StudyFolder(root, "theta_delta_t", "nano")
    opened = open_study(folder, StudyConfig())
    wait_for(
        lambda: sum(t.state.is_finished() for t in opened.get_trials(deepcopy=False)) == TRIALS,
        200,
        "the study to reach its total",
    )
    trials = opened.get_trials(deepcopy=False)
    assert [outcome(trial) for trial in trials] == ["complete"] * TRIALS
    assert len({trial.user_attrs[RUN_ID] for trial in trials}) == TRIALS
    assert {d.status().state for d in run_directories(root)} == {State.DONE}
    assert cancelled.status().attempt > 1, "another worker went on with it"
    assert {trial.user_attrs[WORKER].partition("-")[0] for trial in trials} <= {"0", "1", "2"}
    hours = [read_json(path) for path in folder.path.glob("workers/*/hours.json")]
    assert {h["job"] for h in hours} <= set(jobs) and hours

    code, output = run_launch([*study, *ON_SLURM])
    assert code == 0 and f"{TRIALS} trials: {TRIALS} complete" in output, output
    assert len(submissions(root)) == 1, "nothing is left to be submitted for"


def test_what_a_study_cannot_be_on_slurm_is_refused(
    slurm: Cluster, tmp_path: Path, cache: Path
) -> None:
    assert shutil.which("sbatch")
    study = ["study=theta_delta_t", *SHORT, f"paths.runs={tmp_path / 'runs'}", "cluster.nodes=2"]
    assert "one process" in submit([*study, f"paths.cache={cache}"], expected=1)
    assert submissions(tmp_path / "runs") == []
