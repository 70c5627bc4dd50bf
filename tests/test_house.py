"""The house rules that a machine can check: who imports whom, what each file opens with, pairs of
sweep and exhibit, typed bases in every YAML, and nothing of a developer's machine."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spam_lab.config.compose import compose_command
from spam_lab.orchestrate.expand import load_study, study_names, sweep_names
from tests.conftest import ROOT

SOURCES = [
    path
    for folder in ("spam_lab", "sweeps", "analysis")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

ALLOWED = {
    # room -> rooms of spam_lab it may import; data flows from the first line to the last
    "files": set(),
    "config": {"optim", "tasks"},  # registries alone: see test_the_arrows_against_the_flow
    "optim": {"config"},
    "models": {"config"},
    "data": {"config", "files"},
    "tasks": {"config", "models", "data", "files"},
    "train": {"config", "optim", "models", "data", "tasks", "files"},
    "record": {"config", "files"},
    "orchestrate": {"config", "record", "files", "train", "optim", "models", "data", "tasks"},
    # doctor and bench are about optimizers themselves: what they cost, in bytes and in seconds
    "commands": {"config", "orchestrate", "record", "files", "optim", "train"},
}

FORBIDDEN = {
    "train": {"hydra", "mlflow", "optuna", "omegaconf"},
    "optim": {"hydra", "mlflow", "optuna", "transformers"},
    "data": {"hydra", "mlflow", "optuna"},
    "tasks": {"hydra", "mlflow", "optuna"},
    "models": {"hydra", "mlflow", "optuna"},
    "orchestrate": {"mlflow"},
    "analysis": {"torch"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "spam_lab" else parts[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_room_imports_a_later_one(path: Path) -> None:
    own = room(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        assert top not in FORBIDDEN.get(own, set()), f"{own} promises not to import {top}"
        if top == "spam_lab" and rest and own in ALLOWED:
            other = rest.split(".")[0]
            assert other == own or other in ALLOWED[own], f"{own} imports {name}"
        if top == "analysis":
            assert own == "analysis", "nothing imports the exhibits"


def test_the_arrows_against_the_flow() -> None:
    found = [
        (path.name, name)
        for path in SOURCES
        if room(path) == "config"
        for name in imports(path)
        if name.startswith(("spam_lab.optim", "spam_lab.tasks"))
    ]
    assert {name for _, name in found} <= {"spam_lab.optim.registry", "spam_lab.tasks.registry"}
    assert {file for file, _ in found} <= {"compose.py"}


@pytest.mark.parametrize(
    "module",
    ["spam_lab.main", "spam_lab.cli", "spam_lab.optim.registry", "spam_lab.tasks.registry"],
)
def test_starting_up_is_cheap(module: str) -> None:
    """The command line and planning load neither torch nor mlflow nor transformers."""
    slow = ("torch", "mlflow", "transformers")
    code = f"import {module}, sys; print([m for m in {slow} if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert output.stdout.strip() == "[]", output.stderr


def test_the_training_process_never_imports_mlflow() -> None:
    code = (
        "import spam_lab.orchestrate.worker, spam_lab.train.loop, sys\n"
        "print([m for m in ('mlflow', 'optuna') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert output.stdout.strip() == "[]", output.stderr


def test_files_are_small() -> None:
    lengths = {path: path.read_text().count("\n") for path in SOURCES}
    assert statistics.median(lengths.values()) < 150
    assert [str(p) for p, n in lengths.items() if n > 400] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_opens_with_a_paragraph(path: Path) -> None:
    assert len(ast.get_docstring(ast.parse(path.read_text())) or "") > 40


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_yaml_lists_its_typed_base(path: Path) -> None:
    own = {other.stem for other in path.parent.glob("*.yaml")}
    first = re.search(r"^defaults:\s*(?:\[|- )\s*(\w+)", path.read_text(), re.M)
    assert first and (first[1].startswith("base_") or first[1] in own)


def test_every_sweep_has_its_exhibit() -> None:
    """A sweep has one of its own name; studies share the exhibit `tuning`."""
    exhibits = {p.stem for p in (ROOT / "analysis").glob("*.py")}
    questions = {p.stem for p in (ROOT / "sweeps").glob("*.py")} - {"__init__"}
    assert questions == set(sweep_names()) | set(study_names())
    assert set(sweep_names()) <= exhibits
    assert not study_names() or "tuning" in exhibits


def test_every_study_has_its_budget() -> None:
    budgets = {p.stem for p in (ROOT / "conf/study").glob("*.yaml")} - {"none"}
    assert budgets == set(study_names())
    for name in study_names():
        assert load_study(name).name == compose_command([f"study={name}"]).study.name == name


def test_only_the_fixed_folders_stand_at_the_top() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    folders = {name.split("/")[0] for name in listed if "/" in name}
    assert folders <= {"conf", "spam_lab", "sweeps", "analysis", "tests", ".ci"}


def test_nothing_of_a_developers_machine_is_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    mark = re.compile(r"/(work|root|home)/\w")
    found = [
        name
        for name in listed
        if name.endswith((".py", ".md", ".yaml", ".toml", ".txt", ".cff")) or name == "Makefile"
        if name != "tests/test_house.py" and mark.search((ROOT / name).read_text(errors="ignore"))
    ]
    assert found == []


def test_nothing_unsafe_is_called() -> None:
    """No eval, no pickle of what a user can hand in, tensors only with weights_only=True."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "pickle.load", "pickle.loads"), path
                if called == "torch.load":
                    keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert keywords.get("weights_only") == "True", path
