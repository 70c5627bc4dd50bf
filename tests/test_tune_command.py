"""Studies through the command line: stopped with Ctrl-C and continued on another day, refused in a
line."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from spam_lab.files import read_json
from spam_lab.record.state import State
from spam_lab.record.store import run_directories, sweep_manifests
from tests.conftest import ROOT
from tests.processes import wait_for
from tests.tuning_lab import SHORT, copy_of_project, launch_in, launched_in, worker_pids

STUDY = '''
"""Two rates and a threshold, for a test."""

from spam_lab.orchestrate.search import Search, Study


def study() -> Study:
    """It."""
    return Study(
        name="little",
        description="Which threshold?",
        space=(
            Search("optimizer.lr", choices=(0.001, 0.003)),
            Search("optimizer.theta", 10, 20000, log=True),
        ),
        fixed={"model": "llama_60m", "optimizer": "spam"},
        winners_by="optimizer.lr",
    )
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a study for tests, which is one file in sweeps/."""
    return copy_of_project(tmp_path_factory.mktemp("project") / "lab", "little", STUDY)


def test_a_study_is_stopped_and_continued_to_a_larger_total(
    project: Path, tmp_path: Path, cache: Path
) -> None:
    """The real command line: Ctrl-C in the middle of a trial, the rest on another day, then more;
    what is there is not run again."""
    root = tmp_path / "runs"
    little = ["study=theta_delta_t", "study.name=little", "study.workers=2", "study.pruner=none"]
    little += [*SHORT, "schedule.steps=300", "evaluation.every=100", f"paths.cache={cache}"]
    little += [f"paths.runs={root}"]
    with launched_in(project, [*little, "study.trials=4"]) as process:
        wait_for(
            lambda: any(
                d.status().state is State.RUNNING and d.status().checkpoint_step > 20
                for d in run_directories(root)
            ),
            120,
            "a trial to be in its middle",
        )
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopping at the next step, with a checkpoint; again to kill" in output
    assert "Traceback" not in output
    assert worker_pids() == []
    stopped = [d for d in run_directories(root) if d.status().state is State.PREEMPTED]
    assert stopped and all(d.status().checkpoint_step > 0 for d in stopped)
    done = {d.run_id for d in run_directories(root) if d.status().state is State.DONE}

    code, output = launch_in(project, [*little, "study.trials=5", "study.sampler=random"])
    assert code == 0, output
    assert "5 trials: 5 complete" in output
    assert "optimizer.lr: one of 0.001, 0.003" in output
    directories = {d.run_id: d for d in run_directories(root)}
    assert len(directories) == 5
    assert {d.status().state for d in directories.values()} == {State.DONE}
    assert all(directories[run_id].status().attempt == 1 for run_id in done)
    assert all(directories[d.run_id].status().attempt == 2 for d in stopped)
    (manifest,) = sweep_manifests(root)
    assert sorted(manifest.run_ids) == sorted(directories)
    assert sorted(t.split()[1] for t in manifest.trials.values()) == ["complete"] * 5
    folder = root / "studies" / "little.nano"
    hours = [read_json(path) for path in folder.glob("workers/*/hours.json")]
    assert sum(h["trials"] for h in hours) >= 5
    assert all(0 < h["busy_seconds"] <= h["seconds"] for h in hours)
    (best, *_) = read_json(folder / "winners.json")
    assert set(best["set"]) == {"optimizer.theta"} and "optimizer.lr" in best["where"]

    code, output = launch_in(project, [*little, "study.trials=6", "schedule.steps=301"])
    assert code == 1 and "values.schedule.steps: 300 -> 301" in output
    assert {d.run_id for d in run_directories(root)} == set(directories)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["study.sampler=grid"], "needs choices for every searched key"),
        (["optimizer.theta=7"], "sets optimizer.theta itself: leave it out"),
        (["-m", "data_seed=1,2"], "a search already"),
        (["cluster=inline"], "workers of its own"),
        (["study.name=nothing"], "study=nothing is not known: one of"),
        (["study.storage=database"], "SPAM_LAB_STUDY_STORAGE"),
        (["study.sampler=magic"], "one of tpe, gp"),
    ],
)
def test_what_cannot_be_begun_is_said_in_a_line(
    tmp_path: Path,
    more: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from spam_lab.main import main

    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("SPAM_LAB_STUDY_STORAGE", raising=False)
    monkeypatch.setattr(
        "sys.argv", ["launch.py", "study=theta_delta_t", f"paths.runs={tmp_path}/r", *more]
    )
    assert main() == 1
    assert told in capsys.readouterr().err
