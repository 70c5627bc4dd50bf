"""The variants of Adam that are YAML alone: AdamW, value clipping and norm clipping, each against
its definition in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from spam_lab.config.compose import compose_run
from spam_lab.optim.clip import clip_gradients
from spam_lab.optim.registry import build_optimizer

SHAPES = {"embed": (5, 4), "ffn": (4, 6), "norm": (6,)}


def clipped(name: str, grads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The clipping that the variant is named for."""
    if name == "adam_value_clip":
        return {key: np.minimum(np.maximum(g, -1e-3), 1e-3) for key, g in grads.items()}
    if name == "adam_norm_clip":
        norm = math.sqrt(sum(float((g * g).sum()) for g in grads.values()))
        return {key: g * min(1.0, 1.0 / (norm + 1e-6)) for key, g in grads.items()}
    return grads


@pytest.mark.parametrize("name", ["adamw", "adam_value_clip", "adam_norm_clip"])
def test_a_variant_is_what_it_says(name: str) -> None:
    config = compose_run([f"optimizer={name}", "scale=paper"]).optimizer
    plain = compose_run(["optimizer=adam", "scale=paper"]).optimizer
    assert (config.name, config.lr) == ("adam", plain.lr)
    decay = 0.1 if name == "adamw" else 0.0
    random = np.random.default_rng(0)
    w = {key: random.normal(size=shape) for key, shape in SHAPES.items()}
    weights = {key: torch.nn.Parameter(torch.from_numpy(value.copy())) for key, value in w.items()}
    kinds = {"embed": "embedding", "ffn": "ffn", "norm": "norm"}
    named = [(key, kinds[key], weight) for key, weight in weights.items()]
    optimizer = build_optimizer(config, named, 0)
    m = {key: np.zeros(shape) for key, shape in SHAPES.items()}
    v = {key: np.zeros(shape) for key, shape in SHAPES.items()}
    changed = []
    for t in range(1, 13):
        lr = 0.01 * (1 + t % 3)
        size = (1e-4, 1e-3, 1.0)[t % 3]  # below every threshold, astride, and above
        grads = {key: size * random.normal(size=shape) for key, shape in SHAPES.items()}
        for key, weight in weights.items():
            weight.grad = torch.from_numpy(grads[key].copy())
        clip_gradients(weights.values(), config.clip_value, config.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        found = clipped(name, grads)
        changed.append(any((found[key] != grads[key]).any() for key in SHAPES))
        for key, weight in weights.items():
            m[key] = 0.9 * m[key] + 0.1 * found[key]
            v[key] = 0.999 * v[key] + 0.001 * found[key] ** 2
            m_hat, v_hat = m[key] / (1 - 0.9**t), v[key] / (1 - 0.999**t)
            w[key] = (1 - lr * decay) * w[key] - lr * m_hat / (np.sqrt(v_hat) + 1e-8)
            np.testing.assert_allclose(weight.detach().numpy(), w[key], rtol=1e-10, err_msg=key)
    assert set(changed) == ({False} if name == "adamw" else {False, True})
