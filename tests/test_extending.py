"""What the README promises to somebody who extends the lab: a new optimizer is one file and one
YAML, a new exhibit is one sweep file and one analysis file. Its own examples, word by word, on a
copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def blocks(heading: str) -> list[str]:
    """The code blocks of a section of the README, in order."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```\w+\n(.*?)```", section, re.S)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    copy = tmp_path / "project"
    for folder in ("conf", "spam_lab", "sweeps", "analysis"):
        shutil.copytree(ROOT / folder, copy / folder)
    shutil.copy(ROOT / "launch.py", copy)
    return copy


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_the_files_in_the_readme_are_all_that_an_optimizer_and_an_exhibit_need(
    project: Path, cache: Path
) -> None:
    method, yaml = blocks("Add an optimizer")
    sweep, analysis = blocks("Add an exhibit")
    (project / "spam_lab/optim/methods/nadam.py").write_text(method)
    (project / "conf/optimizer/nadam.yaml").write_text(yaml)
    (project / "sweeps/figure42.py").write_text(sweep)
    short = ["schedule.steps=4", "schedule.warmup_steps=1", "evaluation.tokens=300"]
    cached = [*short, f"paths.cache={cache}"]
    refused = run(project, "launch.py", "optimizer=nadam", "optimizer.beta1=1")
    assert "optimizer.beta1=1.0 is not allowed: >= 0 and < 1" in refused.stderr
    shown = run(project, "launch.py", "optimizer=nadam", "--help")
    assert "optimizer.beta1=0.9" in shown.stdout and "decay of the first" in shown.stdout
    trained = run(project, "launch.py", "optimizer=nadam", *cached)
    assert trained.returncode == 0 and "1 runs: 1 done" in trained.stdout, trained.stderr
    swept = run(project, "launch.py", "sweep=figure42", *cached)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert "9 runs: 9 done" in swept.stdout
    without = run(project, "-m", "analysis", "figure42")
    assert without.returncode == 1
    assert "write analysis/figure42.py with build(" in without.stderr
    (project / "analysis/figure42.py").write_text(analysis)
    drawn = run(project, "-m", "analysis", "figure42", *short)
    assert drawn.returncode == 0, drawn.stderr
    page = (project / "reports/nano/figure42.md").read_text()
    assert re.search(r"θ = 500 is better than 5000.*\b(holds|fails|undecided)\b", page)


def test_hydras_own_launchers_keep_working(project: Path, cache: Path) -> None:
    """A plain Hydra multirun, as the official submitit plugin would call it: one job a run."""
    done = run(
        project,
        "launch.py",
        "-m",
        "hydra/launcher=basic",
        "schedule.steps=3",
        "schedule.warmup_steps=1",
        "evaluation.tokens=300",
        "seed=0,1",
        f"paths.cache={cache}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    states = [path.read_text() for path in (project / "runs").glob("*/status.json")]
    assert len(states) == 2 and all('"state": "done"' in text for text in states)


def test_hydra_prints_the_config(project: Path) -> None:
    shown = run(project, "launch.py", "optimizer=adam", "--cfg", "job")
    assert shown.returncode == 0, shown.stderr
    assert "clip_norm: null" in shown.stdout
