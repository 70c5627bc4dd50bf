"""SPAM against trajectories that were recorded from the reference code (see tests/golden)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spam_lab.optim import SPAM

GOLDEN = Path(__file__).parent / "golden"
CASES: dict[str, dict[str, Any]] = json.loads((GOLDEN / "cases.json").read_text())
FLOAT32 = [name for name, case in CASES.items() if case["dtype"] == "float32"]


def replay(name: str, arithmetic: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run a case; at each step, for w and b, ours and the reference's values in float32."""
    case, arrays = CASES[name], dict(np.load(GOLDEN / f"{name}.npz"))
    dtype = getattr(torch, case["dtype"])
    parameters = {
        key: torch.nn.Parameter(torch.from_numpy(arrays[f"{key}0"]).to(dtype)) for key in "wb"
    }
    groups: list[dict[str, Any]] = [{"params": [parameter]} for parameter in parameters.values()]
    step = 0
    selection: Any = "random"
    if case["density"] is not None:
        groups[0]["density"] = case["density"]
        shape = arrays["w"].shape
        masks = np.unpackbits(arrays["mask"])[: np.prod(shape)].reshape(shape).astype(bool)

        def selection(*_: object) -> torch.Tensor:
            return torch.from_numpy(masks[step])

    optimizer = SPAM(
        groups,
        lr=case["lr"],
        weight_decay=case.get("weight_decay", 0.0),
        delta_t=case["DeltaT"],
        theta=case["threshold"],
        warmup_steps=case["warmup_steps"],
        selection=selection,
        clip_at_zero_moment=True,
        arithmetic=arithmetic,
    )
    for step in range(case["steps"]):
        for key, parameter in parameters.items():
            parameter.grad = torch.from_numpy(arrays[f"grad_{key}"][step]).to(dtype)
        optimizer.step()
        for key, parameter in parameters.items():
            yield parameter.detach().float().numpy(), arrays[key][step]


@pytest.mark.parametrize("arithmetic", ["fused", "stepwise"])
@pytest.mark.parametrize("name", FLOAT32)
def test_float32_follows_the_reference_to_a_millionth(name: str, arithmetic: str) -> None:
    """Clip, grace, resets, phi, masks, bias correction and decay are the reference's, each step."""
    for ours, reference in replay(name, arithmetic):
        scale = np.abs(reference).max()
        np.testing.assert_allclose(ours, reference, rtol=1e-6, atol=1e-6 * scale)


def test_stepwise_bfloat16_follows_the_reference_to_one_ulp() -> None:
    """Rounding operation by operation lands within one bfloat16 ulp for 99.9 % of all values.

    (On CPUs with AVX2 it is equal to the bit; other CPUs round inside fused operations otherwise.)
    """
    pairs = list(replay("dense_bf16", "stepwise"))
    ours, reference = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    ulp = np.exp2(np.floor(np.log2(np.maximum(np.abs(reference), 1e-30))) - 7)
    assert np.mean(np.abs(ours - reference) <= ulp) >= 0.999


def test_fused_bfloat16_is_another_optimizer() -> None:
    """The two arithmetics differ in bfloat16, so both belong to a run's identity."""
    differing = [np.mean(ours != reference) for ours, reference in replay("dense_bf16", "fused")]
    assert np.mean(differing) > 0.25
