"""Run directories become MLflow's record: what it says, and that syncs add up to one sync."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from spam_lab.files import read_json, write_json
from spam_lab.record.mlflow_store import artifact_root, open_store, tracking_uri
from spam_lab.record.state import State
from spam_lab.record.store import SweepManifest
from spam_lab.record.tracking import sync
from tests.tracking_case import (
    GrowingRun,
    content_of,
    files_of,
    finished_runs,
    in_a_process,
    local_uri,
)


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without a run; making one takes a second."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    with open_store(f"sqlite:///{path}"):
        return path


def synced_at_once(root: Path, empty_store: Path) -> dict[str, Any]:
    """The record of a fresh store."""
    uri = f"sqlite:///{shutil.copy(empty_store, root / 'fresh.db')}"
    sync(root, uri)
    return content_of(uri)


def test_importing_tracking_and_the_cli_does_not_import_mlflow() -> None:
    code = "import sys, spam_lab.record.tracking, spam_lab.cli; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_store_is_beside_the_runs_unless_the_environment_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert tracking_uri(tmp_path) == "http://host:5000"


def test_record_says_what_the_run_directory_says(tmp_path: Path) -> None:
    root = tmp_path / "my runs"  # a space must not break addresses
    for number, theta in enumerate((1000.0, 1000.0, 2500.0)):
        run = GrowingRun(root, number, theta=theta).start().train(25)
        run.train(15, bad=float("inf"), odd=float("nan")).checkpoint()
        run.end(State.DIVERGED if number == 2 else State.DONE, "spike" if number == 2 else "")
    GrowingRun(root, 9)
    ids = [f"{number:016x}" for number in range(3)]
    SweepManifest("figure9", "nano", ids, ["seed=0"], "Which **theta**?").write(root)
    SweepManifest("figure2", "nano", ids[:1]).write(root)
    before = files_of(root)
    report = sync(root, local_uri(root))
    assert (report.new, report.updated, report.unchanged, report.sweeps) == (4, 0, 0, 2)
    assert files_of(root) == before

    record = content_of(local_uri(root))
    assert sorted(record) == [
        *(f"spam_lab nano/{name}" for name in [*ids, f"{9:016x}"]),
        "spam_lab nano/figure2",
        "spam_lab nano/figure9",
    ]
    shared, diverged = record[f"spam_lab nano/{ids[0]}"], record[f"spam_lab nano/{ids[2]}"]
    assert shared["name"] == "spam llama_60m seed=0"
    assert diverged["name"] == "spam llama_60m theta=2500 seed=0"
    assert shared["tags"] == {
        "mlflow.note.content": (
            "**done**, step 40 of 40\n\nSweeps: figure2, figure9\n\n"
            f"Run directory: `{root / ids[0]}`"
        ),
        "mlflow.runName": "spam llama_60m seed=0",
        "mlflow.parentRunId": "figure2",
        "mlflow.source.git.commit": "commit0",
        "spam_lab.kind": "run",
        "spam_lab.run_id": ids[0],
        "spam_lab.cell_id": "cell0",
        "spam_lab.state": "done",
        "spam_lab.attempts": "1",
        "spam_lab.host": "here",
        "spam_lab.git_dirty": "false",
        "spam_lab.sweep.figure2": "true",
        "spam_lab.sweep.figure9": "true",
        "spam_lab.synced_step": "40",
    }
    assert shared["params"] == {
        "seed": "0",
        "model.name": "llama_60m",
        "model.architecture.deep.x": "null",
        "optimizer.name": "spam",
        "optimizer.lr": "0.001",
        "optimizer.theta": "1000.0",
        "scale.name": "nano",
    }
    assert shared["status"] == diverged["status"] == "FINISHED"
    assert set(shared["artifacts"]) == {"config.json", "provenance.json"}
    assert diverged["tags"]["spam_lab.state"] == "diverged"
    assert diverged["tags"]["spam_lab.reason"] == "spike"
    metrics = diverged["metrics"]
    assert "bad" not in metrics, "infinity was logged"
    assert [value for _, _, value in metrics["odd"]] == ["nan"] * 15
    assert [(step, value) for step, _, value in metrics["diverged"]] == [(40, "1.0")]
    assert [step for step, _, _ in metrics["train/loss"]] == list(range(1, 41))
    assert diverged["times"] == (
        metrics["train/loss"][0][1],
        metrics["validation/loss"][-1][1],  # the last line of all
    )
    planned = record[f"spam_lab nano/{9:016x}"]
    assert planned["status"] == "RUNNING" and "mlflow.parentRunId" not in planned["tags"]
    sweep = record["spam_lab nano/figure9"]
    assert sweep["status"] == "FINISHED"
    assert "Which **theta**?" in sweep["tags"]["mlflow.note.content"]
    assert "**3 runs**, 2 done, 1 diverged" in sweep["tags"]["mlflow.note.content"]

    with open_store(local_uri(root)) as client:
        experiment = client.get_experiment_by_name("spam_lab nano")
        assert experiment is not None
        assert experiment.artifact_location == artifact_root(root)
        found = client.search_runs(
            [experiment.experiment_id], "tags.`spam_lab.sweep.figure9` = 'true'"
        )
        assert {run.data.tags["spam_lab.run_id"] for run in found} == set(ids)


def test_a_study_is_a_parent_and_its_trials_say_what_became_of_them(
    tmp_path: Path, empty_store: Path
) -> None:
    """A pruned run is no killed one: it has ended, until somebody goes on with it."""
    uri = local_uri(tmp_path)
    runs = [GrowingRun(tmp_path, number).start().train(20).checkpoint() for number in range(5)]
    runs[0].end(State.DONE)
    runs[1].end(State.PREEMPTED, "pruned at step 20; goes on from there")
    runs[2].end(State.PREEMPTED, "asked to stop at step 20; goes on from there")
    runs[3].end(State.DIVERGED, "spike")
    runs[4].end(State.FAILED, "disk full")
    ids = [run.directory.run_id for run in runs]
    told = ("complete", "pruned", "running", "diverged", "failed")
    trials = {ids[number]: f"{number + 7} {what}" for number, what in enumerate(told)}
    best = "0.1000 in trial 7"
    study = SweepManifest("search", "nano", ids, kind="study", trials=trials, best=best)
    study.write(tmp_path)
    write_json(  # of before there were studies
        tmp_path / "sweeps" / "old.nano.json",
        {"name": "old", "scale": "nano", "run_ids": ids[:2], "overrides": [], "description": ""},
    )
    report = sync(tmp_path, uri)
    assert (report.pruned, report.unfinished) == (1, 1)
    record = content_of(uri)
    shown = [record[f"spam_lab nano/{run_id}"] for run_id in ids]
    assert [run["status"] for run in shown] == [
        *["FINISHED", "FINISHED", "KILLED", "FINISHED", "FAILED"]
    ]
    assert [run["tags"]["spam_lab.trial_state.search"] for run in shown] == list(told)
    assert [run["tags"]["spam_lab.trial.search"] for run in shown] == ["7", "8", "9", "10", "11"]
    assert not [t for t in shown[0]["tags"] if t.startswith("spam_lab.trial") and "old" in t]
    parent = record["spam_lab nano/search"]
    assert (parent["tags"]["spam_lab.kind"], parent["status"]) == ("study", "RUNNING")
    note = parent["tags"]["mlflow.note.content"]
    assert "A study of 5 trials, best: **0.1000 in trial 7**" in note
    assert "1 done, 1 diverged, 1 failed, 1 preempted, 1 pruned" in note
    assert record["spam_lab nano/old"]["tags"]["spam_lab.kind"] == "sweep"
    assert record["spam_lab nano/old"]["status"] == "RUNNING", "of a sweep it is a stopped run"

    runs[2].start().train(20).end(State.DONE)
    runs[4].start().train(20).end(State.DONE)
    study.trials |= {ids[2]: "9 complete"}
    study.write(tmp_path)
    assert sync(tmp_path, uri).updated == 2
    assert content_of(uri)["spam_lab nano/search"]["status"] == "FINISHED", "the pruned one too"
    runs[1].start().train(5).checkpoint()  # launched by somebody who wants to know
    sync(tmp_path, uri)
    assert content_of(uri)[f"spam_lab nano/{ids[1]}"]["status"] == "RUNNING"
    assert content_of(uri) == synced_at_once(tmp_path, empty_store)


def test_any_number_of_syncs_is_one_sync(tmp_path: Path, empty_store: Path) -> None:
    """A run grows, is preempted, crashes and is rewound, fails and is retried; sweeps come, change
    names and parents; a user meddles. The record is always that of a fresh store."""
    uri = local_uri(tmp_path)
    run = GrowingRun(tmp_path, 0, steps=300)  # thinned to every third step
    other = GrowingRun(tmp_path, 1, theta=1.0)
    sync(tmp_path, uri)
    run.start().train(31)
    sync(tmp_path, uri)
    run.checkpoint().train(9)  # lines beyond the checkpoint wait
    sync(tmp_path, uri)
    assert content_of(uri) == synced_at_once(tmp_path, empty_store)
    run.end(State.PREEMPTED, "node taken")
    sync(tmp_path, uri)
    assert content_of(uri) == synced_at_once(tmp_path, empty_store)
    run.start().train(69).checkpoint()
    SweepManifest("figure9", "nano", [f"{0:016x}", f"{1:016x}"]).write(tmp_path)
    sync(tmp_path, uri)
    assert content_of(uri) == synced_at_once(tmp_path, empty_store)
    run.train(50).end(State.FAILED, "disk full")
    sync(tmp_path, uri)
    assert content_of(uri) == synced_at_once(tmp_path, empty_store)
    run.start()  # rewound: MLflow holds 50 steps that are no more
    SweepManifest("figure2", "nano", [f"{0:016x}"]).write(tmp_path)
    (tmp_path / "sweeps" / "figure9.nano.json").unlink()
    sync(tmp_path, uri)
    assert [r.updated for r in (sync(tmp_path, uri),)] == [0]
    run.train(200).checkpoint().end(State.DONE)
    other.start().train(40).end(State.DIVERGED)
    SweepManifest("figure9", "nano", [f"{0:016x}", f"{1:016x}"]).write(tmp_path)
    with open_store(uri) as client:
        found = client.search_runs(["1"], f"tags.`spam_lab.run_id` = '{0:016x}'")
        client.set_tag(found[0].info.run_id, "spam_lab.synced", "meddled")
        client.set_terminated(found[0].info.run_id, "KILLED")
    sync(tmp_path, uri)
    record = content_of(uri)
    once = synced_at_once(tmp_path, empty_store)
    del record["spam_lab nano/figure9"], once["spam_lab nano/figure9"]  # compared below
    assert record == once
    assert len(record[f"spam_lab nano/{0:016x}"]["metrics"]["train/loss"]) < 130


def test_a_status_changed_in_mlflow_is_mended_and_the_run_then_unchanged(tmp_path: Path) -> None:
    finished_runs(tmp_path, 2)
    uri = local_uri(tmp_path)
    sync(tmp_path, uri)
    before = content_of(uri)
    with open_store(uri) as client:
        for run in client.search_runs(["1"], "tags.`spam_lab.kind` = 'run'"):
            client.update_run(run.info.run_id, status="RUNNING")
    assert sync(tmp_path, uri).updated == 2
    assert content_of(uri) == before
    assert sync(tmp_path, uri).unchanged == 2


def test_a_deleted_run_directory_stays_recorded_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    finished_runs(tmp_path, 3)
    uri = local_uri(tmp_path)
    sync(tmp_path, uri)
    before = content_of(uri)
    (tmp_path / f"{0:016x}" / "config.json").unlink()
    (tmp_path / f"{1:016x}" / "config.json").write_text("{")
    write_json(tmp_path / "0bad" / "config.json", {"schema_version": 1})
    report = sync(tmp_path, uri)
    assert len(report.problems) == 2 and "0bad" in " ".join(report.problems)
    after = content_of(uri)
    for number in (0, 1):
        key = f"spam_lab nano/{number:016x}"
        assert after[key]["metrics"] == before[key]["metrics"]


def test_an_empty_folder_is_no_error(tmp_path: Path) -> None:
    report = sync(tmp_path, local_uri(tmp_path))
    assert (report.new, report.sweeps) == (0, 0)


WRITES = ("create_run", "log_batch", "log_artifact", "set_terminated", "set_tag", "delete_run")


def kill_at(call: int, root: Path, uri: str) -> None:
    """Sync, and die without a trace at the n-th call that writes."""
    from mlflow import MlflowClient

    calls = 0

    def dying(name: str) -> None:
        real = getattr(MlflowClient, name)

        def wrapped(*arguments: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)

        setattr(MlflowClient, name, wrapped)

    for name in WRITES:
        dying(name)
    sync(root, uri)


def test_killed_at_any_call_the_next_sync_makes_the_same_record(
    tmp_path: Path, empty_store: Path
) -> None:
    uri = local_uri(tmp_path)
    runs = [GrowingRun(tmp_path, number).start().train(20).checkpoint() for number in range(2)]
    SweepManifest("figure9", "nano", [f"{0:016x}", f"{1:016x}"]).write(tmp_path)
    for call in (2, 3, 4, 5, 6, 9):
        assert in_a_process(partial(kill_at, call, tmp_path, uri)) == -signal.SIGKILL
        runs[0].train(2).checkpoint()
    runs[0].train(3).end(State.FAILED)
    for call in (1, 2, 3):
        assert in_a_process(partial(kill_at, call, tmp_path, uri)) == -signal.SIGKILL
    runs[0].start().train(5).end(State.DONE)
    for call in (1, 2, 3, 4):
        assert in_a_process(partial(kill_at, call, tmp_path, uri)) == -signal.SIGKILL
    sync(tmp_path, uri)
    assert content_of(uri) == synced_at_once(tmp_path, empty_store)


def test_runs_over_the_same_text_share_a_dataset(tmp_path: Path) -> None:
    """Whatever their batches are; another tokenizer cuts another dataset."""
    data = {"name": "embedded", "source": "embedded", "tokenizer": "bpe_1000", "batch_size": 4}
    hub = {"name": "c4", "source": "hub", "hub_name": "allenai/c4", "hub_subset": "en"}
    groups = [data, data | {"batch_size": 8}, data | {"tokenizer": "bpe_4000"}, hub]
    for number, group in enumerate(groups):
        run = GrowingRun(tmp_path, number).start().train(10).checkpoint()
        path = run.directory.path / "config.json"
        content = read_json(path)
        content["config"]["data"] = group
        write_json(path, content)
        run.end(State.DONE)
    sync(tmp_path, local_uri(tmp_path))
    with open_store(local_uri(tmp_path)) as client:
        runs = sorted(client.search_runs(["1"]), key=lambda run: run.data.tags["spam_lab.run_id"])
    found = [[one.dataset for one in run.inputs.dataset_inputs] for run in runs]
    assert [len(datasets) for datasets in found] == [1] * 4
    names = [datasets[0].name for datasets in found]
    digests = [datasets[0].digest for datasets in found]
    assert names == ["embedded", "embedded", "embedded", "c4"]
    assert digests[0] == digests[1] and len(set(digests)) == 3
    assert json.loads(found[3][0].source) == {"path": "allenai/c4", "config_name": "en"}
    assert sync(tmp_path, local_uri(tmp_path)).unchanged == 4
