"""The exhibit of studies: made-up trials whose best, importance and surface are known, what has no
value and must not be averaged, the paper's setting, and what is refused."""

from __future__ import annotations

import datetime
import json
import math
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from analysis import importance, paper_setting, surface, trials, tuning
from analysis.__main__ import main
from analysis.exhibit import markdown
from analysis.frames import FrameError
from analysis.surface import Surface
from analysis.tuning_figure import best_so_far, front
from spam_lab.config.compose import compose_command
from spam_lab.config.fields import ConfigError
from spam_lab.config.identity import cell_id, run_id
from spam_lab.config.schema import SCHEMA_VERSION
from spam_lab.orchestrate.expand import load_study
from spam_lab.orchestrate.search import LOSS, STATE_BYTES
from spam_lab.orchestrate.tune.space import trial_config
from spam_lab.record.metrics import MetricWriter
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory
from tests.conftest import ROOT

NANO = compose_command(["scale=nano"]).scale
THETA = {"optimizer.theta": FloatDistribution(10, 20000, log=True)}
DELTA = {"optimizer.delta_t": IntDistribution(5, 250, log=True)}
BEGIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@dataclass
class Made:
    """A made-up trial."""

    params: Mapping[str, Any]
    values: Sequence[float] | None = None
    state: TrialState = TrialState.COMPLETE
    attrs: dict[str, Any] = field(default_factory=dict)
    reports: dict[int, float] = field(default_factory=dict)


def make_study(
    root: Path,
    name: str,
    space: Mapping[str, BaseDistribution],
    made: Sequence[Made],
    objectives: Sequence[str] = (LOSS,),
    **more: Any,
) -> None:
    """A study on a journal file, as the lab leaves it; a trial a minute."""
    folder = root / "studies" / f"{name}.nano"
    folder.mkdir(parents=True)
    dimensions = {}
    for key, kind in space.items():
        entry: dict[str, Any] = {"key": key, "log": False, "choices": [], "when": {}}
        if isinstance(kind, CategoricalDistribution):
            entry |= {"choices": list(kind.choices), "low": None, "high": None}
        elif isinstance(kind, FloatDistribution | IntDistribution):
            entry |= {"low": float(kind.low), "high": float(kind.high), "log": kind.log}
        dimensions[key] = entry
    content = {
        "name": name,
        "description": "Made up?",
        "scale": "nano",
        "space": dimensions,
        "overrides": [],
        "seed": 100,
        "objectives": list(objectives),
        "winners_by": "",
        "storage": "journal",
        "optuna_name": f"{name}.nano",
    }
    (folder / "study.json").write_text(json.dumps(content | more))
    storage = JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    directions = ["minimize"] * len(objectives)
    study = optuna.create_study(study_name=f"{name}.nano", storage=storage, directions=directions)
    for number, one in enumerate(made):
        trial = create_trial(
            params=dict(one.params),
            distributions={key: space[key] for key in one.params},
            values=None if one.values is None else list(one.values),
            state=one.state,
            user_attrs={"run_id": f"{number:016x}", **one.attrs},
            intermediate_values=one.reports,
        )
        trial.datetime_start = BEGIN + datetime.timedelta(minutes=number)
        if one.state.is_finished():
            trial.datetime_complete = BEGIN + datetime.timedelta(minutes=number + 1)
        study.add_trial(trial)


def bowl(theta: float, delta_t: float) -> float:
    """A loss that knows delta_t alone matters much, and is least at theta = 1000, delta_t = 40."""
    return (
        5.4
        + 0.01 * (math.log10(theta) - 3) ** 2
        + 0.3 * (math.log10(delta_t) - math.log10(40)) ** 2
    )


def scattered(count: int) -> list[Made]:
    draws = random.Random(7)
    found = []
    for _ in range(count):
        theta, delta_t = 10 ** draws.uniform(1, 4.3), round(10 ** draws.uniform(0.7, 2.39))
        point = {"optimizer.theta": theta, "optimizer.delta_t": delta_t}
        found.append(Made(point, [bowl(theta, delta_t)]))
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_trials_are_read_as_they_came_out(root: Path) -> None:
    point = {"optimizer.theta": 100.0}
    made = [
        Made(point, [5.5]),
        Made(point, [math.inf], attrs={"diverged": True, "reason": "not finite"}),
        Made(point, [math.inf]),
        Made(point, None, TrialState.FAIL, {"diverged": True}),
        Made(point, None, TrialState.FAIL, {"reason": "no memory"}),
        Made(point, None, TrialState.PRUNED, reports={10: 6.0, 20: 5.9}),
        Made(point, [5.2]),
        Made({}, None, TrialState.RUNNING, {"run_id": ""}),
    ]
    make_study(root, "odd", THETA, made)
    record = trials.read(root, "odd", "nano")
    outcomes = [trial.outcome for trial in record.trials]
    assert outcomes == [
        "complete", "diverged", "diverged", "diverged", "failed", "pruned", "complete", "running",
    ]  # fmt: skip
    assert [trial.number for trial in record.ranked()] == [6, 0]
    assert record.trials[5].stopped_at == (20, 5.9)
    assert [trial.values for trial in record.trials[1:6]] == [()] * 5
    assert best_so_far(record, lambda trial: float(trial.number)) == [(0, 5.5), (6, 5.2)]


def test_time_at_work_leaves_out_the_night_and_counts_two_at_once_once() -> None:
    spans = [(0.0, 10.0), (5.0, 12.0), (100.0, 110.0), (101.0, 103.0)]
    assert trials.seconds_at_work(spans, 10) == 10
    assert trials.seconds_at_work(spans, 12) == 12
    assert trials.seconds_at_work(spans, 103) == 15
    assert trials.seconds_at_work(spans, 110) == 22


def test_axes_know_what_is_a_number() -> None:
    def axis(**content: Any) -> trials.Axis:
        return trials.Axis.of({"key": "k", "when": {}, "log": False, "choices": []} | content)

    rates = axis(choices=[1e-3, 1e-4, 3e-4])
    assert rates.is_number and rates.log and rates.choices == (1e-4, 3e-4, 1e-3)
    assert rates.is_end(1e-4) and rates.is_end(1e-3) and not rates.is_end(3e-4)
    assert not axis(choices=["adam", "spam"]).is_number
    assert not axis(choices=[True, False]).is_number
    assert not axis(choices=[1, None]).is_number
    theta = axis(low=10, high=1000, log=True)
    assert theta.place(100) == pytest.approx(0.5)
    assert theta.is_end(10.2) and not theta.is_end(100)


def test_the_surface_is_that_of_the_made_up_loss(root: Path) -> None:
    make_study(root, "theta_delta_t", THETA | DELTA, scattered(40))
    record = trials.read(root, "theta_delta_t", "nano")
    fitted = surface.fit(record)
    assert fitted is not None
    for theta, delta_t in ((1000, 40), (200, 20), (5000, 100), (3000, 12)):
        point = {"optimizer.theta": theta, "optimizer.delta_t": delta_t}
        there = fitted.of_a_run(point)
        assert there.mean == pytest.approx(bowl(theta, delta_t), abs=0.01)
        assert abs(there.mean - bowl(theta, delta_t)) <= there.half_width + 0.003
    best, other = ({"optimizer.theta": 1000.0, "optimizer.delta_t": value} for value in (40, 100))
    apart = fitted.difference(other, best)
    assert apart.mean == pytest.approx(bowl(1000, 100) - bowl(1000, 40), abs=0.01)
    assert apart.mean - apart.half_width > 0
    assert fitted.difference(best, best).half_width == pytest.approx(0, abs=1e-6)


def test_intervals_of_the_surface_hold_what_they_should() -> None:
    """Of noisy trials of a known curve, about 95 % of new runs lie inside of their intervals."""
    import numpy as np

    axis = trials.Axis("k", True, low=0, high=1)
    draws = np.random.Generator(np.random.PCG64(3))

    def curve(x: float) -> float:
        return math.sin(4 * x)

    x = draws.uniform(0, 1, 60)
    y = np.asarray([curve(v) for v in x]) + draws.normal(0, 0.1, 60)
    fitted = Surface([axis], [{"k": float(v)} for v in x], y)
    assert fitted.noise == pytest.approx(0.1, rel=0.3)
    inside = 0
    for value in draws.uniform(0, 1, 400):
        there = fitted.of_a_run({"k": float(value)})
        inside += abs(curve(value) + draws.normal(0, 0.1) - there.mean) <= there.half_width
    assert 0.91 <= inside / 400 <= 0.99


def test_the_key_that_matters_is_the_important_one(root: Path) -> None:
    make_study(root, "theta_delta_t", THETA | DELTA, scattered(60))
    found = importance.importances(trials.read(root, "theta_delta_t", "nano"))
    assert [one.key for one in found] == ["optimizer.delta_t", "optimizer.theta"]
    assert sum(one.share for one in found) == pytest.approx(1)
    assert found[0].share > 0.6
    for one in found:
        assert 0 <= one.low <= one.share <= one.high <= 1


def test_diverged_trials_enter_no_number(root: Path, tmp_path: Path) -> None:
    """Importances, surface and best are those of the study without them; they are counted."""
    made = scattered(30)
    point = {"optimizer.theta": 15.0, "optimizer.delta_t": 7}
    bad = [
        Made(point, [math.inf], attrs={"diverged": True}),
        Made(point, None, TrialState.PRUNED, reports={5: 1.0}),
    ]
    make_study(root, "theta_delta_t", THETA | DELTA, made)
    make_study(tmp_path / "more", "theta_delta_t", THETA | DELTA, made + bad * 5)
    plain = trials.read(root, "theta_delta_t", "nano")
    more = trials.read(tmp_path / "more", "theta_delta_t", "nano")
    assert importance.importances(plain) == importance.importances(more)
    point = {"optimizer.theta": 500.0, "optimizer.delta_t": 50}
    fits = [surface.fit(record) for record in (plain, more)]
    assert fits[0] is not None and fits[1] is not None
    assert fits[0].of_a_run(point) == fits[1].of_a_run(point)
    exhibit = tuning.build(tmp_path / "more", "theta_delta_t", NANO)
    assert "30 complete, 5 diverged, 5 pruned" in exhibit.summary
    own = exhibit.table[exhibit.table["outcome"] == "diverged"]
    assert own[LOSS].isna().all() and len(own) == 5
    assert exhibit.table["best_so_far"].min() == min(m.values[0] for m in made if m.values)
    page = markdown(exhibit, [])
    assert "pruned at step 5 with 1.0000" in page
    assert "inf" not in page.split()


def test_every_number_stands_beside_its_run(root: Path) -> None:
    make_study(root, "theta_delta_t", THETA | DELTA, scattered(12))
    exhibit = tuning.build(root, "theta_delta_t", NANO)
    assert list(exhibit.table["run_id"]) == [f"{i:016x}" for i in range(12)]
    page = markdown(exhibit, [])
    for number in range(12):
        assert f"`{number:016x}`" in page


def test_a_paper_setting_that_was_not_run_is_a_prediction(root: Path) -> None:
    make_study(root, "theta_delta_t", THETA | DELTA, scattered(40))
    page = markdown(tuning.build(root, "theta_delta_t", NANO), [])
    # The paper's 5000 and 500 steps, which are 50 at nano.
    assert "`optimizer.theta=5000`, `optimizer.delta_t=50`" in page
    assert "**A prediction, not a measurement**" in page and "Measured" not in page
    predicted = page.split("would have the loss ")[1].split(" ±")[0]
    assert float(predicted) == pytest.approx(bowl(5000, 50), abs=0.01)
    assert "seed 100" in page and "**not** covered by any interval" in page


def paper_run() -> tuple[str, Any]:
    definition = load_study("theta_delta_t")
    config = trial_config(definition, [], definition.paper)
    return run_id(config), config


def test_a_run_of_the_papers_setting_is_measured_wherever_it_is(root: Path) -> None:
    run, config = paper_run()
    make_study(root, "theta_delta_t", THETA | DELTA, scattered(20))
    record = trials.read(root, "theta_delta_t", "nano")
    assert not paper_setting.find(record, root).is_measured
    directory = RunDirectory(root, run)
    directory.create(cell_id(config), SCHEMA_VERSION, asdict(config))
    for state in (State.SUBMITTED, State.RUNNING):
        directory.move(state)
    writer = MetricWriter(directory.metrics_path)
    writer.add(100, {LOSS: 6.0})
    writer.add(167, {LOSS: 5.75})
    writer.flush()
    assert not paper_setting.find(record, root).is_measured  # it has not ended
    directory.move(State.DONE)
    found = paper_setting.find(record, root)
    assert (found.loss, found.source, found.run_id) == (5.75, "its run directory", run)
    page = markdown(tuning.build(root, "theta_delta_t", NANO), [])
    assert f"`{run}` (its run directory), has the loss 5.7500" in page
    assert "A prediction" not in page


@pytest.mark.parametrize(
    ("values", "words"),
    [([5.41], "has the loss 5.4100"), ([math.inf], "diverged")],
    ids=["measured", "diverged"],
)
def test_a_trial_of_the_papers_setting_is_taken(
    root: Path, values: list[float], words: str
) -> None:
    run, _ = paper_run()
    own = Made({"optimizer.theta": 5000.0, "optimizer.delta_t": 50}, values, attrs={"run_id": run})
    make_study(root, "theta_delta_t", THETA | DELTA, [*scattered(20), own])
    page = markdown(tuning.build(root, "theta_delta_t", NANO), [])
    section = page.split("## How far")[1].split("\n## ")[0]
    assert words in section and "trial 20" in section
    assert "A prediction" not in section


def test_two_objectives_have_a_front(root: Path) -> None:
    values = [(5.5, 100.0), (5.4, 200.0), (5.6, 150.0), (5.3, 900.0), (5.4, 300.0), (5.5, 100.0)]
    made = [Made({"optimizer.theta": 100.0 + i}, pair) for i, pair in enumerate(values)]
    lost = Made({"optimizer.theta": 20.0}, (math.inf, math.inf), attrs={"diverged": True})
    make_study(root, "two", THETA, [*made, lost], objectives=(LOSS, STATE_BYTES))
    record = trials.read(root, "two", "nano")
    assert [trial.number for trial in front(record)] == [3, 1, 0]
    exhibit = tuning.build(root, "two", NANO)
    assert exhibit.figure.axes[0].get_title(loc="left").startswith("Pareto")
    assert "## The Pareto front" in markdown(exhibit, [])


def test_the_best_of_each_value_and_the_end_of_the_range_are_told(root: Path) -> None:
    space = {
        "optimizer": CategoricalDistribution(["adam", "spam"]),
        "optimizer.lr": CategoricalDistribution([1e-4, 3e-4, 1e-3]),
    }
    losses = {"adam": (5.9, 5.5, 5.7), "spam": (5.8, 5.4, 5.2)}
    made = [
        Made({"optimizer": name, "optimizer.lr": rate}, [loss])
        for name, row in losses.items()
        for rate, loss in zip((1e-4, 3e-4, 1e-3), row, strict=True)
    ]
    make_study(root, "by_method", space, made, winners_by="optimizer")
    page = markdown(tuning.build(root, "by_method", NANO), [])
    assert "| adam | 5.5000 | 244.69 | `optimizer=adam`, `optimizer.lr=0.0003` | 1 |" in page
    assert "The best of spam lies at the end" in page
    assert "Not known: the paper's setting cannot be composed: study=by_method is not known" in page


def test_too_few_trials_are_said_to_be_too_few(root: Path) -> None:
    make_study(root, "theta_delta_t", THETA | DELTA, scattered(5))
    page = markdown(tuning.build(root, "theta_delta_t", NANO), [])
    assert "5 complete trials are too few for importances: they take 20." in page
    assert "5 complete trials are too few for a surface: it takes 8." in page
    assert "It was not run, and cannot be predicted." in page


@pytest.mark.parametrize(
    "space",
    [
        {"optimizer.selection": CategoricalDistribution(["random", "weight_magnitude"])},
        {"optimizer.theta": FloatDistribution(10, 100)},
        {
            "optimizer.theta": FloatDistribution(10, 100),
            "optimizer.selection": CategoricalDistribution(["random", "weight_magnitude"]),
        },
    ],
    ids=["categories", "one number", "number and category"],
)
def test_every_kind_of_space_is_drawn(
    root: Path, space: dict[str, BaseDistribution], capsys: pytest.CaptureFixture[str]
) -> None:
    draws = random.Random(1)
    made = []
    for _ in range(25):
        point = {
            key: draws.choice(kind.choices)
            if isinstance(kind, CategoricalDistribution)
            else draws.uniform(10, 100)
            for key, kind in space.items()
        }
        made.append(Made(point, [5 + draws.random()]))
    make_study(root, "kinds", space, made)
    reports = root.parent / "reports"
    assert main(["tuning", "--study", "kinds", "--runs", str(root), "--reports", str(reports)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_the_command_draws_all_studies_alike_each_time(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_study(root, "theta_delta_t", THETA | DELTA, scattered(24))
    make_study(root, "other", THETA, [Made({"optimizer.theta": 10.0 * i}, [6 - i]) for i in (1, 2)])
    written = []
    for name in ("one", "two"):
        reports = tmp_path / name
        assert main(["tuning", "--runs", str(root), "--reports", str(reports)]) == 0
        paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
        assert [path.name for path in paths] == [
            f"tuning_{study}.{suffix}"
            for study in ("other", "theta_delta_t")
            for suffix in ("png", "svg", "csv", "md")
        ]
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
    page = (tmp_path / "one/nano/tuning_other.md").read_text()
    assert "python -m analysis tuning scale=nano --study other" in page
    assert str(tmp_path) not in page


def test_looking_writes_nothing(root: Path) -> None:
    make_study(root, "theta_delta_t", THETA | DELTA, scattered(9))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    tuning.build(root, "theta_delta_t", NANO)
    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert {path.name: content for path, content in after.items()} == {
        path.name: content for path, content in before.items()
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tuning"], "no study was begun under"),
        (["tuning", "--study", "nothing"], "no study nothing.nano was begun under"),
        (["tuning", "--study", "nothing", "optimizer.lr=1"], "leave optimizer.lr=1 out"),
        (["figure9", "--study", "theta_delta_t"], "--study is for the exhibit tuning"),
    ],
)
def test_refusals_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--runs", str(tmp_path / "runs")]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_study_without_results_is_refused_unless_asked_for(root: Path) -> None:
    point = {"optimizer.theta": 15.0, "optimizer.delta_t": 7}
    made = [
        Made(point, [math.inf], attrs={"diverged": True}),
        Made(point, None, TrialState.RUNNING),
    ]
    make_study(root, "theta_delta_t", THETA | DELTA, made)
    with pytest.raises(FrameError, match=r"no trial .* has a result \(1 diverged, 1 running\)"):
        tuning.build(root, "theta_delta_t", NANO)
    exhibit = tuning.build(root, "theta_delta_t", NANO, allow_incomplete=True)
    assert exhibit.table[LOSS].isna().all()


def test_a_study_with_no_trial_at_all_is_refused_and_stays_so(root: Path) -> None:
    make_study(root, "theta_delta_t", THETA | DELTA, [])
    with pytest.raises(FrameError, match="has no trial yet"):
        tuning.build(root, "theta_delta_t", NANO)
    (root / "studies/theta_delta_t.nano/journal.log").unlink()
    with pytest.raises(FrameError, match="has no trial yet"):
        tuning.build(root, "theta_delta_t", NANO)
    assert not (root / "studies/theta_delta_t.nano/journal.log").exists()


def test_a_database_is_read_by_the_address_in_the_environment(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study(root, "theta_delta_t", THETA, [], storage="database", optuna_name="mine")
    monkeypatch.delenv("SPAM_LAB_STUDY_STORAGE", raising=False)
    with pytest.raises(ConfigError, match="needs its address in the environment variable"):
        tuning.build(root, "theta_delta_t", NANO)
    address = f"sqlite:///{tmp_path}/studies.db"
    monkeypatch.setenv("SPAM_LAB_STUDY_STORAGE", address)
    with pytest.raises(FrameError, match="has no trial yet"):
        tuning.build(root, "theta_delta_t", NANO)
    study = optuna.create_study(study_name="mine", storage=address)
    study.add_trial(create_trial(params={"optimizer.theta": 50.0}, distributions=THETA, value=5.0))
    assert "1 complete" in tuning.build(root, "theta_delta_t", NANO).summary


def test_the_exhibit_needs_no_torch(root: Path) -> None:
    make_study(root, "theta_delta_t", THETA | DELTA, scattered(22))
    code = (
        "import sys; from analysis.__main__ import main\n"
        f"assert main(['tuning', '--runs', {str(root)!r}, '--reports', {str(root)!r}]) == 0\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
