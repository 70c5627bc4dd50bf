"""Value and norm clipping against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from spam_lab.optim.clip import clip_gradients


@pytest.mark.parametrize("value", [None, 1e-3, 0.5])
@pytest.mark.parametrize("norm", [None, 0.1, 1e6])
def test_value_first_then_norm(value: float | None, norm: float | None) -> None:
    """Clamp each entry to +-value; then scale by min(1, norm / (joint L2 norm + 1e-6))."""
    rng = np.random.default_rng(0)
    grads = [rng.normal(size=shape).astype(np.float32) for shape in [(3, 4), (5,)]]
    params = [torch.nn.Parameter(torch.zeros(grad.shape)) for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = torch.from_numpy(grad.copy())
    idle = torch.nn.Parameter(torch.zeros(2))
    clip_gradients((param for param in [*params, idle]), value, norm)
    expected = grads if value is None else [np.clip(grad, -value, value) for grad in grads]
    if norm is not None:
        joint = np.sqrt(sum(float((grad**2).sum()) for grad in expected))
        expected = [grad * min(1.0, norm / (joint + 1e-6)) for grad in expected]
    for param, wanted in zip(params, expected, strict=True):
        assert param.grad is not None
        np.testing.assert_allclose(param.grad.numpy(), wanted, rtol=1e-5)
    assert idle.grad is None
