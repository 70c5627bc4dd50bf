"""The record of a group: a real MLflow server over a real PostgreSQL, which may go away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spam_lab.record.mlflow_store import RefusedError, TrackingError, open_store
from spam_lab.record.state import State
from spam_lab.record.store import SweepManifest
from spam_lab.record.tracking import sync
from tests.conftest import ROOT
from tests.mlflow_server import MlflowServer
from tests.postgres import PASSWORD, Postgres, ensure_installed, running_postgres
from tests.processes import wait_for
from tests.tracking_case import GrowingRun, content_of, files_of, finished_runs

Check = Callable[[Path, str], dict[str, Any]]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A database for the tests of this file, which use runs of different numbers."""
    if reason := ensure_installed():
        pytest.skip(reason)
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """One server for most tests: it takes a quarter of a minute to start."""
    server = MlflowServer(postgres.uri, tmp_path_factory.mktemp("server"))
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture(scope="module")
def require_one_sync(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """Checks that an address says of some runs what a fresh sqlite store would; what it says."""
    empty = tmp_path_factory.mktemp("empty") / "mlflow.db"  # making one takes a second
    with open_store(f"sqlite:///{empty}"):
        pass

    def check(root: Path, address: str) -> dict[str, Any]:
        once = f"sqlite:///{shutil.copy(empty, root / 'once.db')}"
        sync(root, once)
        expected = content_of(once)
        found = content_of(address, only=expected)
        assert expected and found == expected
        return found

    return check


def rows_of(postgres: Postgres) -> list[tuple[object, ...]]:
    """Every row of what a sync writes to."""
    tables = ("runs", "tags", "params", "metrics", "latest_metrics", "experiments")
    return [
        (table, str(row))
        for table in tables
        for (row,) in postgres.query(f"SELECT t::text FROM {table} t ORDER BY 1")
    ]


def test_a_growing_run_is_recorded_as_in_sqlite(
    server: MlflowServer, tmp_path: Path, require_one_sync: Check
) -> None:
    """Also with more points than MLflow takes in one request, and rewound between two syncs."""
    address = server.address
    run = GrowingRun(tmp_path, 100, steps=900)
    SweepManifest("growing", "nano", [f"{100:016x}", f"{101:016x}"]).write(tmp_path)
    run.start().train(95, odd=float("nan")).checkpoint().train(9)
    assert sync(tmp_path, address).new == 1
    run.end(State.FAILED, "node lost")
    sync(tmp_path, address)
    more = {f"spam/{number}": float(number) for number in range(8)}
    run.start().train(800, bad=float("inf"), **more).checkpoint()
    before = files_of(tmp_path)
    sync(tmp_path, address)
    assert files_of(tmp_path) == before
    require_one_sync(tmp_path, address)
    run.train(5).end(State.DONE)
    GrowingRun(tmp_path, 101, theta=2.0).start().train(40).end(State.DIVERGED, "spike")
    report = sync(tmp_path, address)
    assert (report.new, report.updated) == (1, 1)
    found = require_one_sync(tmp_path, address)
    curves = found[f"spam_lab nano/{100:016x}"]["metrics"].values()
    assert sum(len(points) for points in curves) > 1000


def test_a_second_sync_changes_nothing(
    server: MlflowServer, postgres: Postgres, tmp_path: Path
) -> None:
    finished_runs(tmp_path, 3)
    sync(tmp_path, server.address)
    before = rows_of(postgres)
    report = sync(tmp_path, server.address)
    assert (report.new, report.updated, report.unchanged) == (0, 0, 3)
    assert rows_of(postgres) == before


def test_a_database_that_goes_away_under_the_server_costs_nothing(
    server: MlflowServer, postgres: Postgres, tmp_path: Path, require_one_sync: Check
) -> None:
    """The server answers, with errors; the sync says so and the next one has everything."""
    run = GrowingRun(tmp_path, 300).start().train(20).checkpoint()
    sync(tmp_path, server.address)
    run.train(20).end(State.DONE)
    with postgres.away(), pytest.raises(TrackingError) as caught:
        sync(tmp_path, server.address)
    message = str(caught.value)
    assert "Run directories are untouched" in message and PASSWORD not in message
    assert sync(tmp_path, server.address).updated == 1
    require_one_sync(tmp_path, server.address)


def test_a_server_killed_in_the_middle_of_a_sync_costs_nothing(
    server: MlflowServer, postgres: Postgres, tmp_path: Path, require_one_sync: Check
) -> None:
    """A real `sync --watch` goes on by itself when the server is back."""
    numbers = range(200, 212)
    for number in numbers:
        GrowingRun(tmp_path, number).start().train(20).end(State.DONE)
    last = GrowingRun(tmp_path, 212).start().train(10).checkpoint()
    SweepManifest("outage", "nano", [f"{number:016x}" for number in numbers]).write(tmp_path)
    printed = tmp_path / "printed"

    def recorded() -> int:
        (row,) = postgres.query(
            "SELECT count(*) FROM tags WHERE key = 'spam_lab.run_id' "
            f"AND value BETWEEN '{200:016x}' AND '{212:016x}'"
        )
        assert isinstance(row[0], int)
        return row[0]

    command = [sys.executable, "-m", "spam_lab.cli", "sync", "--runs", str(tmp_path)]
    with printed.open("wb") as output:
        watch = subprocess.Popen(
            [*command, "--watch", "0.5"],
            cwd=ROOT,
            env={**os.environ, "MLFLOW_TRACKING_URI": server.address},
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def said(text: str) -> bool:
        assert watch.poll() is None, printed.read_text()
        return text in printed.read_text()

    try:
        wait_for(lambda: said("recording") and recorded() >= 2, what="the first runs")
        server.kill()
        assert recorded() < len(numbers), "the sync was over before the server was killed"
        wait_for(lambda: said("cannot be used"), what="the watch to say it")
        last.train(20).end(State.DONE)
        GrowingRun(tmp_path, 213).start().train(12).end(State.DIVERGED)
        server.start()
        assert watch.wait(120) == 0, printed.read_text()
    finally:
        watch.kill()
        watch.wait()
    text = printed.read_text()
    assert text.count("cannot be used") == 1 and text.count("can be used again") == 1
    assert "every run has ended and is recorded: 13 done, 1 diverged" in text
    assert "Traceback" not in text
    require_one_sync(tmp_path, server.address)
    assert sync(tmp_path, server.address).unchanged == 14


def test_a_wrong_password_of_the_database_is_one_line_without_it(
    postgres: Postgres, tmp_path: Path
) -> None:
    finished_runs(tmp_path, 1)
    wrong = postgres.uri.replace(PASSWORD, "wr0ng%2Fsecret")
    with pytest.raises(TrackingError, match="password authentication failed") as caught:
        sync(tmp_path, wrong)
    message = str(caught.value)
    assert "lab:***@" in message and "\n" not in message
    assert "wr0ng" not in message


def test_a_missing_driver_is_named(tmp_path: Path) -> None:
    finished_runs(tmp_path, 1)
    with pytest.raises(RefusedError, match=r"pip install 'psycopg\[binary\]'"):
        sync(tmp_path, "postgresql+asyncpg://lab:secret@nowhere/lab")


def test_a_database_by_its_own_address_keeps_its_password_to_itself(
    postgres: Postgres, tmp_path: Path, require_one_sync: Check
) -> None:
    """Without a server between; and no file, tag, param or address of artifacts has the secret."""
    uri = postgres.database("direct")
    finished_runs(tmp_path, 2)
    report = sync(tmp_path, uri)
    assert (report.new, report.store) == (2, uri.replace(PASSWORD, "***"))
    assert sync(tmp_path, uri).unchanged == 2
    require_one_sync(tmp_path, uri)
    record = repr(content_of(uri))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for secret in (PASSWORD, PASSWORD.replace("%2F", "/")):
        assert secret not in record
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
