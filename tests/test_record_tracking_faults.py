"""What goes wrong around the record: each is one clear error or mended by the next sync."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from spam_lab.record import mlflow_store
from spam_lab.record.mlflow_store import TrackingError, open_store
from spam_lab.record.store import StoreError
from spam_lab.record.tracking import sync
from tests.tracking_case import content_of, files_of, finished_runs, in_a_process, local_uri


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Runs that are recorded; tests leave the record as it was."""
    root = tmp_path_factory.mktemp("runs")
    finished_runs(root, 3)
    sync(root, local_uri(root))
    return root, local_uri(root)


def test_a_deleted_store_is_rebuilt_in_the_same_process(synced: tuple[Path, str]) -> None:
    root, uri = synced
    before = content_of(uri)
    (root / "mlflow.db").unlink()
    report = sync(root, uri)
    assert (report.new, report.unchanged) == (3, 0)
    assert content_of(uri) == before


def test_what_a_user_deleted_in_mlflow_comes_back(synced: tuple[Path, str]) -> None:
    root, uri = synced
    before = content_of(uri)
    with open_store(uri) as client:
        client.delete_run(client.search_runs(["1"])[0].info.run_id)
        client.delete_experiment("1")
    sync(root, uri)
    assert content_of(uri) == before


def test_a_run_recorded_twice_is_recorded_once_again(synced: tuple[Path, str]) -> None:
    root, uri = synced
    before = content_of(uri)
    with open_store(uri) as client:
        run = client.search_runs(["1"], "tags.`spam_lab.kind` = 'run'")[0]
        client.create_run("1", start_time=run.info.start_time + 1, tags=run.data.tags)
    sync(root, uri)
    assert content_of(uri) == before


def test_a_store_locked_by_another_program_is_one_quick_error(
    synced: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, uri = synced
    before = files_of(root)
    monkeypatch.setattr(mlflow_store, "_LOCK_SECONDS", 0.5)
    with closing(sqlite3.connect(root / "mlflow.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(TrackingError, match="another program is writing") as caught:
            sync(root, uri)
    assert time.monotonic() - started < 5
    assert uri in str(caught.value) and "\n" not in str(caught.value)
    assert sync(root, uri).unchanged == 3
    assert files_of(root) == before


def test_a_damaged_store_says_that_it_can_be_rebuilt(synced: tuple[Path, str]) -> None:
    root, _ = synced
    (root / "damaged.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(TrackingError, match="rebuilt from the run directories"):
        sync(root, f"sqlite:///{root / 'damaged.db'}")


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:1", "http://me:secret@127.0.0.1:1", "file:///nowhere/mlruns"]
)
def test_a_store_that_is_away_is_one_quick_error(synced: tuple[Path, str], uri: str) -> None:
    root, _ = synced
    before = files_of(root)
    started = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        sync(root, uri)
    message = str(caught.value)
    assert time.monotonic() - started < 15
    assert mlflow_store.shown(uri) in message and "sync again" in message
    assert "secret" not in message
    assert files_of(root) == before


def test_a_manifest_that_cannot_be_understood_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "figure9.nano.json").write_text('{"nome": 1}')
    with pytest.raises(StoreError, match="manifest"):
        sync(tmp_path, local_uri(tmp_path))


def test_a_second_sync_waits_for_the_first_or_gives_up(synced: tuple[Path, str]) -> None:
    root, uri = synced
    from filelock import FileLock

    told: list[str] = []
    with (
        FileLock(root / ".sync.lock"),
        pytest.raises(TrackingError, match=r"another sync .* let it finish"),
    ):
        sync(root, uri, lock_seconds=0.2, progress=told.append)
    assert len(told) == 1 and told[0].startswith("waiting for another sync")
    assert sync(root, uri).unchanged == 3


def test_syncs_that_start_at_once_on_no_store_make_one_record(tmp_path: Path) -> None:
    finished_runs(tmp_path, 3)
    uri = local_uri(tmp_path)

    def four_at_once() -> None:
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                try:
                    sync(tmp_path, uri)
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0, 0]

    assert in_a_process(four_at_once) == 0
    assert sync(tmp_path, uri).unchanged == 3
    assert len(content_of(uri)) == 4


def test_killed_at_any_moment_also_while_the_store_is_made(tmp_path: Path) -> None:
    finished_runs(tmp_path, 4)
    uri = local_uri(tmp_path)
    killed = 0
    for delay in (0.05, 0.3, 0.7, 0.3, 0.5, 0.4):
        child = os.fork()
        if child == 0:
            try:
                sync(tmp_path, uri)
            finally:
                os._exit(0)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        killed += os.waitpid(child, 0)[1] == signal.SIGKILL
    assert killed >= 2
    sync(tmp_path, uri)
    fresh = f"sqlite:///{tmp_path / 'fresh.db'}"
    sync(tmp_path, fresh)
    assert content_of(uri) == content_of(fresh)
