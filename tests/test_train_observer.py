"""The spike observatory on real runs: it counts what a slower way counts, it changes nothing of a
run, and a run that is killed leaves the observations of one that was not.

The oracle records every gradient of a run and works in float64 numpy on whole arrays. Float32 may
decide a score that lies on the threshold to its last bits otherwise: counts are compared with those
of thresholds a millionth lower and higher.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from spam_lab.config.compose import compose_run
from spam_lab.config.fields import ConfigError
from spam_lab.config.identity import run_id
from spam_lab.optim import mask
from spam_lab.record.observations import (
    ObservationError,
    Observations,
    read_observations,
    scores,
    total,
)
from spam_lab.record.store import RunDirectory
from spam_lab.train import checkpoint, loop
from spam_lab.train.distributed import World
from spam_lab.train.loop import Training
from spam_lab.train.replica import choose_replica
from spam_lab.train.spike_counts import SpikeCounts
from tests.conftest import tiny_run
from tests.processes import steps_logged
from tests.test_train_loop import Listed
from tests.test_train_resume import assert_same, finish, kill_when, prepare

STEPS, WINDOW = 12, 9
THRESHOLDS = (2.0, 3.5)
MARGIN = 1e-6
FILES = ("parameters", "counts", "coordinates", "trajectories")


def overrides(cache: Path, optimizer: str, *more: str, observed: bool = True) -> list[str]:
    """A run of 12 steps, the first 9 observed."""
    own = [o for o in tiny_run(cache, cache) if "spam" in optimizer or "optimizer" not in o]
    seen = ["observe=spikes", f"observe.window={WINDOW}", "observe.thresholds=[3.5,2]"]
    return [
        *own,
        f"optimizer={optimizer}",
        f"schedule.steps={STEPS}",
        "model.hidden_size=32",
        "model.intermediate_size=86",
        "data.batch_size=2",
        "observe.theta=50",
        "observe.coordinates=20",
        *(seen if observed else []),
        *more,
    ]


def training(config: list[str], folder: Path, **more: Any) -> Training:
    torch.set_num_threads(1)
    return Training(compose_run(config), folder, Listed(), **more)


def observed(folder: Path) -> Observations:
    """What a training with its checkpoints in `folder` observed."""
    return read_observations(folder.parent, folder.name)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[list[np.ndarray]]:
    """The gradients of every step and tensor, taken where the loop hands them on to be clipped."""
    kept: list[list[np.ndarray]] = []
    clip = loop.clip_gradients

    def record(parameters: list[nn.Parameter], value: float | None, norm: float | None) -> None:
        kept.append([p.grad.detach().double().numpy().copy().reshape(-1) for p in parameters])
        clip(parameters, value, norm)

    monkeypatch.setattr(loop, "clip_gradients", record)
    return kept


def by_tensor(table: pd.DataFrame, column: str) -> np.ndarray:
    """(steps, tensors) of counts that are ordered so."""
    return table[column].to_numpy().reshape(WINDOW, -1)


def reading(counts: pd.DataFrame, name: str, threshold: float) -> pd.DataFrame:
    return counts[(counts["reading"] == name) & (counts["threshold"] == threshold)]


def bracketed(found: np.ndarray, score: list[np.ndarray], threshold: float) -> None:
    """Counts (steps, tensors) lie where `score`, (steps, entries) a tensor, says."""
    low, high = (
        np.stack([(s > threshold * (1 + sign * MARGIN)).sum(axis=1) for s in score], axis=1)
        for sign in (-1, 1)
    )
    assert ((high <= found) & (found <= low)).all()
    assert found.sum() > 50, "otherwise this proves little"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["adam", "spam_sparse"])
def test_counts_and_paths_are_those_of_the_recorded_gradients(
    optimizer: str, precision: str, tmp_path: Path, cache: Path, recorded: list[list[np.ndarray]]
) -> None:
    config = overrides(cache, optimizer, f"precision={precision}", "optimizer.clip_norm=0.3")
    run = training(config, tmp_path / "run")
    names = [name for name, p in run.model.named_parameters() if p.requires_grad]
    run.run()
    seen = observed(tmp_path / "run")
    assert list(seen.parameters["name"]) == names
    gradients = [np.abs(np.stack(steps)) for steps in zip(*recorded[:WINDOW], strict=True)]
    so_far = np.arange(1, WINDOW + 1)[:, None]
    with np.errstate(invalid="ignore"):
        by_definition = [g / g.mean(axis=0) for g in gradients]
        running = [g / (np.cumsum(g, axis=0) / so_far) for g in gradients]
    for threshold in THRESHOLDS:
        for name, score in (("definition", by_definition), ("running", running)):
            rows = reading(seen.counts, name, threshold)
            bracketed(by_tensor(rows, "count"), score, threshold)
            assert (rows["examined"] == rows["entries"]).all()
    table = scores(seen.trajectories)
    places = [names.index(name) for name in seen.coordinates["name"]]
    where = list(zip(places, seen.coordinates["index"], strict=True))
    for column, score in (("definition", by_definition), ("running", running)):
        expected = np.stack([score[tensor][:, index] for tensor, index in where], axis=1)
        np.testing.assert_allclose(table[column], expected.reshape(-1), rtol=1e-12)
    np.testing.assert_array_equal(
        np.abs(seen.trajectories["gradient"]),
        np.stack([gradients[tensor][:, index] for tensor, index in where], axis=1).reshape(-1),
    )


def test_adams_moments_and_spams_criterion_from_the_gradients(
    tmp_path: Path, cache: Path, recorded: list[list[np.ndarray]]
) -> None:
    """m and v worked out again, in float64, from nothing but gradients."""
    config = compose_run(overrides(cache, "adam", "observe.theta=5"))
    beta1, beta2 = config.optimizer.beta1, config.optimizer.beta2  # type: ignore[attr-defined]
    training(overrides(cache, "adam", "observe.theta=5"), tmp_path / "run").run()
    seen = observed(tmp_path / "run")
    m = [np.zeros_like(g) for g in recorded[0]]
    v = [np.zeros_like(g) for g in recorded[0]]
    rows = reading(seen.counts, "spam", 5.0)
    counts, examined = by_tensor(rows, "count"), by_tensor(rows, "examined")
    tensors = list(seen.parameters["name"])
    paths = seen.trajectories.set_index(["step", "coordinate"])
    spikes = 0
    for step in range(1, WINDOW + 1):
        for number, g in enumerate(recorded[step - 1]):
            assert examined[step - 1, number] == (v[number] > 0).sum()
            low, high = (
                ((g**2 > 5 * v[number] * (1 + sign * 1e-5)) & (v[number] > 0)).sum()
                for sign in (-1, 1)
            )
            assert high <= counts[step - 1, number] <= low
            spikes += high
            m[number] = beta1 * m[number] + (1 - beta1) * g
            v[number] = beta2 * v[number] + (1 - beta2) * g**2
        for one in seen.coordinates.itertuples():
            tensor, row = tensors.index(str(one.name)), paths.loc[(step, one.coordinate)]
            assert row["m"] == pytest.approx(m[tensor][one.index], rel=1e-4, abs=1e-9)
            assert row["v"] == pytest.approx(v[tensor][one.index], rel=1e-4, abs=1e-15)
    assert spikes > 100


@pytest.mark.parametrize("optimizer", ["spam", "spam_sparse"])
def test_spam_clips_what_its_criterion_counts(optimizer: str, tmp_path: Path, cache: Path) -> None:
    """Two codes, one number: the observatory's and the optimizer's own telemetry."""
    more = ["optimizer.grace_steps=2", "optimizer.theta=50", "optimizer.delta_t=20"]
    run = training(overrides(cache, optimizer, *more), tmp_path / "run")
    run.run()
    told = run._journal.values  # type: ignore[attr-defined]
    rows = total(observed(tmp_path / "run").counts, ["step", "kind"])
    rows = rows[rows["reading"] == "spam"]
    compared = 0
    for row in rows.itertuples():
        if row.step > 3:
            assert told[row.step][f"spam/clipped/{row.kind}"] == row.count
            compared += row.count
    assert compared > 100


def test_moments_of_sparse_weights_are_found_through_the_mask(tmp_path: Path, cache: Path) -> None:
    """After the last step the state is at hand: the paths' last row must be what it says."""
    config = overrides(cache, "spam_sparse", f"observe.window={STEPS}")
    run = training(config, tmp_path / "run")
    run.run()
    seen = observed(tmp_path / "run")
    last = seen.trajectories[seen.trajectories["step"] == STEPS].merge(seen.coordinates)
    parameters = dict(run.model.named_parameters())
    unselected = 0
    for row in last.itertuples():
        state = run.optimizer.state[parameters[str(row.name)]]
        chosen = mask.from_state(state)
        slot: int | None = row.index
        if chosen is not None:
            positions = mask.positions(chosen, torch.device("cpu")).tolist()
            slot = {position: slot for slot, position in enumerate(positions)}.get(row.index)
            unselected += slot is None
        known = [
            float("nan") if slot is None else float(state[key].reshape(-1)[slot])
            for key in ("exp_avg", "exp_avg_sq")
        ]
        np.testing.assert_array_equal([row.m, row.v], known)
    assert 20 < unselected < len(last)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["spam", "spam_sparse", "adam"])
def test_observing_changes_nothing(
    optimizer: str, precision: str, tmp_path: Path, cache: Path
) -> None:
    contents = []
    for name in ("seen", "unseen"):
        config = overrides(cache, optimizer, f"precision={precision}", observed=name == "seen")
        training(config, tmp_path / name).run()
        newest = checkpoint.load_newest(tmp_path / name)
        assert newest is not None
        contents.append(newest[1])
    assert contents[0].pop("observer") == {"open": False}
    assert_same(contents[0], contents[1])
    assert not (tmp_path / "unseen" / "observations").exists()


def test_a_stopped_run_goes_on_observing(tmp_path: Path, cache: Path) -> None:
    """It stops after every second step, and its files are those of one go."""
    config = overrides(cache, "spam_sparse")
    training(config, tmp_path / "whole").run()
    steps = []
    while True:
        run = training(config, tmp_path / "cut")
        run._should_stop = lambda run=run: run.step % 2 == 0
        outcome = run.run()
        steps.append(outcome.step)
        if outcome.state == "done":
            break
        if outcome.step < WINDOW:
            with pytest.raises(ObservationError, match=f"step {outcome.step} of {WINDOW}"):
                observed(tmp_path / "cut")
            open_one = Observations(RunDirectory(tmp_path, "cut"), allow_open=True)
            assert set(open_one.counts["reading"]) == {"running", "spam"}
            assert open_one.counts["step"].max() == outcome.step
    assert len(steps) > 4
    require_same(observed(tmp_path / "cut"), observed(tmp_path / "whole"))


def require_same(one: Observations, other: Observations) -> None:
    """The same tables, and each step exactly once. The peak of memory may differ by pruning."""
    for name in FILES:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))
    keys = ["step", "name", "reading", "threshold"]
    assert not one.counts.duplicated(keys).any()
    assert not one.trajectories.duplicated(["step", "coordinate"]).any()
    assert {**one.about, "peak_bytes": 0} == {**other.about, "peak_bytes": 0}


def test_a_killed_worker_leaves_what_an_unbroken_one_does(tmp_path: Path, cache: Path) -> None:
    """Real processes, SIGKILL in the window; the command line's way to the run directory."""
    config = overrides(cache, "spam_sparse", "schedule.steps=40", "observe.window=30")
    training(config, tmp_path / "whole").run()
    cut, command = prepare(config, tmp_path / "cut")
    kill_when(command, lambda: steps_logged(cut.path) >= 12, tmp_path)
    assert steps_logged(cut.path) < 40
    finish(command)
    require_same(Observations(cut), observed(tmp_path / "whole"))
    losses = Observations(cut).losses()
    assert list(losses.index) == list(range(1, 31)) and losses.notna().all()


def test_micro_batches_are_observed_as_one(tmp_path: Path, cache: Path) -> None:
    frames = {}
    for size in (1, 2):
        config = overrides(cache, "adam", f"train.micro_batch_size={size}")
        training(config, tmp_path / str(size)).run()
        frames[size] = observed(tmp_path / str(size)).trajectories
    assert list(frames[1]["step"]) == list(frames[2]["step"])
    first = frames[1]["step"] == 1
    np.testing.assert_allclose(
        frames[1]["gradient"][first], frames[2]["gradient"][first], rtol=1e-3, atol=1e-6
    )


def test_a_run_that_diverges_is_observed_until_then(tmp_path: Path, cache: Path) -> None:
    config = overrides(cache, "adam", "optimizer.lr=1e30", "schedule.warmup_steps=0")
    run = training(config, tmp_path / "run")
    outcome = run.run()
    assert outcome.state == "diverged"
    seen = observed(tmp_path / "run")
    assert 0 < seen.about["steps"] < WINDOW and seen.about["window"] == WINDOW
    assert "not finite" in seen.about["reason"]
    assert seen.counts["step"].max() == seen.about["steps"] == seen.trajectories["step"].max()
    assert np.isfinite(seen.trajectories["gradient"]).all()
    assert "definition" in set(seen.counts["reading"])


def test_the_memory_it_says_is_the_memory_it_holds(tmp_path: Path, cache: Path) -> None:
    run = training(overrides(cache, "adam"), tmp_path / "run")
    observer, most = run._observer, 0
    weights = {p.untyped_storage().data_ptr() for p in run.model.parameters()}
    for _ in range(WINDOW - 1):
        run._update()
        tensors = {t.data_ptr(): t for t in found_tensors(vars(observer))}
        own = [t for p, t in tensors.items() if p not in weights and t.dtype != torch.int64]
        assert observer.bytes == sum(t.numel() * t.element_size() for t in own)
        most = max(most, observer.bytes)
    entries = sum(p.numel() for p in run.model.parameters())
    kept = observer._counts.state_dict(WINDOW)["candidates"]
    assert sum(len(steps) for _, steps, *_ in kept) <= entries * WINDOW / min(THRESHOLDS)
    run._update()
    assert observer.bytes == 0
    assert observed(tmp_path / "run").about["peak_bytes"] >= most


def found_tensors(value: Any) -> list[torch.Tensor]:
    """Every tensor in a structure of the project's own objects, but for the optimizer's."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for one in value.values() for t in found_tensors(one)]
    if isinstance(value, list | tuple):
        return [t for one in value for t in found_tensors(one)]
    if type(value).__module__.startswith("spam_lab.train"):
        return found_tensors(vars(value))
    return []


@settings(max_examples=60, deadline=None)
@given(
    gradients=st.lists(
        st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0, 64.0, -512.0]), min_size=3, max_size=3),
        min_size=1,
        max_size=24,
    ),
    thresholds=st.lists(st.sampled_from([1.5, 2.0, 4.0, 8.0]), min_size=1, unique=True),
    longer=st.integers(0, 9),
    cut=st.integers(0, 23),
)
def test_the_definition_in_one_pass_is_that_in_two(
    gradients: list[list[float]], thresholds: list[float], longer: int, cut: int
) -> None:
    """Whole numbers, so that ties are ties: also for a window that ends early, saved on the way."""
    array, parameter = np.array(gradients), nn.Parameter(torch.zeros(3))
    steps, optimizer = len(array), torch.optim.SGD([parameter])

    def make() -> SpikeCounts:
        return SpikeCounts([parameter], steps + longer, thresholds, 1.0, definition=True)

    counter = make()
    for step, row in enumerate(gradients, start=1):
        if step == cut:
            saved, counter = counter.state_dict(step - 1), make()
            counter.load_state_dict(saved)
        parameter.grad = torch.tensor(row)
        counter.add(step, optimizer)
    found = counter.definition(steps)
    assert found is not None
    magnitude = np.abs(array)
    for column, threshold in enumerate(thresholds):
        above = magnitude * steps > threshold * magnitude.sum(axis=0)
        np.testing.assert_array_equal(found[:, 0, column], above.sum(axis=1))
        ages = np.arange(1, steps + 1)[:, None]
        running = magnitude * ages > threshold * magnitude.cumsum(axis=0)
        np.testing.assert_array_equal(counter.counts[:steps, 0, column], running.sum(axis=1))


def test_sampled_weights_cover_every_kind_and_layer(tmp_path: Path, cache: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        training(overrides(cache, "adam", f"seed={seed}"), tmp_path / name).run()
    one, other = (observed(tmp_path / name) for name in "ab")
    pd.testing.assert_frame_equal(one.coordinates, other.coordinates)
    groups = one.parameters.groupby(["kind", "layer"], observed=True, dropna=False)["entries"].sum()
    drawn = one.coordinates.groupby(["kind", "layer"], observed=True, dropna=False)
    pd.testing.assert_series_equal(
        drawn["coordinate"].count(), groups.clip(upper=20), check_names=False
    )
    assert (drawn["group_entries"].nunique() == 1).all()
    assert not one.coordinates.duplicated(["name", "index"]).any()
    assert len(groups) == 2 * 3 + 3


def test_definition_sampled_leaves_it_to_the_sample(tmp_path: Path, cache: Path) -> None:
    training(overrides(cache, "adam", "observe.definition=sampled"), tmp_path / "a").run()
    training(overrides(cache, "adam"), tmp_path / "b").run()
    lean, full = observed(tmp_path / "a"), observed(tmp_path / "b")
    assert set(lean.counts["reading"]) == {"running", "spam"}
    kept = full.counts[full.counts["reading"] != "definition"].reset_index(drop=True)
    pd.testing.assert_frame_equal(lean.counts, kept)
    assert lean.about["peak_bytes"] < full.about["peak_bytes"] / 3


def test_shards_are_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.sharding=fsdp is not allowed"):
        compose_run(overrides(cache, "adam", "train.sharding=fsdp"))
    config = compose_run(overrides(cache, "adam"))
    config.train = dataclasses.replace(config.train, sharding="fsdp")
    with pytest.raises(ConfigError, match=r"observe.spikes=true: it needs whole tensors"):
        choose_replica(config, World(0, 2), torch.device("cpu"))


@pytest.mark.parametrize("thresholds", ["[]", "[0]", "[50,-1]"])
def test_thresholds_that_make_no_sense_are_refused(thresholds: str) -> None:
    with pytest.raises(ConfigError, match=r"observe.thresholds=.* is not allowed: one number"):
        compose_run(["observe=spikes", f"observe.thresholds={thresholds}"])


def test_a_run_without_observations_is_named(tmp_path: Path, cache: Path) -> None:
    directory, _ = prepare(overrides(cache, "adam", observed=False), tmp_path)
    with pytest.raises(ObservationError, match=f"{directory.run_id} has no .*observe=spikes"):
        read_observations(tmp_path, directory.run_id)


def test_an_observed_run_is_another_run() -> None:
    assert run_id(compose_run(["observe=spikes"])) != run_id(compose_run([]))
