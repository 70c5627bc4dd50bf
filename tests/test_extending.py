"""What the README promises to somebody who extends the lab: a new optimizer is one file and one
YAML, a new exhibit is one sweep file and one analysis file. Tried on a copy of the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

METHOD = '''
"""Sign descent with momentum, a stand-in for somebody's optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spam_lab.config.fields import number, text
from spam_lab.config.schema import OptimizerConfig
from spam_lab.optim.registry import Groups, method

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass
class SignConfig(OptimizerConfig):
    """Momentum SGD."""

    name: str = text("sign", doc="registry name of the method")
    momentum: float = number(0.9, low=0, high=1, high_open=True, doc="decay of the momentum")


@method("sign", SignConfig)
def build(groups: Groups, config: SignConfig, seed: int) -> Optimizer:
    """torch's own."""
    import torch

    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
'''

YAML = """
defaults:
  - base_sign
  - _self_

lr: ${scaled:lr,0.1}
"""

SWEEP = '''
"""Which momentum is best?"""

from spam_lab.orchestrate.grid import Sweep, panel


def sweep() -> Sweep:
    """Two values, two seeds."""
    cells = panel("momentum", "optimizer.momentum", (0.0, 0.9), fixed={"optimizer": "sign"})
    return Sweep("figure42", "Which momentum is best?", tuple(cells), seeds=(0, 1))
'''

ANALYSIS = '''
"""Figure 42: two momenta, drawn with the project's own parts."""

from analysis.table10 import build

__all__ = ["build"]
'''


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


def test_an_optimizer_is_one_file_and_one_yaml_and_a_sweep_one_more(
    project: Path, cache: Path
) -> None:
    (project / "spam_lab/optim/methods/sign.py").write_text(METHOD)
    (project / "conf/optimizer/sign.yaml").write_text(YAML)
    (project / "sweeps/figure42.py").write_text(SWEEP)
    (project / "analysis/figure42.py").write_text(ANALYSIS)
    short = ["schedule.steps=4", "schedule.warmup_steps=1", f"paths.cache={cache}"]
    short += ["evaluation.tokens=300"]
    refused = run(project, "launch.py", "optimizer=sign", "optimizer.momentum=1")
    assert "optimizer.momentum=1.0 is not allowed: >= 0 and < 1" in refused.stderr
    sweep = run(project, "launch.py", "sweep=figure42", *short)
    assert sweep.returncode == 0, sweep.stdout + sweep.stderr
    assert "4 runs: 4 done" in sweep.stdout
    listed = run(project, "-m", "analysis", "--list")
    assert "figure42" in listed.stdout
    shown = run(project, "launch.py", "optimizer=sign", "--help")
    assert "optimizer.momentum=0.9" in shown.stdout and "decay of the momentum" in shown.stdout


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
