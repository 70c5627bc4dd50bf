"""The exhibits on gradient spikes, from made observations; and their arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import poisson

from analysis import spikes, table4
from analysis.catalogue import load_build
from analysis.exhibit import Exhibit, markdown, write
from analysis.figure8 import LEVEL_STEPS, enough_coordinates, steps_back
from analysis.table5 import ranges
from spam_lab.orchestrate.expand import Request, expand, load_sweep
from spam_lab.record.observations import read_observations
from tests import spike_observations as made_runs
from tests.spike_observations import LAYERS, STEPS, Made

EXHIBITS = ("table4", "figure2", "table5", "figure3", "figure4", "figure8")
Choose = Callable[[Request], Made]

BUMPS = (90, 170, 250, 330)


def as_claimed(request: Request) -> Made:
    """Norms spike most often for their size, the embedding most; spikes at bumps and before."""
    at = BUMPS if request.config.model.name != "pythia_70m" else BUMPS[:3]
    spikes = {"norm": (40, *at), "attention": [step - 3 for step in at], "ffn": at[:1]}
    rows = {"embed_ln": 2, "scaled_embed": 2}.get(request.config.stabilizer.name, 3)
    rows = 2 if request.config.data.name == "slimpajama" else rows
    return Made(spikes, at, rows, request.seed)


def build(
    name: str,
    root: Path,
    choose: Choose = as_claimed,
    overrides: tuple[str, ...] = (),
    states: dict[tuple[str, int], str] | None = None,
) -> Exhibit:
    requests = expand(load_sweep(name), ["scale=nano", *overrides])
    asked = {(str(r.labels["panel"]), r.seed): r.run_id for r in requests}
    lost = {asked[key]: state for key, state in (states or {}).items()}
    for request in requests:
        if request.run_id not in lost and not (root / request.run_id).exists():
            made_runs.write(root, request.run_id, choose(request))
    frame = made_runs.frame_of(requests, root, lost)
    return load_build(name)(frame, requests, requests[0].config.scale)


def verdicts(exhibit: Exhibit) -> dict[str, str]:
    return {answer.claim.key: str(answer.verdict) for answer in exhibit.answers}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directories as the paper claims, shared by the exhibits as real ones are."""
    return tmp_path_factory.mktemp("observed")


@pytest.fixture(scope="module")
def made(root: Path) -> dict[str, Exhibit]:
    """Every exhibit from them."""
    return {name: build(name, root) for name in EXHIBITS}


def test_the_exhibits_share_their_runs() -> None:
    ids = {name: {r.run_id for r in expand(load_sweep(name), [])} for name in EXHIBITS}
    assert len(ids["table4"]) == 3
    own = ids.pop("figure8")  # it follows more weights
    assert len(own) == 3 and not own & set.union(*ids.values())
    assert all(ids["table4"] <= of_sweep for of_sweep in ids.values())
    assert ids["figure3"] == ids["table5"]
    assert len(set.union(*ids.values())) == 3 * (3 + 1 + 4)


@pytest.mark.parametrize("scale", ["nano", "small", "paper"])
def test_slimpajama_is_asked_for_beside_c4(scale: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPAM_LAB_SLIMPAJAMA", "slim/*.zst")
    monkeypatch.setenv("SPAM_LAB_SLIMPAJAMA_VALIDATION", "slimv/*.zst")
    given = [f"scale={scale}", "data=c4", "data.files=c4/*", "data.validation_files=c4v/*"]
    requests = expand(load_sweep("figure3"), given)
    data = {r.labels["value"]: (r.config.data.name, r.config.data.files) for r in requests}
    assert data == {"adam": ("c4", "c4/*"), "slimpajama": ("slimpajama", "slim/*.zst")}
    assert {r.config.schedule.steps for r in requests} == {1000}
    assert {r.config.observe.window for r in requests} == {1000}


@pytest.mark.parametrize("name", EXHIBITS)
def test_every_exhibit_is_made(name: str, made: dict[str, Exhibit]) -> None:
    exhibit = made[name]
    exhibit.figure.canvas.draw()
    assert len(exhibit.table) > 0
    text = markdown(exhibit, [])
    assert "nan" not in text.lower().replace("nano", "")
    for request in expand(load_sweep(name), []):
        assert request.run_id in text


def test_the_same_runs_give_the_same_files(root: Path, tmp_path: Path) -> None:
    first = write(build("figure8", root), tmp_path / "first", [])
    again = write(build("figure8", root), tmp_path / "again", [])
    assert [path.suffix for path in first] == [".png", ".svg", ".csv", ".md"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_as_the_paper_claims(made: dict[str, Exhibit]) -> None:
    found = {key: v for exhibit in made.values() for key, v in verdicts(exhibit).items()}
    assert found == {
        "table4.most": "holds",
        "table4.often": "holds",
        "table4.possible": "fails",
        "figure2.bumps": "holds",
        "figure2.coincide": "holds",
        "table5.before": "undecided",  # SlimPajama was not asked for
        "table5.layers": "undecided",
        "figure3.layers": "fails",  # heads were given no spike
        "figure3.cleaner": "undecided",
        "figure4.reduce": "holds",
        "figure4.little": "holds",
        "figure4.remain": "holds",
        "figure8.longer": "holds",
    }


def test_with_the_second_corpus(tmp_path: Path) -> None:
    c4 = ("data=c4",)
    assert verdicts(build("figure3", tmp_path, overrides=c4))["figure3.cleaner"] == "holds"
    exhibit = build("table5", tmp_path, overrides=c4)
    assert verdicts(exhibit) == {"table5.before": "holds", "table5.layers": "holds"}


def test_spikes_after_the_bumps_are_no_cause(tmp_path: Path) -> None:
    def after(request: Request) -> Made:
        late = tuple(step + 6 for step in BUMPS)
        return Made(dict.fromkeys(LAYERS, late), BUMPS, seed=request.seed)

    answer = build("table5", tmp_path, after, ("data=c4",)).answers[0]
    assert str(answer.verdict) == "fails"
    sides = [part for part in answer.parts if "before them alone" in part.text]
    assert {str(part.verdict) for part in sides} == {"fails"}


def test_a_run_without_a_result_is_shown_and_decides_nothing(root: Path) -> None:
    states = {("llama_60m", 1): "diverged", ("llama_60m", 2): "missing"}
    for name in ("table4", "table5", "figure4", "figure8"):
        exhibit = build(name, root, states=states)
        found = verdicts(exhibit)
        assert found.pop("table4.possible", "fails") == "fails"
        # What is counted to the last run of a remedy or of Pythia may be known already.
        assert not {"holds"} & set(found.values()) or name == "figure4", name
        text = markdown(exhibit, [])
        assert "1: `" in text and "` diverged" in text and "` missing" in text


@pytest.mark.parametrize("name", ["table4", "figure3", "figure4"])
def test_a_run_whose_definition_was_left_out_is_counted_by_the_running_average(
    name: str, root: Path
) -> None:
    def sampled(request: Request) -> Made:
        return replace(as_claimed(request), sampled=True)

    exhibit = build(name, root, sampled, ("observe.definition=sampled",))
    text = markdown(exhibit, [])
    assert "`observe.definition=sampled`" in text and "| running average |" in text
    titles = [axes.get_title(loc="left") for axes in exhibit.figure.axes]
    assert any(", by running average" in title for title in titles)
    if name == "table4":
        assert set(exhibit.table["spikes_definition"]) == {"–"}
        assert "–" not in set(exhibit.table["spikes_running"])


def test_each_size_of_figure_2_is_counted_by_the_reading_it_has(tmp_path: Path) -> None:
    def mixed(request: Request) -> Made:
        return replace(as_claimed(request), sampled=request.config.model.name == "llama_1b")

    exhibit = build("figure2", tmp_path, mixed)
    middle = exhibit.figure.axes[3:6]
    notes = [[text.get_text() for text in axes.texts] for axes in middle]
    assert [of_panel[0] for of_panel in notes] == ["Definition P.1"] * 2 + ["by running average"]
    assert verdicts(exhibit)["figure2.coincide"] == "holds"


def test_no_count_is_not_a_count_of_none(tmp_path: Path) -> None:
    made_runs.write(tmp_path, "sampled", Made({"norm": BUMPS}, sampled=True))
    made_runs.write(tmp_path, "all", Made({"norm": BUMPS}))
    sampled, whole = (read_observations(tmp_path, name) for name in ("sampled", "all"))
    for reading in (None, spikes.RUNNING):
        assert spikes.spikes(sampled, reading=reading) == spikes.spikes(whole, reading="running")
    assert spikes.by_step(sampled).sum() == spikes.spikes(sampled)
    with pytest.raises(ValueError, match="definition"):
        spikes.spikes(sampled, reading=spikes.DEFINITION)


def test_no_result_at_all_makes_an_empty_exhibit(tmp_path: Path) -> None:
    for name in EXHIBITS:
        requests = expand(load_sweep(name), [])
        states = {request.run_id: "missing" for request in requests}
        frame = made_runs.frame_of(requests, tmp_path, states)
        exhibit = load_build(name)(frame, requests, requests[0].config.scale)
        assert set(verdicts(exhibit).values()) <= {"undecided", "fails"}
        assert exhibit.figure.axes


MAGNITUDES = arrays(
    np.float64, st.integers(1, 60), elements=st.integers(0, 12).map(lambda n: 2.0**n - 1)
)


@given(MAGNITUDES, st.integers(2, 8))
@settings(max_examples=200, deadline=None)
def test_no_weight_spikes_more_often_than_the_bounds(values: np.ndarray, threshold: int) -> None:
    steps = len(values)
    by_definition = values > threshold * values.mean()
    assert by_definition.sum() <= table4.definition_bound(steps, threshold)
    sums = np.cumsum(values)
    running = values * np.arange(1, steps + 1) > threshold * sums
    assert running.sum() <= table4.running_bound(steps, threshold)
    if running.any():
        before = sums[int(np.argmax(running)) - 1]
        growth = table4.least_growth(int(running.sum()), steps, threshold)
        assert before == 0 or sums[-1] / before >= growth * (1 - 1e-9)


def test_the_bounds_are_reached() -> None:
    spiking = np.zeros(1001)
    spiking[:20] = 1.0
    assert (spiking > 50 * spiking.mean()).sum() == 20 == table4.definition_bound(1001)
    growing = np.zeros(120)
    total = 0.0
    for step in range(51, 121):
        growing[step - 1] = 1.0 if total == 0 else 1.001 * total * 50 / (step - 50)
        total += growing[step - 1]
    score = growing * np.arange(1, 121) / np.maximum(np.cumsum(growing), 1e-300)
    assert (score > 50).sum() == 70 == table4.running_bound(120)


def test_moments_come_back_when_the_formula_says() -> None:
    """A spike of 30 in constant gradients: v decays by beta2 to twice its level."""
    beta2, place = 0.99, 200
    gradient = np.ones(1200)
    gradient[place] = 30.0
    v, path = 1.0, []
    for g in gradient:
        v = beta2 * v + (1 - beta2) * g * g
        path.append(v)
    moment = np.asarray(path)
    assert place >= LEVEL_STEPS
    excess = (1 - beta2) * (30.0**2 - 1)
    assert steps_back(moment, place) == (math.ceil(math.log(excess) / -math.log(beta2)), False)
    assert steps_back(moment[: place + 40], place) == (40, True)
    assert steps_back(np.ones(300), place) == (0, False)


@given(st.integers(1, 500), st.floats(0.1, 20), st.integers(1, 5))
def test_enough_weights_are_followed_for_every_seed_to_have_a_spike(
    each: int, mean: float, seeds: int
) -> None:
    """Beside scipy's Poisson distribution: enough, and one weight fewer is not."""

    def all_have_one(followed: int) -> float:
        return float(poisson.sf(0, mean * followed / each)) ** seeds

    needed = enough_coordinates(each, mean, seeds)
    assert all_have_one(needed) >= 0.95 - 1e-9
    assert all_have_one(needed - 1) < 0.95 + 1e-9


def test_figure_8_says_how_many_spikes_it_rests_on(made: dict[str, Exhibit]) -> None:
    exhibit = made["figure8"]
    tested = exhibit.table[exhibit.table["score"] > 50]
    text = markdown(exhibit, [])
    assert len(tested) > 0
    assert f"The claim rests on {len(tested)} spikes in 3 of 3 seeds, of 256 weights" in text


def test_neighbouring_steps_are_one_range() -> None:
    assert ranges([3, 5, 6, 7, 9, 10]) == "3 5–7 9–10"
    assert ranges([]) == "none"
    assert STEPS > 50
