"""`spam-lab doctor`: what it finds here and on a cluster, what it advises, its optimizers."""

from __future__ import annotations

import fcntl
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from spam_lab.cli import main
from spam_lab.commands.doctor_checks import Finding, folder, machine, optimizers, record, slurm
from tests.made_runs import snapshot
from tests.slurm_cluster import Cluster


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile that works, without its seconds."""
    monkeypatch.setattr(torch, "compile", lambda function: function)


def test_a_line_a_finding(
    compiling: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "not" / "yet"
    assert main(["doctor", "--runs", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("ok   versions       python 3.")
    assert any(line.startswith("ok   torch.compile  works") for line in lines)
    assert any(line.startswith("ok   file locks     renaming and locking work") for line in lines)
    assert any(line.startswith("ok   record         none yet at ") for line in lines)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_runs_that_cannot_be_written_are_to_be_mended(
    compiling: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--runs", str(tmp_path / "file" / "runs"), "--json"]) == 1
    found = {entry["what"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert "Not a directory" in found["runs folder"]["state"]
    assert "--runs DIR" in found["runs folder"]["advice"]


def test_what_runs_can_do_without_is_only_noted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(function: Any) -> Any:
        raise RuntimeError("no compiler\nlong story")

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    assert main(["doctor", "--runs", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "note torch.compile  RuntimeError: no compiler: " in output
    assert "note C++ compiler   none: install g++" in output


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three optimizers, one of which changes its model, timed at the smallest scale."""
    monkeypatch.setattr(optimizers, "_names", lambda: ["adam", "galore", "relora"])
    monkeypatch.setattr(optimizers, "TIMED_SCALE", "nano")
    monkeypatch.setattr(optimizers, "TIMED_STEPS", 2)


def test_optimizers_are_listed(small: None) -> None:
    found = optimizers.optimizers()
    adam, galore, relora = found
    assert (adam.name, adam.method, adam.problem) == ("adam", "adam", "")
    assert adam.weight_bytes == 2.0
    assert adam.state_bytes == pytest.approx(4.0, abs=1e-4)
    # GaLore's own arithmetic at 60M: 0.2799 GB in all, over 58.07 M weights.
    assert galore.weight_bytes + galore.state_bytes == pytest.approx(4.8196, abs=1e-3)
    assert adam.times_adamw > 0 and galore.times_adamw > 0
    assert (relora.problem, relora.times_adamw > 0) == ("", True)
    assert adam.learning_rates == {
        "llama_60m": 1e-3,
        "llama_130m": 1e-3,
        "llama_350m": 5e-4,
        "llama_1b": 3e-4,
        "pythia_70m": 1e-3,
        "opt_125m": 1e-3,
    }
    text = optimizers.table(found)
    assert max(map(len, text.splitlines())) <= 80
    assert adam.source in text and "2.00 + 4.00 B" in text


def test_one_that_fails_does_not_end_the_table(
    small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def timed(overrides: list[str]) -> float:
        if "optimizer=adam" in overrides:
            raise KeyError("exp_avg")
        return 2.5

    monkeypatch.setattr(optimizers, "_times_adamw", timed)
    assert main(["doctor", "--optimizers", "--json"]) == 1
    adam, galore, _ = json.loads(capsys.readouterr().out)
    assert adam["problem"] == "KeyError: 'exp_avg'"
    assert (galore["problem"], galore["times_adamw"]) == ("", 2.5)
    assert main(["doctor", "--optimizers"]) == 1
    assert "adam\n  MEND KeyError: 'exp_avg'" in capsys.readouterr().out


def test_other_versions_than_tested_are_noted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("# tested\nnumpy==1.0\ntorch==" + torch.__version__.partition("+")[0] + "\n")
    monkeypatch.setattr(machine, "CONSTRAINTS", pins)
    found = machine.constraints()
    assert re.search(r"numpy [\d.]+ \(1\.0\)$", found.state) and found.advice and not found.needed
    pins.write_text("numpy==" + machine._version("numpy") + "\nnot-installed-at-all==3\n")
    assert machine.constraints().advice == ""


def test_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(machine, "_driver", lambda: ("580.1", "NVIDIA H100"))
    found = machine.gpu()
    assert "nvidia-smi lists NVIDIA H100, torch sees none" in found.state and found.advice


def test_locks_that_lock_nobody_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on Lustre that is mounted with localflock, or without locks at all."""
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    found = {finding.what: finding for finding in folder.look(tmp_path)}["file locks"]
    assert found.needed and "lock nobody out" in found.state and "flock" in found.advice


def test_the_record_is_not_made_and_a_broken_one_is_told(tmp_path: Path) -> None:
    assert record.look(tmp_path).advice == ""
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mlflow.db").write_text("this is no database, but it is long enough for one" * 9)
    found = record.look(tmp_path)
    assert "move the file away and sync again" in found.advice and not found.needed


def test_a_server_of_another_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Old(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/version" else 404)
            self.end_headers()
            self.wfile.write(b"2.9.1")

        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Old) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        found = record.look(tmp_path)
        server.shutdown()
    assert (
        "MLflow 2.9.1, here 3." in found.state and "have the server run MLflow 3." in found.advice
    )


def test_no_slurm_here_is_no_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = slurm.look([])
    assert (found.what, found.advice) == ("SLURM", "")
    asked = slurm.shared_folder(tmp_path, [])
    assert asked.advice and asked.needed, "--jobs asked for it"


def test_a_slurm_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("sbatch", "squeue", "scontrol"):
        (tmp_path / name).write_text("#!/bin/sh\necho scontrol: error: no controller >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (found,) = slurm.look([])
    assert "no controller" in found.state
    assert "SLURM_CONF" in found.advice and not found.needed


def test_slurm_its_partitions_and_whether_it_takes_a_job(slurm: Cluster) -> None:
    from spam_lab.commands.doctor_checks.slurm import look

    before = slurm.run("squeue", "-h", "-t", "all", "-o", "%A")  # other tests have used it
    about, partitions, job = look([])
    assert re.fullmatch(r"slurm\S* [\d.]+, its controller answers", about.state)
    assert "main (at most infinite, 3 nodes, gpu:2, default)" in partitions.state
    assert "short (at most 1:00, 3 nodes, gpu:2)" in partitions.state
    assert job == Finding("a job", "SLURM would take one with 1 GPU for 240 min")
    *_, refused = look(["cluster.partition=short"])
    assert "ask for 240 min, and partition short gives at most 1" in refused.state
    assert "cluster.time" in refused.advice and not refused.needed
    *_, refused = look(["cluster.partition=none_such"])
    assert "SLURM would refuse these jobs" in refused.state and refused.advice
    asked = ["cluster.partition=high", "cluster.time=30", "cluster.gpus=2", "cluster.cpus=1"]
    *_, given = look(asked)
    assert given.state == "SLURM would take one with 2 GPUs for 30 min in high"
    *_, wrong = look(["cluster.tme=30"])
    assert "tme" in wrong.state and wrong.needed
    assert slurm.run("squeue", "-h", "-t", "all", "-o", "%A") == before, "nothing was submitted"


def test_a_job_shows_that_nodes_share_the_folder(
    slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from spam_lab.commands.doctor_checks.slurm import shared_folder

    found = shared_folder(tmp_path / "a folder's" / "runs", [])
    assert re.fullmatch(
        r"n\d reads and writes it, its locks hold, Python starts there", found.state
    ), found
    assert found.advice == ""
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    asked = shared_folder(tmp_path, ["cluster.partition=none_such"])
    assert "cannot be tried: sbatch: " in asked.state and asked.advice


def test_a_node_that_does_not_see_the_folder_or_python(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spam_lab.commands.doctor_checks import slurm as checks

    script = checks._SCRIPT
    monkeypatch.setattr(checks, "_SCRIPT", script.replace("cd {scratch}", "cd {scratch}/none"))
    found = checks.shared_folder(tmp_path, [])
    assert "(FAILED) and no file of its is seen" in found.state
    assert "all nodes share" in found.advice
    monkeypatch.setattr(checks, "_SCRIPT", script.replace("import fcntl", "import no_such_module"))
    found = checks.shared_folder(tmp_path, [])
    assert "Python does not start there: ModuleNotFoundError" in found.state
    monkeypatch.setattr(checks, "_SCRIPT", script.replace('"lock"', '"another"'))
    found = checks.shared_folder(tmp_path, [])
    assert "a file locked here is not locked there" in found.state and "locks" in found.advice


def test_a_job_that_does_not_start_is_taken_back(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spam_lab.commands.doctor_checks import slurm as checks

    monkeypatch.setattr(checks, "JOB_SECONDS", 2.0)
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        found = checks.shared_folder(tmp_path, [])
    finally:
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")
    assert "did not end within 2 s (PENDING (PartitionDown))" in found.state
    assert not found.needed
    assert slurm.run("squeue", "-h", "-t", "pending,running") == ""


def test_the_whole_on_a_cluster(
    compiling: None, slurm: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(tmp_path)
    assert main(["doctor", "--runs", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line[5:20].strip() for line in lines if line[:4].strip()][-3:] == [
        "SLURM",
        "partitions",
        "a job",
    ]
    assert snapshot(tmp_path) == before
