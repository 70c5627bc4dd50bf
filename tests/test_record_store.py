"""The run directory on a real file system: atomic files, the state table, metric lines."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spam_lab.files import dump_json, number_from, read_json, replacing, write_json
from spam_lab.record.metrics import MetricWriter, read_metrics, rewind
from spam_lab.record.state import MOVES, State, StateError
from spam_lab.record.store import RunDirectory, StoreError, SweepManifest, sweep_manifests
from tests.conftest import ROOT


@given(st.floats())
def test_every_float_survives_strict_json(value: float) -> None:
    text = dump_json([value])
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    back = number_from(json.loads(text)[0])
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": True})
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert read_json(path) == {"old": True}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    """A real second process rewrites the file all the time; every read is whole."""
    path = tmp_path / "status.json"
    write_json(path, {"n": 0, "pad": "x" * 5000})
    code = (
        "import sys; from pathlib import Path; from spam_lab.files import write_json\n"
        "for n in range(300): write_json(Path(sys.argv[1]), {'n': n, 'pad': 'x' * 5000})"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT)
    reads = 0
    while writer.poll() is None:
        assert len(read_json(path)["pad"]) == 5000
        reads += 1
    assert writer.returncode == 0
    assert reads > 10


def test_files_honour_the_umask(tmp_path: Path) -> None:
    import os

    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("old", State)
@pytest.mark.parametrize("new", State)
def test_only_moves_of_the_table_are_made(tmp_path: Path, old: State, new: State) -> None:
    directory = RunDirectory(tmp_path, "abc")
    directory._write(directory.status().__class__(state=old))
    if new in MOVES[old]:
        assert directory.move(new).state is new
    else:
        with pytest.raises(StateError, match=f"abc cannot go from {old} to {new}"):
            directory.move(new)
        assert directory.status().state is old


def test_results_are_final_and_everything_else_can_go_on() -> None:
    for state in State:
        assert bool(MOVES[state]) != state.is_result


def test_nan_in_a_status_comes_back(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path, "abc")
    directory.report(loss=float("nan"))
    loss = directory.status().loss
    assert loss is not None and math.isnan(loss)


def test_an_older_schema_is_refused_by_name(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path, "abc")
    directory.create("cell", 0, {})
    with pytest.raises(StoreError, match=r"schema 0, this program uses 1.*paths.runs"):
        directory.config_file(1)
    with pytest.raises(StoreError, match="schema 0"):
        directory.create("cell", 1, {})


def test_damaged_files_are_named(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path, "abc")
    directory.path.mkdir()
    (directory.path / "config.json").write_text("{")
    (directory.path / "status.json").write_text("{")
    with pytest.raises(StoreError, match=r"config.json is not readable"):
        directory.config_file()
    with pytest.raises(StoreError, match=r"status.json is not readable"):
        directory.status()


LINES = st.lists(
    st.tuples(st.integers(1, 20), st.dictionaries(st.sampled_from("abc"), st.floats(), max_size=3)),
    max_size=15,
)


@given(LINES)
@settings(max_examples=60, deadline=None)
def test_the_last_value_of_a_step_wins(lines: list[tuple[int, dict[str, float]]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        writer = MetricWriter(path)
        expected: dict[int, dict[str, float]] = {}
        for step, values in lines:
            writer.add(step, values)
            expected.setdefault(step, {}).update(values)
        writer.flush()
        found = {line.step: line.values for line in read_metrics(path)}
    assert repr(dict(sorted(expected.items()))) == repr(found)


@given(LINES, st.integers(0, 20), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_rewinding_a_torn_log_keeps_exactly_the_steps_before(
    lines: list[tuple[int, dict[str, float]]], step: int, torn: int
) -> None:
    """A SIGKILL may cut the last line anywhere: whole lines up to the step stay, nothing else."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        writer = MetricWriter(path)
        for at, values in lines:
            writer.add(at, values)
        writer.flush(durable=True)
        whole = path.read_bytes()
        path.write_bytes(whole + b'{"step": 1, "time_ms": 12, "values": {"a": 1.0}}'[:torn])
        rewind(path, step)
        kept = path.read_bytes().splitlines(keepends=True)
    expected = [
        line for line in whole.splitlines(keepends=True) if json.loads(line)["step"] <= step
    ]
    assert kept == expected


def test_manifests_round_trip(tmp_path: Path) -> None:
    manifest = SweepManifest("figure9", "nano", ["a", "b"], ["seed=1"], "why?")
    manifest.write(tmp_path)
    assert sweep_manifests(tmp_path) == [manifest]
