"""`spam-lab completion` in a real bash: what the Tab key offers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from spam_lab.commands.completion import _Names
from spam_lab.config.compose import compose_run
from spam_lab.config.identity import run_id
from spam_lab.orchestrate.expand import request_of
from spam_lab.orchestrate.plan import make_plan
from tests.conftest import ROOT

RUN = run_id(compose_run([]))
BASH = shutil.which("bash")

# Bash calls the function of a completion with the words of the line in COMP_WORDS.
ASK = """
eval "$(spam-lab completion bash)"
COMP_LINE="$1"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; COMP_WORDBREAKS=$' \\t\\n"'
_python_argcomplete spam-lab
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("completion") / "runs"
    make_plan([request_of(compose_run([]))], root, "figure9", "a question").write([])
    return root


@pytest.mark.skipif(BASH is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("spam-lab stat", ["status"]),
        ("spam-lab status fig", ["figure9"]),
        (f"spam-lab why {RUN[:4]}", [RUN]),
        ("spam-lab why fig", []),
        ("spam-lab retry fig", ["figure9"]),
        ("spam-lab cancel --wh", []),
    ],
)
def test_the_tab_key(line: str, expected: list[str], runs: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    output = subprocess.run(
        [str(BASH), "-c", ASK, "bash", line],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "SPAM_LAB_RUNS": str(runs)},
        capture_output=True,
        text=True,
        check=True,
    )
    offered = [word.strip() for word in output.stdout.split("\n") if word.strip()]
    assert offered == expected, output.stderr


def test_a_broken_folder_of_runs_completes_nothing(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder")
    assert _Names("run")(Namespace(runs=tmp_path / "runs")) == []
