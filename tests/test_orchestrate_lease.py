"""The lease with real processes: one holder, a dead holder is found at once, nobody is robbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spam_lab.files import read_json, write_json
from spam_lab.orchestrate import lease as lease_module
from spam_lab.orchestrate.lease import STALE_SECONDS, Lease, LeaseLost, is_live
from tests.conftest import ROOT
from tests.processes import wait_for

HOLD = (
    "import sys, time; from pathlib import Path; from spam_lab.orchestrate.lease import Lease\n"
    "lease = Lease(Path(sys.argv[1])); print(lease.acquire(), flush=True); time.sleep(60)"
)


def test_one_of_many_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    try:
        answers = [rival.stdout.readline().strip() for rival in rivals if rival.stdout]
    finally:
        for rival in rivals:
            rival.kill()
            rival.communicate()
    assert sorted(answers) == ["False"] * 5 + ["True"]


def test_a_killed_holder_is_seen_at_once(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=-1)
    wait_for(path.exists, 30)
    assert is_live(path)
    assert not Lease(path).acquire()
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert not is_live(path)
    with Lease(path) as taken:
        assert taken.acquire()
        assert is_live(path)
    assert not path.exists()


def test_a_reused_process_number_is_not_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    lease = Lease(path)
    assert lease.acquire()
    content = read_json(path)
    write_json(path, {**content, "started": content["started"] - 1000})
    assert not is_live(path)


def test_a_holder_elsewhere_lives_by_its_heartbeat(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    write_json(path, {"host": "another", "boot": 1, "pid": 1, "started": 0.0, "token": "t"})
    assert is_live(path)
    old = time.time() - STALE_SECONDS - 5
    os.utime(path, (old, old))
    assert not is_live(path)


def test_the_heartbeat_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.05)
    path = tmp_path / "lease.json"
    with Lease(path) as lease:
        assert lease.acquire()
        os.utime(path, (1, 1))
        wait_for(lambda: path.stat().st_mtime > 1, 10)


def test_who_was_robbed_notices_and_leaves_the_thief_alone(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    with Lease(path) as lease:
        assert lease.acquire()
        write_json(path, {**read_json(path), "token": "thief"})
        with pytest.raises(LeaseLost, match="another worker"):
            lease.require()
    assert read_json(path)["token"] == "thief"


def test_a_damaged_lease_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    path.write_text("{")
    assert not is_live(path)
    with Lease(path) as lease:
        assert lease.acquire()
