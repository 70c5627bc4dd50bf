"""Several sweeps as one plan: shared runs once, each sweep's manifest, and what each costs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from analysis.frames import results
from spam_lab import main as command
from spam_lab.config.fields import ConfigError
from spam_lab.orchestrate import cost
from spam_lab.orchestrate.cost import prices, total
from spam_lab.orchestrate.display import print_plan
from spam_lab.orchestrate.expand import expand, expand_sweeps
from spam_lab.orchestrate.grid import Sweep, panel
from spam_lab.orchestrate.plan import Plan, plan_of_sweeps
from spam_lab.record.store import sweep_manifests
from spam_lab.record.tracking import sync

SPAM = {"optimizer": "spam_sparse"}
ONE = Sweep(
    "one", "Which θ?", tuple(panel("a", "optimizer.theta", [40, 50], fixed=SPAM)), seeds=(0,)
)
TWO = Sweep(
    "two",
    "Which ΔT?",
    (
        *panel("b", "optimizer.delta_t", [7, 9], fixed={**SPAM, "optimizer.theta": 50}),
        *panel("c", "optimizer.theta", [50], fixed={**SPAM, "optimizer.delta_t": 7}),
    ),
    seeds=(0, 1),
)
SETTING = ["optimizer.delta_t=7"]


def plan_of(root: Path, overrides: list[str]) -> Plan:
    return plan_of_sweeps(expand_sweeps([ONE, TWO], overrides), root)


def test_a_run_that_two_sweeps_ask_for_is_planned_once(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, SETTING)
    assert [len(part.run_ids) for part in plan.parts] == [2, 4]
    shared = set(plan.parts[0].run_ids) & set(plan.parts[1].run_ids)
    assert len(shared) == 1
    assert len(plan.entries) == 5
    (entry,) = (entry for entry in plan.entries if entry.run_id in shared)
    assert entry.cells == 3


def test_a_sweep_whose_data_is_not_here_is_left_out_and_named(tmp_path: Path) -> None:
    absent = {"task": "finetuning_copa", "task.rows": str(tmp_path), "optimizer": "adam"}
    three = Sweep(
        "three",
        "Which rate?",
        tuple(panel("d", "optimizer.beta1", [0.8], fixed=absent)),
        seeds=(0,),
    )
    plan = plan_of_sweeps(expand_sweeps([ONE, three, TWO], []), tmp_path)
    assert [part.name for part in plan.parts] == ["one", "two"]
    assert plan.note.startswith("sweep three is left out: ") and "requests.jsonl.gz" in plan.note
    assert all(entry.config.pretrains for entry in plan.entries)
    with pytest.raises(ConfigError, match=r"sweep three is left out: .*requests\.jsonl\.gz"):
        plan_of_sweeps(expand_sweeps([three], []), tmp_path)


def test_an_override_of_a_sweeps_own_key_is_for_the_others() -> None:
    one, two = expand_sweeps([ONE, TWO], [*SETTING, "optimizer.warmup_steps=2"])
    assert one.overrides == (*SETTING, "optimizer.warmup_steps=2")
    assert two.overrides == ("optimizer.warmup_steps=2",)
    for expansion in (one, two):
        alone = expand(expansion.sweep, expansion.overrides)
        assert [r.run_id for r in expansion.requests] == [r.run_id for r in alone]


@pytest.mark.parametrize("key", ["seed=3", "optimizer.theta=9"])
def test_an_override_that_no_sweep_takes_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=key.partition("=")[0]):
        expand_sweeps([ONE, TWO], [key])


def test_all_trains_each_run_once_and_every_sweep_finds_its_runs(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the command line, real workers and a real record, to what an exhibit reads."""
    sweeps = {"one": ONE, "two": TWO}
    monkeypatch.setattr(command, "sweep_names", lambda: list(sweeps))
    monkeypatch.setattr(command, "load_sweep", sweeps.__getitem__)
    monkeypatch.setattr(command, "_record", lambda root: None)
    kept = [o for o in tiny if not o.startswith(("optimizer=", "optimizer.theta"))]
    console = Console(file=io.StringIO(), width=200)
    assert command.launch(["sweep=all", "cluster=inline", *kept], False, console) == 0
    assert "5 runs for 8 requests (3 shared)" in console.file.getvalue()
    root = tmp_path / "runs"
    manifests = {manifest.name: manifest for manifest in sweep_manifests(root)}
    assert {name: len(m.run_ids) for name, m in manifests.items()} == {"one": 2, "two": 4}
    uri = f"sqlite:///{tmp_path / 'record.db'}"
    assert sync(root, uri).problems == []
    for name, sweep in sweeps.items():
        overrides = manifests[name].overrides
        assert overrides[0] == f"sweep={name}"
        frame = results(expand(sweep, overrides[1:]), "nano", uri, name)
        assert list(frame["state"]) == ["done"] * len(frame)
    assert command.launch(["sweep=all", "cluster=inline", *kept], False, console) == 0
    assert "5 already there" in console.file.getvalue()


def test_gpu_hours_are_given_by_sweep_and_the_whole_counts_shared_runs_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the paper's size nothing is timed here, and the hours are those of the paper's table."""

    def refuse(config: object) -> float:
        raise AssertionError("a step of the paper's size was calibrated on a CPU")

    monkeypatch.setattr(cost, "calibrate", refuse)
    monkeypatch.setattr(cost, "has_gpu", lambda config: False)
    plan = plan_of(tmp_path, [*SETTING, "scale=paper", "model=llama_130m"])
    known = prices(plan, measure=True)
    whole = total(known.values())
    alone = [total(known[run_id] for run_id in part.run_ids) for part in plan.parts]
    # Table 14: Adam takes 0.6397 s a step on LLaMA-130M, and the paper trains it for 20,000.
    one_run = 20_000 * 0.6397 / 3600
    assert whole.h100_hours == pytest.approx(5 * one_run, rel=0.02)
    assert [part.h100_hours for part in alone] == pytest.approx(
        [2 * one_run, 4 * one_run], rel=0.02
    )
    assert whole.seconds is None
    console = Console(file=io.StringIO(), width=160)
    print_plan(console, plan, known, 1)
    printed = console.file.getvalue()
    assert "17.8 H100-hours (at the rate of the paper's Table 14)" in printed
    row = next(line for line in printed.splitlines() if line.startswith("two"))
    assert row.split()[:7] == ["two", "4", "1", "4", "80,000", "–", "14"]
    assert "on this computer" not in printed
