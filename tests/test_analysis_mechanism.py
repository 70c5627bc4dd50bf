"""The mechanism study on made results whose mechanism is known: effects, words, gaps; its cells."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from analysis import mechanism
from analysis.exhibit import Exhibit, markdown
from analysis.frames import cells, results
from analysis.mechanism_answer import HALF_SPACING
from spam_lab.optim.spam import SPAM
from spam_lab.orchestrate.expand import Request, expand, load_sweep
from tests.analysis_store import Outcome, Outcomes, recorded_in_memory

Show = Callable[[Outcomes], Exhibit]


@pytest.fixture(scope="module")
def requests() -> Sequence[Request]:
    return expand(load_sweep("mechanism"), [])


@pytest.fixture
def show(requests: Any, monkeypatch: pytest.MonkeyPatch) -> Show:
    def build(outcomes: Outcomes) -> Exhibit:
        found = recorded_in_memory("mechanism", requests, outcomes)
        monkeypatch.setattr("analysis.frames._records", lambda *_: found)
        frame = results(requests, "nano", "", "mechanism")
        return mechanism.build(frame, requests, requests[0].config.scale)

    return build


def loss(request: Any, gain: Callable[[Any], float]) -> float:
    """The same for all cells of a seed, minus the gain of the run's config, and a little noise."""
    noise = random.Random(f"{dict(request.labels)} {request.seed}").gauss(0, 1e-3)
    value: float = 5.5 + 0.05 * request.seed - gain(request.config.optimizer) + noise
    return value


def resets(optimizer: Any) -> bool:
    return getattr(optimizer, "delta_t", None) is not None


def verdicts(exhibit: Exhibit) -> dict[str, str]:
    return {a.claim.key.removeprefix("mechanism."): str(a.verdict) for a in exhibit.answers}


def lines_of(exhibit: Exhibit) -> list[str]:
    """The bullet points of the answer."""
    section = next(s for s in exhibit.sections if s.heading == "The answer")
    return section.body.split("\n")


def told(line: str, words: str) -> float:
    """The number that follows these words."""
    found = re.search(re.escape(words) + r",? ([-+][0-9.]+)", line)
    assert found is not None, f"{words!r} is not in {line!r}"
    return float(found[1])


def test_a_lab_where_resets_only_repair_bfloat16(show: Show) -> None:
    def gain(optimizer: Any) -> float:
        return 0.1 if resets(optimizer) or optimizer.state_dtype == "float32" else 0.0

    exhibit = show(lambda request: Outcome(loss(request, gain)))
    found = verdicts(exhibit)
    assert (found["reset"], found["beats_adam"]) == ("holds", "undecided")
    assert (found["reset_fp32"], found["steps"]) == ("undecided", "holds")
    gap, mapped, printed, both, steps, number_format, *_ = lines_of(exhibit)
    assert told(gap, "both in pure bfloat16, is") == pytest.approx(-0.1, abs=3e-3)
    for line in (mapped, printed):
        assert told(line, "reset lowers the loss") == pytest.approx(-0.05, abs=3e-3)
        assert told(line, "float32 moments lowers the loss") == pytest.approx(-0.05, abs=3e-3)
        assert told(line, "× reset raises the loss") == pytest.approx(0.05, abs=3e-3)
        assert "8 of 11 effects are undecided" in line
    for kind in ("running", "restarted"):
        assert told(both, f"reset, {kind} correction:") == pytest.approx(-0.05, abs=3e-3)
    assert told(number_format, "float32 moments minus Adam is") == pytest.approx(-0.1, abs=3e-3)
    share = int(steps.split("make ")[1].split("%")[0])
    assert abs(share) <= 3


def test_a_lab_where_only_the_step_size_counts(show: Show) -> None:
    def gain(optimizer: Any) -> float:
        running = resets(optimizer) and optimizer.bias_correction == "running"
        return 0.1 if running or optimizer.name == "adam_sawtooth" else 0.0

    exhibit = show(lambda request: Outcome(loss(request, gain)))
    assert verdicts(exhibit)["reset"] == "undecided"
    assert verdicts(exhibit)["steps"] == "undecided"
    effects = {
        effect.name: effect.comparison.difference
        for effect in mechanism.factorial_effects(
            "mapped", cells(_frame(exhibit), mechanism.cell_name)
        )
    }
    running = effects["running correction"]
    assert running is not None and running.mean == pytest.approx(-0.1, abs=2e-3)
    share = int(lines_of(exhibit)[4].split("make ")[1].split("%")[0])
    assert 97 <= share <= 103


def _frame(exhibit: Exhibit) -> Any:
    """The runs of an exhibit again, from what its table says of each cell."""
    import pandas as pd

    rows = [
        {
            **{"panel": row.panel, "value": row.value, "cell_id": row.cell_id, "state": "done"},
            **{"seed": int(seed), "values": {"validation/loss": float(value)}},
        }
        for row in exhibit.table.itertuples()
        for seed, _, value in (part.partition(":") for part in str(row.losses).split())
    ]
    return pd.DataFrame(rows, dtype=object)


def test_noise_gives_no_answer_and_gaps_no_numbers(show: Show) -> None:
    exhibit = show(lambda request: Outcome(loss(request, lambda _: 0.0)))
    assert set(verdicts(exhibit).values()) == {"undecided"}
    assert lines_of(exhibit)[1].count("no effect is decided after Holm's correction") == 1

    def half(request: Any) -> Outcome | None:
        if request.labels["panel"] in ("x0.5", "x2") or "restarted" in str(request.labels["value"]):
            return None
        if request.labels["value"] == "adam":
            return Outcome(math.nan, "diverged", diverged=True)
        return Outcome(loss(request, lambda _: 0.0))

    exhibit = show(half)
    text = markdown(exhibit, [])
    assert "SPAM minus Adam, both in pure bfloat16, is not known (all 3 runs of Adam" in text
    assert verdicts(exhibit)["reset"] == "undecided"
    assert "3 of 3 diverged" in text and "missing" in text
    drawn = [text.get_text() for axes in exhibit.figure.axes for text in axes.texts]
    assert "diverged" in drawn and "no test" in drawn

    nothing = show(lambda request: None)
    assert "Its doubt cannot be told: no effect could be tested." in markdown(nothing, [])


def test_every_effect_stands_in_the_figure_and_the_page(show: Show) -> None:
    exhibit = show(lambda request: Outcome(loss(request, lambda _: 0.0)))
    forest = exhibit.figure.axes[0]
    names = [tick.get_text() for tick in forest.get_yticklabels()]
    assert len(names) == len(set(names)) == 11
    text = markdown(exhibit, [])
    effects = [s for s in exhibit.sections if s.heading.startswith("Effects, ")]
    assert [section.body.count("\n") for section in effects] == [12, 12]
    for run_id in " ".join(exhibit.table["run_ids"]).split():
        assert run_id in text
    assert "at β2 = 0.99 it can, at β2 = 0.999 it cannot fall" in text


def test_the_two_factorials_are_the_same_runs_at_the_papers_scale(requests: Any) -> None:
    def ids(found: Any) -> dict[str, dict[str, str]]:
        panels: dict[str, dict[str, str]] = {}
        for request in found:
            labels = request.labels
            panels.setdefault(labels["panel"], {})[labels["value"]] = request.cell_id
        return panels

    here = ids(requests)
    paper = ids(expand(load_sweep("mechanism"), ["scale=paper", "data=c4"]))
    assert paper["mapped"] == paper["printed"]
    assert not set(here["mapped"].values()) & set(here["printed"].values())
    assert len(set(here["mapped"].values())) == 12
    assert here["controls"]["spam"] == here["mapped"]["bf16/running/clip"]
    by_label = {(r.labels["panel"], r.labels["value"]): r.config.optimizer for r in requests}
    for panel, multiple in mechanism.RATES.items():
        for name in ("adam", "adam_fp32_states", "adam_sawtooth", "spam"):
            expected = multiple * by_label["controls", name].lr
            assert by_label[panel, name].lr == pytest.approx(expected)


@pytest.mark.parametrize("arithmetic", ["fused", "stepwise"])
def test_what_rounding_does_to_a_bfloat16_second_moment(arithmetic: str) -> None:
    """Below the stated bound on 1 - beta2 it never falls, and stops to grow in 2^8 to 2^9 steps."""

    def moment(beta2: float, grads: Sequence[float]) -> list[float]:
        weight = torch.zeros(1, dtype=torch.bfloat16)
        options: dict[str, Any] = {"arithmetic": arithmetic, "spike_rule": "none"}
        optimizer = SPAM([weight], 1e-3, (0.9, beta2), delta_t=None, **options)
        found = []
        for grad in grads:
            weight.grad = torch.full_like(weight, grad)
            optimizer.step()
            found.append(float(optimizer.state[weight]["exp_avg_sq"]))
        return found

    assert 1 - 0.999 < HALF_SPACING < 1 - 0.99
    grads = [1.0] * 700 + [0.0] * 50
    stuck, moving = moment(0.999, grads), moment(0.99, grads)
    assert stuck[-1] == stuck[699] and moving[-1] < moving[699]
    growth = [step for step in range(1, 700) if stuck[step] > stuck[step - 1]]
    assert 2**8 <= growth[-1] + 1 <= 2**9  # the first step is number 0
