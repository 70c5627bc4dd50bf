"""The exhibits themselves: numbers, marks of what is not whole, verdicts, files and their bytes."""

from __future__ import annotations

import importlib
import io
import math
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import document, figure9, paper
from analysis.catalogue import ExhibitError, exhibit_names, load_build
from analysis.exhibit import Exhibit, markdown, write
from analysis.frames import results
from spam_lab.config.schema import ModelConfig
from spam_lab.orchestrate.expand import expand, load_sweep
from tests.analysis_store import (
    NANO,
    FakeRequest,
    Outcome,
    Outcomes,
    make_store,
    recorded_in_memory,
    requests_of,
)

Make = Callable[..., Exhibit]

FIGURE9_EFFECT: dict[tuple[object, object], float] = {
    ("selection", "weight_magnitude"): 0.05,
    ("selection", "gradient_magnitude"): 0.08,
    ("delta_t", 50): 0.09,
    ("delta_t", 2500): 0.03,
    ("theta", 20000): 0.03,
    ("theta", 1000): -0.01,
    ("theta", 10): 0.9,
    ("theta", None): 0.05,
    ("warmup_steps", 0): 0.3,
    ("warmup_steps", 50): 0.06,
    ("adam", None): 0.1,
}


def as_claimed(request: FakeRequest) -> Outcome:
    """Losses as the paper claims; seeds shift all cells alike but for a small part of their own."""
    labels = request.labels
    effect = FIGURE9_EFFECT.get((labels["panel"], labels["value"]), 0.0)
    if labels["panel"] in paper.TABLE10:
        effect = {"adam": 0.1, 500: 0.02, 10000: 0.03}.get(labels["value"], 0.0)
    own = (int(request.run_id[:4], 16) % 7 - 3) * 2e-4
    return Outcome(5.3 + effect + 0.02 * request.seed + own)


@pytest.fixture(scope="module")
def make() -> Make:
    """Build an exhibit from runs with the given outcomes."""

    @cache
    def build(
        name: str, outcomes: Outcomes = as_claimed, seeds: tuple[int, ...] | None = None
    ) -> Exhibit:
        requests: Any = requests_of(importlib.import_module(f"sweeps.{name}").sweep(), seeds)
        found = recorded_in_memory(name, requests, outcomes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("analysis.frames._records", lambda *_: found)
            frame = results(requests, "nano", "", name)
        return load_build(name)(frame, requests, NANO)

    return build


def row_of(exhibit: Exhibit, panel: str, value: str) -> pd.Series:
    table = exhibit.table
    return table[(table["panel"] == panel) & (table["value"] == value)].iloc[0]


def verdicts(exhibit: Exhibit) -> dict[str, str]:
    return {answer.claim.key: str(answer.verdict) for answer in exhibit.answers}


def test_exhibits_are_found_by_name() -> None:
    assert {"figure9", "table10"} <= set(exhibit_names())
    assert "stats" not in exhibit_names()
    with pytest.raises(ExhibitError, match=r"figure99 is not known: one of .*figure9"):
        load_build("figure99")


def test_figure9_as_the_paper_claims(make: Make) -> None:
    exhibit = make("figure9")
    assert set(verdicts(exhibit).values()) == {"holds"}
    assert len(exhibit.answers) == 4
    row = row_of(exhibit, "delta_t", "500")
    assert row["as_run"] == "50"
    assert (row["runs"], row["n"], row["diverged"], row["incomplete"]) == (3, 3, 0, 0)
    losses = [float(part.split(":")[1]) for part in row["losses"].split()]
    perplexities = [math.exp(loss) for loss in losses]
    assert row["perplexity_mean"] == pytest.approx(sum(perplexities) / 3)
    spread = math.sqrt(sum((p - sum(perplexities) / 3) ** 2 for p in perplexities) / 2)
    half = 4.302653 * spread / math.sqrt(3)
    assert row["perplexity_half_width_95"] == pytest.approx(half, rel=1e-5)
    shared = {
        row_of(exhibit, p, v)["run_ids"]
        for p, v in [("delta_t", "500"), ("theta", "5000"), ("warmup_steps", "150")]
    }
    assert len(shared) == 1


def test_figure9_page_says_what_was_run_and_what_follows(make: Make) -> None:
    text = markdown(make("figure9"), ["python launch.py sweep=figure9 scale=nano"])
    for needed in (
        "Scale `nano`, seeds 0, 1, 2, data `embedded`, precision `fp32`. 57 runs (57 done)",
        "which spares 6",
        "50 → 5, 100 → 10, 250 → 25, 500 → 50, 1000 → 100, 2500 → 250",
        "no values published",
        "width ÷ 8, run_length ÷ 50, interval ÷ 10, lr × 8",
        "At ΔT = 500 a run has 4 resets here, 20 in the paper",
        "two-sided 95 %, Holm over 3 comparisons",
        "python launch.py sweep=figure9 scale=nano",
    ):
        assert needed in text
    exhibit = make("figure9")
    for run_ids in exhibit.table["run_ids"]:
        for run_id in run_ids.split():
            assert f"`{run_id}`" in text


def test_figure9_axis_order_puts_no_clipping_at_the_upper_end(make: Make) -> None:
    exhibit = make("figure9")
    axes = exhibit.figure.axes
    labels = [tick.get_text() for tick in axes[2].get_xticklabels()]
    assert labels == ["10", "100", "1000", "5000", "20000", "None"]
    assert next(tick.get_text() for tick in axes[1].get_xticklabels()) == "50\n5"
    texts = [text.get_text() for text in axes[2].texts]
    assert any("1000 beats 20000, none and 10”: holds (3 of 3)" in text for text in texts)
    # θ = 10 is e^0.9 times the rest: an arrow with its number.
    assert any(text.strip().isdigit() and int(text) > 490 for text in texts)
    low, high = axes[2].get_ylim()
    assert high < 300
    assert low > 150


def test_figure9_refutation_and_doubt(make: Make) -> None:
    def opposite(request: FakeRequest) -> Outcome:
        outcome = as_claimed(request)
        assert outcome.loss is not None
        if request.labels["panel"] == "selection":
            return Outcome(10.6 - outcome.loss + 0.04 * request.seed)
        return Outcome(5.3 + 0.02 * request.seed + (int(request.run_id[:4], 16) % 99) * 1e-3)

    found = verdicts(make("figure9", opposite))
    assert found["figure9.selection"] == "fails"
    assert found["figure9.warmup_steps"] == "undecided"


def test_divergence_is_shown_and_decides_only_when_whole(make: Make) -> None:
    def some(request: FakeRequest) -> Outcome:
        value = request.labels["value"]
        if value == 10 or (value == 0 and request.seed == 1):
            return Outcome(math.nan, "diverged", diverged=True)
        return as_claimed(request)

    exhibit = make("figure9", some)
    found = verdicts(exhibit)
    assert found["figure9.theta"] == "holds"
    assert found["figure9.warmup_steps"] == "undecided"
    partly = row_of(exhibit, "warmup_steps", "0")
    assert math.isnan(partly["perplexity_mean"])
    assert (partly["n"], partly["diverged"]) == (2, 1)
    text = markdown(exhibit, [])
    assert "1 of 3 runs of N = 0 diverged" in text
    assert "all 3 runs of θ = 10 diverged" in text
    drawn = [text.get_text() for axes in exhibit.figure.axes for text in axes.texts]
    assert "3 of 3\ndiverged" in drawn
    assert "1 of 3\ndiverged" in drawn


def test_incomplete_cells_are_marked_with_their_n(make: Make) -> None:
    def gaps(request: FakeRequest) -> Outcome | None:
        panel, value = request.labels["panel"], request.labels["value"]
        if panel == "selection":
            return None
        if value == 2500 and request.seed == 2:
            return Outcome(4.0, "running")
        return as_claimed(request)

    exhibit = make("figure9", gaps)
    assert verdicts(exhibit)["figure9.delta_t"] == "undecided"
    drawn = [text.get_text() for axes in exhibit.figure.axes for text in axes.texts]
    assert "n=2 of 3" in drawn
    assert "no results yet" in drawn
    text = markdown(exhibit, [])
    assert "incomplete: 1 of 3 running" in text
    assert "incomplete: 3 of 3 missing" in text
    assert row_of(exhibit, "delta_t", "2500")["n"] == 2


def test_one_seed_has_no_interval_and_decides_nothing(make: Make) -> None:
    exhibit = make("figure9", seeds=(0,))
    assert set(verdicts(exhibit).values()) == {"undecided"}
    assert exhibit.table["perplexity_half_width_95"].isna().all()
    text = markdown(exhibit, [])
    assert "one seed: no interval" in text
    assert "No comparison could be tested" in text


def test_table10_stands_beside_the_paper(make: Make) -> None:
    exhibit = make("table10")
    assert verdicts(exhibit) == {
        f"table10.{name}.{claim}": "holds"
        for name in ("llama_60m", "pythia_70m", "opt_125m")
        for claim in ("beats_adam", "best_theta")
    }
    text = markdown(exhibit, [])
    for printed in (("30.77", "34.4", "28.7"), ("34.09", "38.34", "32.20")):
        assert re.search(r"\| 3 \| {} \|.*\| 3 \| {} \|.*\| 3 \| {} \|".format(*printed), text)
    printed_values = [30.77, 30.59, 30.57, 30.46, 30.82, 34.09]
    assert list(exhibit.table["paper_perplexity"])[:6] == printed_values
    assert len(exhibit.figure.axes) == 6
    ours, published = exhibit.figure.axes[:2]
    assert ours.get_ylim()[0] > 100 > published.get_ylim()[1]


def test_table10_fails_where_adam_wins_once(make: Make) -> None:
    def adam_wins(request: FakeRequest) -> Outcome:
        if request.labels["value"] == 10000:
            return Outcome(6.0 + 0.02 * request.seed)
        return as_claimed(request)

    assert verdicts(make("table10", adam_wins))["table10.llama_60m.beats_adam"] == "fails"


def test_files_are_complete_and_csv_round_trips(make: Make, tmp_path: Path) -> None:
    exhibit = make("table10")
    paths = write(exhibit, tmp_path / "nano", ["made"])
    assert [path.name for path in paths] == [f"table10.{s}" for s in ("png", "svg", "csv", "md")]
    assert sorted(path.name for path in (tmp_path / "nano").iterdir()) == sorted(
        path.name for path in paths
    )
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert b"Software" not in paths[0].read_bytes()
    assert b"<dc:date>" not in paths[1].read_bytes()
    table = pd.read_csv(io.BytesIO(paths[2].read_bytes()))
    assert table["perplexity_mean"].to_list() == pytest.approx(
        exhibit.table["perplexity_mean"].to_list(), abs=1e-6
    )


WRITE = """
import sys
from pathlib import Path
from analysis.catalogue import load_build
from analysis.exhibit import write
from analysis.frames import results
from sweeps.figure9 import sweep
from tests.analysis_store import NANO, requests_of
requests = requests_of(sweep())
frame = results(requests, "nano", sys.argv[1], "figure9")
write(load_build("figure9")(frame, requests, NANO), Path(sys.argv[2]), ["made"])
"""


def test_another_process_writes_the_same_bytes(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shared = tmp_path_factory.getbasetemp()
    requests: Any = requests_of(importlib.import_module("sweeps.figure9").sweep())
    uri = make_store(shared, tmp_path / "mlflow.db", "figure9", requests, as_claimed)
    frame = results(requests, "nano", uri, "figure9")
    here, there = tmp_path / "here", tmp_path / "there"
    write(load_build("figure9")(frame, requests, NANO), here, ["made"])
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", WRITE, uri, str(there)], cwd=root, timeout=120)
    assert done.returncode == 0
    first, second = (
        {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        for folder in (here, there)
    )
    assert set(first) == {f"figure9.{suffix}" for suffix in ("png", "svg", "csv", "md")}
    assert first == second


def test_parameters_are_counted_as_the_paper_counts_them() -> None:
    model = ModelConfig("llama_60m", "llama", 512, 1376, 8, 8, 32000, paper_steps=10_000)
    # Table 4: embedding, attention, feed-forward, norms, head.
    counted = 16384000 + 8388608 + 16908288 + 8704 + 16384000
    assert document.parameters(model, 256) == counted
    model.architecture = {"tie_word_embeddings": True}
    assert document.parameters(model, 256) == counted - 16384000
    pythia = ModelConfig("pythia_70m", "gpt_neox", 512, 2048, 8, 6, 50304)
    assert document.parameters(pythia, 256) == 70_426_624
    opt = ModelConfig("opt_125m", "opt", 768, 3072, 12, 12, 50272)
    assert document.parameters(opt, 2048) == 125_239_296
    assert document.parameters(ModelConfig("mine", "gpt2", 64, 172, 4, 2, 1000), 256) is None


@pytest.mark.parametrize("name", ["figure9", "table10"])
def test_real_configs_are_understood(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: Any = expand(load_sweep(name), ["scale=nano"])
    found = recorded_in_memory(name, requests, lambda request: Outcome(5.0))
    monkeypatch.setattr("analysis.frames._records", lambda *_: found)
    frame = results(requests, "nano", "", name)
    exhibit = load_build(name)(frame, requests, requests[0].config.scale)
    as_run = dict(
        zip(
            zip(exhibit.table["panel"], exhibit.table["value"], strict=True),
            exhibit.table["as_run"],
            strict=True,
        )
    )
    if name == "figure9":
        factor = requests[0].config.scale.interval
        assert as_run["delta_t", "500"] == f"{500 / factor:g}"
        assert as_run["warmup_steps", "0"] == "0"
        assert as_run["theta", "None"] == "no clipping"
        assert as_run["selection", "random"] == "random"
    else:
        assert as_run["llama_60m", "500"] == "500"
        assert as_run["llama_60m", "adam"] == "adam"
    assert set(verdicts(exhibit).values()) == {"undecided"}


def test_cell_names() -> None:
    assert figure9.cell_name("theta", None) == "no clipping"
    assert figure9.cell_name("adam", None) == "Adam"
    assert figure9.cell_name("warmup_steps", 0) == "N = 0"
    assert figure9.cell_name("selection", "weight_magnitude") == "weight magnitude selection"
