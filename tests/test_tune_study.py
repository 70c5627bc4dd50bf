"""Studies with real training: what their trials are told, what their runs keep, and which studies
are refused."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest

from spam_lab.commands.overview import Overview
from spam_lab.commands.relaunch import launch_command
from spam_lab.config.fields import ConfigError
from spam_lab.orchestrate.lease import Lease
from spam_lab.orchestrate.run import execute
from spam_lab.orchestrate.search import LOSS, STATE_BYTES, Search
from spam_lab.orchestrate.stop import StopRequest
from spam_lab.orchestrate.truth import Condition, truths
from spam_lab.orchestrate.tune import claim, reports
from spam_lab.orchestrate.tune.claim import is_waited_for, take
from spam_lab.orchestrate.tune.ongoing import PRUNED_AT, REASON, RUN_ID, WORKER
from spam_lab.orchestrate.tune.progress import outcome, standing, winners
from spam_lab.orchestrate.tune.space import trial_config
from spam_lab.orchestrate.tune.trial import answer
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory, SweepManifest, run_directories, sweep_manifests
from tests.processes import run_launch
from tests.test_train_resume import assert_same, result
from tests.tuning_lab import (
    RATES,
    SHORT,
    answer_all,
    definition,
    host,
    of_rates,
    part,
    present,
)


class StopAt(optuna.pruners.BasePruner):
    """Stops every trial at one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.last_step == self.step


def run_of(root: Path, trial: optuna.trial.FrozenTrial) -> RunDirectory:
    return RunDirectory(root, trial.user_attrs[RUN_ID])


def outcomes(trials: list[optuna.trial.FrozenTrial]) -> list[str]:
    return [outcome(trial) for trial in trials]


def test_a_point_that_was_run_is_read_and_not_run_again(tmp_path: Path, cache: Path) -> None:
    """By the study itself, or by a sweep beforehand: the directories are the same."""
    root, study = tmp_path / "runs", of_rates()
    first = part(root, study, sampler="grid", trials=2)
    (one, other) = answer_all(first, host(root, cache))
    assert outcomes([one, other]) == ["complete", "complete"]
    before = {d.run_id: d.status() for d in run_directories(root)}
    assert [s.attempt for s in before.values()] == [1, 1]
    again = part(root, of_rates(name="again"), sampler="grid", trials=2)
    found = answer_all(again, host(root, cache))
    assert [t.values for t in found] == [one.values, other.values]
    assert [t.intermediate_values for t in found] == [t.intermediate_values for t in (one, other)]
    assert {d.run_id: d.status() for d in run_directories(root)} == before
    manifests = {m.name: m for m in sweep_manifests(root)}
    assert set(manifests["tiny"].run_ids) == set(manifests["again"].run_ids) == set(before)


def test_a_pruned_run_goes_on_when_it_is_asked_for_and_ends_as_one_never_pruned(
    tmp_path: Path, cache: Path
) -> None:
    root, study = tmp_path / "runs", of_rates(0.001)
    (trial,) = answer_all(part(root, study, pruner=StopAt(6), trials=1), host(root, cache))
    assert outcome(trial) == "pruned"
    assert sorted(trial.intermediate_values) == [3, 6]
    directory = run_of(root, trial)
    status = directory.status()
    assert status.state is State.PREEMPTED
    assert 6 <= status.checkpoint_step == status.step <= 7, "at the next step"
    assert status.reason == f"pruned at step {status.step}; goes on from there"
    assert trial.user_attrs[REASON] == status.reason
    run_id = directory.run_id
    assert truths(root, [run_id])[run_id].condition is Condition.PRUNED
    overview = Overview.of(root)
    assert launch_command(overview, run_id).startswith("python launch.py study=tiny")

    code, output = run_launch([*as_command(study, root, cache), "optimizer.lr=0.001"])
    assert code == 0, output
    assert "1 to resume" in output
    assert (directory.status().state, directory.status().attempt) == (State.DONE, 2)
    untouched = tmp_path / "untouched"
    (whole,) = answer_all(part(untouched, study, trials=1), host(untouched, cache))
    assert_same(result(directory), result(run_of(untouched, whole)))
    assert part(root, study, trials=1).study.trials[0].state.name == "PRUNED", "it stays what it is"


def as_command(study: object, root: Path, cache: Path) -> list[str]:
    """The launch of a study's point without its study."""
    fixed = ["model=llama_60m", "optimizer=spam", "seed=100"]
    return [*SHORT, *fixed, f"paths.runs={root}", f"paths.cache={cache}"]


def test_a_pruned_point_that_is_suggested_again_goes_on(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "runs"
    answer_all(part(root, of_rates(0.001), pruner=StopAt(6), trials=1), host(root, cache))
    found = answer_all(part(root, of_rates(0.001), trials=2), host(root, cache))
    assert outcomes(found) == ["pruned", "complete"]
    assert sorted(found[1].intermediate_values) == [3, 6, 9, 12], "what was measured before too"
    assert run_of(root, found[1]).status().attempt == 2
    (manifest,) = sweep_manifests(root)
    assert list(manifest.trials.values()) == ["1 complete"]
    assert manifest.best.endswith(" in trial 1")


def test_what_the_pruner_said_outlives_its_worker(tmp_path: Path, cache: Path) -> None:
    """The worker dies after it was told, before the run could stop: the run is brought to a stop,
    and the trial is not asked about again."""
    root = tmp_path / "runs"
    ongoing = part(root, of_rates(0.001), trials=1)
    taken = take(ongoing)
    assert taken is not None
    taken.trial.set_user_attr(PRUNED_AT, 6)
    taken.directory.move(State.RUNNING, attempt=1)
    (trial,) = answer_all(part(root, of_rates(0.001), trials=1, worker="next"), host(root, cache))
    assert outcome(trial) == "pruned"
    assert taken.directory.status().state is State.PREEMPTED


@pytest.mark.parametrize("counts", ["worst", "failed"])
def test_a_diverged_trial_is_told_and_the_study_goes_on(
    tmp_path: Path, cache: Path, counts: str
) -> None:
    root, study = tmp_path / "runs", of_rates(1e9, 0.001)
    ongoing = part(root, study, sampler="grid", trials=2, diverged=counts)
    good, diverged = sorted(answer_all(ongoing, host(root, cache)), key=outcome)
    assert outcomes([good, diverged]) == ["complete", "diverged"]
    assert run_of(root, diverged).status().state is State.DIVERGED
    assert "loss" in diverged.user_attrs[REASON]
    assert diverged.values == ([math.inf] if counts == "worst" else None)
    now = standing(ongoing.study)
    assert now.best[0].number == good.number
    assert now.answered == 2
    (found,) = winners(ongoing.study.trials, "", study.fixed)
    assert found["set"] == {"optimizer.lr": 0.001}


def test_what_was_found_for_a_model_is_for_that_model(tmp_path: Path, cache: Path) -> None:
    study = definition(
        Search("model", choices=("llama_60m", "llama_130m")),
        Search("optimizer.lr", choices=(0.001,)),
        fixed={"optimizer": "spam"},
        winners_by="model",
    )
    ongoing = part(tmp_path, study, sampler="grid", trials=2)
    answer_all(ongoing, host(tmp_path, cache))
    found = winners(ongoing.study.trials, "model", study.fixed)
    meant = [{"optimizer": "spam", "model": name} for name in ("llama_60m", "llama_130m")]
    assert sorted(e["where"]["model"] for e in found) == ["llama_130m", "llama_60m"]
    assert all(e["where"] in meant and e["set"] == {"optimizer.lr": 0.001} for e in found)
    (best,) = winners(ongoing.study.trials, "", study.fixed)
    assert best["where"] in meant and best["set"] == {"optimizer.lr": 0.001}


def test_a_study_of_nothing_but_divergence_has_no_best(tmp_path: Path, cache: Path) -> None:
    ongoing = part(tmp_path, of_rates(1e9), trials=1)
    answer_all(ongoing, host(tmp_path, cache))
    now = standing(ongoing.study)
    assert (now.best, now.diverged, now.answered) == ((), 1, 1)


def test_a_run_that_fails_is_a_failed_trial(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> object:
        raise RuntimeError("no kernel image")

    monkeypatch.setattr("spam_lab.train.loop.evaluate", broken)
    ongoing = part(tmp_path, of_rates(), sampler="grid", trials=2)
    found = answer_all(ongoing, host(tmp_path, cache))
    assert outcomes(found) == ["failed", "failed"]
    assert "no kernel image" in found[0].user_attrs[REASON]
    monkeypatch.undo()
    (again, _) = answer_all(
        part(tmp_path, of_rates(name="b"), sampler="grid", trials=2), host(tmp_path, cache)
    )
    assert outcome(again) == "complete", "asked for again, it is tried again"


def test_a_point_that_is_refused_is_a_failed_trial(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside of corners that are all allowed."""
    ongoing = part(tmp_path, of_rates(), sampler="grid", trials=2)

    def picky(study: object, overrides: object, point: dict[str, float]) -> object:
        if point["optimizer.lr"] == RATES[0]:
            raise ConfigError("not this one")
        return trial_config(study, overrides, point)  # type: ignore[arg-type]

    monkeypatch.setattr(claim, "trial_config", picky)
    found = answer_all(ongoing, host(tmp_path, cache))
    assert sorted(outcomes(found)) == ["complete", "failed"]
    (refused,) = [t for t in found if outcome(t) == "failed"]
    assert refused.user_attrs[REASON] == "not this one"


def test_two_objectives_give_a_front(tmp_path: Path, cache: Path) -> None:
    """Loss against the optimizer's state, which grows with the density of the mask."""
    densities = Search("optimizer.density", choices=(0.05, 0.5))
    study = definition(
        densities,
        fixed={"model": "llama_60m", "optimizer": "spam_sparse"},
        objectives=(LOSS, STATE_BYTES),
    )
    ongoing = part(tmp_path, study, sampler="grid", pruner=StopAt(3), trials=2)
    found = answer_all(ongoing, host(tmp_path, cache))
    assert outcomes(found) == ["complete", "complete"], "nothing is pruned"
    small, large = sorted(found, key=lambda t: float(t.params["optimizer.density"]))
    assert small.values[1] < large.values[1]
    front = standing(ongoing.study).best
    assert {t.number for t in front} >= {small.number}
    assert SweepManifest.read(SweepManifest("tiny", "nano").path(tmp_path)).best.startswith(
        "Pareto front: trials "
    )


def test_a_point_whose_run_somebody_trains_does_not_hold_a_worker_up(
    tmp_path: Path, cache: Path
) -> None:
    """It is put aside, the next trial is taken, and it is answered when that run has ended."""
    root, where = tmp_path, host(tmp_path, cache)
    ongoing = part(root, of_rates(), sampler="grid", trials=2)
    with present(ongoing):
        first = take(ongoing)
        assert first is not None
        lease = Lease(first.directory.lease_path)
        assert lease.acquire()
        with lease:  # a sweep has begun it meanwhile
            assert answer(ongoing, first, where, StopRequest())
            second = take(ongoing)
            assert second is not None and second.trial.number == 1
            assert answer(ongoing, second, where, StopRequest())
            assert take(ongoing) is None and is_waited_for(ongoing)
        back = take(ongoing)
        assert back is not None and back.trial.number == 0
        assert answer(ongoing, back, where, StopRequest())
        assert not is_waited_for(ongoing)
    assert outcomes(ongoing.study.trials) == ["complete", "complete"]


def test_workers_with_the_same_point_train_it_once(tmp_path: Path, cache: Path) -> None:
    one = part(tmp_path, of_rates(0.001), trials=2, worker="one")
    two = part(tmp_path, of_rates(0.001), trials=2, worker="two")
    with present(one), present(two):
        taken = take(one)
        assert taken is not None
        assert take(two) is None and is_waited_for(two)
        assert answer(one, taken, host(tmp_path, cache), StopRequest())
        read = take(two)
        assert read is not None and answer(two, read, host(tmp_path, cache), StopRequest())
    assert outcomes(one.study.trials) == ["complete", "complete"]
    assert [d.status().attempt for d in run_directories(tmp_path)] == [1]


def test_a_worker_told_to_stop_leaves_its_trial_to_the_next(tmp_path: Path, cache: Path) -> None:
    stop = StopRequest()
    ongoing = part(tmp_path, of_rates(0.001), trials=1)
    with present(ongoing):
        taken = take(ongoing)
        assert taken is not None
        stop.ask()
        assert not answer(ongoing, taken, host(tmp_path, cache), stop)
    assert taken.directory.status().state is State.PREEMPTED
    assert outcomes(ongoing.study.trials) == ["running"]
    following = part(tmp_path, of_rates(0.001), trials=1, worker="next")
    (trial,) = answer_all(following, host(tmp_path, cache))
    assert outcome(trial) == "complete" and trial.user_attrs[WORKER] == "next"


def test_a_storage_that_is_away_costs_a_run_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ongoing = part(tmp_path, of_rates(0.001), trials=1, pruner=StopAt(99))
    reported = optuna.Trial.report

    def flaky(self: optuna.Trial, value: float, step: int) -> None:
        if step == 6 and not away:
            away.append(step)
            raise optuna.exceptions.StorageInternalError("gone")
        reported(self, value, step)

    away: list[int] = []
    monkeypatch.setattr(optuna.Trial, "report", flaky)
    (trial,) = answer_all(ongoing, host(tmp_path, cache))
    assert away == [6] and outcome(trial) == "complete"
    assert sorted(trial.intermediate_values) == [3, 6, 9, 12]


def test_a_step_is_told_once(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    ongoing = part(tmp_path, of_rates(0.001), trials=1)
    taken = take(ongoing)
    assert taken is not None
    for _ in range(2):  # a second attempt computes it again
        told = reports.Reports(taken.trial, reports.PruneRequest())
        told.add(3, {LOSS: 2.0})
        told.add(3, {LOSS: math.nan})
    assert ongoing.study.trials[0].intermediate_values == {3: 2.0}
    assert not [w for w in recwarn if "already" in str(w.message)]


@pytest.mark.parametrize(
    ("study", "overrides", "config", "told"),
    [
        (of_rates(0.001, 0.005), SHORT, {}, "space.optimizer.lr.choices: [0.001, 0.003] -> "),
        (of_rates(seed=101), SHORT, {}, "seed: 100 -> 101"),
        (of_rates(), [*SHORT, "optimizer.beta1=0.8"], {}, "values.optimizer.beta1: 0.9 -> 0.8"),
        (of_rates(), SHORT, {"storage": "database"}, "storage: 'journal' -> 'database'"),
        (of_rates(objectives=(LOSS, STATE_BYTES)), SHORT, {}, "objectives: "),
    ],
)
def test_a_changed_study_is_refused_with_the_difference(
    tmp_path: Path, study: object, overrides: list[str], config: dict[str, str], told: str
) -> None:
    part(tmp_path, of_rates())
    with pytest.raises(ConfigError) as caught:
        part(tmp_path, study, overrides, **config)  # type: ignore[arg-type]
    assert told in str(caught.value)
    assert "was begun with another space" in str(caught.value)
    assert "move " in str(caught.value)


def test_what_moves_no_trial_may_change(tmp_path: Path) -> None:
    part(tmp_path, of_rates())
    more = ["train.log_every=7", "scale=nano", *reversed(SHORT)]
    part(tmp_path, of_rates(description="?!", winners_by="optimizer.lr"), more, sampler="tpe")


def test_a_run_is_the_same_in_a_study_and_alone(tmp_path: Path, cache: Path) -> None:
    """Reporting to a trial changes no number."""
    root, alone = tmp_path / "runs", tmp_path / "alone"
    (trial,) = answer_all(part(root, of_rates(0.001), trials=1), host(root, cache))
    taken = take(part(alone, of_rates(0.001), trials=1))
    assert taken is not None
    execute(taken.directory, host(alone, cache), StopRequest())
    assert_same(result(taken.directory), result(run_of(root, trial)))
