"""When a plan is worth compiling for."""

from __future__ import annotations

from pathlib import Path

import pytest

from spam_lab.config.compose import compose_run
from spam_lab.models.build import parameter_count
from spam_lab.orchestrate.compiling import resolved, rough_weights
from spam_lab.orchestrate.expand import request_of
from spam_lab.orchestrate.plan import Plan, make_plan


def plan(tmp_path: Path, *overrides: str) -> Plan:
    return make_plan([request_of(compose_run([*overrides]))], tmp_path)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), "auto"),  # one nano run: 0.04e9 updates
        (("scale=paper",), "possible"),  # 58M weights, 10,000 steps
        (("scale=paper", "optimizer=adam"), "auto"),  # torch has a kernel of its own
        (("scale=paper", "train.compile=never"), "never"),
    ],
)
def test_auto_compiles_where_it_saves_time(
    overrides: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    made = plan(tmp_path, *overrides)
    assert resolved(made.entries[0].config.train, made).compile == expected


@pytest.mark.parametrize("model", ["llama_60m", "llama_1b"])
def test_the_rough_count_is_near(model: str) -> None:
    config = compose_run([f"model={model}", "scale=paper"]).model
    assert rough_weights(config) == pytest.approx(parameter_count(config), rel=0.1)
