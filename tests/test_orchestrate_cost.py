"""What a plan costs: from earlier runs of its shape where there are any, without torch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

from spam_lab.config.compose import compose_run
from spam_lab.files import write_json
from spam_lab.orchestrate.cost import Cost, estimate, shape_of
from spam_lab.orchestrate.expand import request_of
from spam_lab.orchestrate.plan import Plan, make_plan
from spam_lab.record.store import RunDirectory, run_directories
from tests.conftest import ROOT


def plan_of(root: Path, overrides: list[str]) -> Plan:
    return make_plan([request_of(compose_run(overrides))], root)


def test_an_earlier_run_of_the_shape_tells_the_cost(tiny: list[str], trained: Path) -> None:
    """Another seed and another theta are the same shape; another width is not."""
    (done,) = run_directories(trained)
    speed = done.status().seconds_per_step
    assert speed
    cost = estimate(plan_of(trained, [*tiny, "seed=5", "optimizer.theta=9"]), measure=False)
    assert cost == Cost(24 * speed, "earlier runs of the same shape")
    other = estimate(plan_of(trained, [*tiny, "model.hidden_size=32"]), measure=False)
    assert other.seconds is None


def test_runs_of_another_schema_do_not_spoil_a_plan(tiny: list[str], trained: Path) -> None:
    (done,) = run_directories(trained)
    old = RunDirectory(trained, "0123456789abcdef")
    write_json(old.path / "config.json", {"schema_version": 0, "config": {}})
    write_json(old.path / "status.json", dataclasses.asdict(done.status()))
    assert estimate(plan_of(trained, [*tiny, "seed=5"]), measure=False).seconds


def test_what_does_not_decide_the_speed_is_not_in_the_shape() -> None:
    def shape(*overrides: str) -> str:
        return shape_of(dataclasses.asdict(compose_run(list(overrides))))

    assert shape() == shape("seed=3", "optimizer.lr=1", "schedule.steps=99")
    for other in ("data.batch_size=2", "precision=bf16", "optimizer=adam", "cluster.threads=2"):
        assert shape() != shape(other)


def test_launching_reads_history_without_torch(tiny: list[str], trained: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.test_orchestrate_cost import plan_of, estimate\n"
        "print(estimate(plan_of(Path(sys.argv[1]), sys.argv[2:]), measure=False).seconds)\n"
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(trained), *tiny, "seed=5"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, torch = output.stdout.split()
    assert float(seconds) > 0 and torch == "False"
