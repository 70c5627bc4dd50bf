"""SPAM in plain NumPy float64, written from the paper and the list of what its code does.

This file owns an oracle: slow, with full-size arrays, boolean masks and one formula a line, sharing
no code and no layout with `spam_lab.optim`. Masks that are random come from the caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Parameter:
    """One tensor, its options, and its state (full-size arrays; `mask` says which count)."""

    w: np.ndarray
    kind: str
    lr: float
    weight_decay: float
    density: float
    state: dict[str, Any] = field(default_factory=dict)


class OracleSpam:
    """`hyper` holds the keyword arguments of SPAM; `draw(name)` gives masks of its own choosing."""

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        hyper: Mapping[str, Any],
        draw: Callable[[str], np.ndarray] | None = None,
    ) -> None:
        self.parameters = parameters
        self.hyper = hyper
        self.draw = draw
        self.call = 0
        self.clipped: dict[str, int] = {}
        self.entries = 0

    def phi(self) -> float:
        """1 before the first reset, then 0.01 rising along half a cosine to 1 in N calls."""
        delta_t, n = self.hyper["delta_t"], self.hyper["warmup_steps"]
        if delta_t is None or self.call < delta_t:
            return 1.0
        c = self.call % delta_t
        return 1.0 - 0.99 * 0.5 * (1.0 + math.cos(math.pi * c / (n + 1))) if c < n else 1.0

    def step(self, grads: Mapping[str, np.ndarray | None]) -> None:
        """One call of the optimizer."""
        self.call += 1
        delta_t, grace = self.hyper["delta_t"], self.hyper["grace_steps"]
        since = self.call if delta_t is None else self.call % delta_t
        may_clip = self.call >= grace and since >= grace
        self.clipped = {parameter.kind: 0 for parameter in self.parameters.values()}
        self.entries = 0
        for name, parameter in self.parameters.items():
            g = grads[name]
            if g is not None:
                self.step_one(name, parameter, np.array(g, dtype=np.float64), may_clip)

    def step_one(self, name: str, p: Parameter, g: np.ndarray, may_clip: bool) -> None:
        """The step of one tensor."""
        hyper, s = self.hyper, p.state
        beta1, beta2 = hyper["betas"]
        resets = 0 if hyper["delta_t"] is None else self.call // hyper["delta_t"]
        if s.get("resets") != resets:
            self.reset(name, p, g, resets)
        on, m, v = s["mask"], s["m"], s["v"]
        filtered = g.copy()
        rule = hyper["spike_rule"]
        if rule in ("clip", "nullify"):
            spike = on & (g * g > hyper["theta"] * v)
            if not hyper["clip_at_zero_moment"]:
                spike &= v > 0
            replaced = np.sign(g) * np.sqrt(hyper["theta"] * v) if rule == "clip" else 0.0 * g
        elif rule == "gaussian":
            k = s["age"]
            mean = s["G"] / (1 - beta1**k) if k > 0 else s["G"]
            delta = np.sqrt(s["D"] / (1 - beta2**k) if k > 0 else s["D"])
            spike = on & (np.abs(g - mean) > 3 * delta)
            if not hyper["clip_at_zero_moment"]:
                spike &= delta > 0
            replaced = mean + np.sign(g - mean) * 3 * delta
            s["D"] = beta2 * s["D"] + (1 - beta2) * (g - mean) ** 2
            s["G"] = beta1 * s["G"] + (1 - beta1) * g
        if rule != "none" and may_clip:
            filtered[spike] = replaced[spike]
            self.clipped[p.kind] += int(spike.sum())
            self.entries += int(on.sum())
        s["b"] += 1
        s["age"] += 1
        m[on] = beta1 * m[on] + (1 - beta1) * filtered[on]
        v[on] = beta2 * v[on] + (1 - beta2) * filtered[on] ** 2
        b = {"running": s["b"], "restarted": s["age"], "none": math.inf}[hyper["bias_correction"]]
        m_hat_factor = 1 / (1 - beta1**b)
        v_hat_factor = math.sqrt(1 - beta2**b)
        rate = p.lr * self.phi()
        direction = m * m_hat_factor * v_hat_factor / (np.sqrt(v) + hyper["eps"])
        moves = on.copy()
        p.w[on] -= rate * direction[on]
        if hyper["unselected"] == "sgd":
            p.w[~on] -= rate * g[~on]
            moves[:] = True
        elif hyper["unselected"] == "sign":
            p.w[~on] -= rate * np.sign(g[~on])
            moves[:] = True
        p.w[moves] -= p.lr * p.weight_decay * p.w[moves]

    def reset(self, name: str, p: Parameter, g: np.ndarray, resets: int) -> None:
        """A new mask; moments of zero, or kept where the entry was and is selected."""
        s = p.state
        on = np.ones(p.w.shape, dtype=bool)
        if p.density < 1:
            on = self.mask(name, p, g)
        kept = np.zeros_like(on)
        if self.hyper["reselected"] == "keep" and s:
            kept = s["mask"] & on
        for key in ("m", "v"):
            fresh = np.zeros(p.w.shape)
            if key in s:
                fresh[kept] = s[key][kept]
            s[key] = fresh
        s["G"], s["D"] = np.zeros(p.w.shape), np.zeros(p.w.shape)
        s["mask"], s["resets"], s["age"] = on, resets, 0
        s.setdefault("b", 0)

    def mask(self, name: str, p: Parameter, g: np.ndarray) -> np.ndarray:
        """The entries to train: given, or the largest, earlier ones first among equals."""
        if self.draw is not None:
            return self.draw(name)
        size = np.abs(p.w if self.hyper["selection"] == "weight_magnitude" else g).ravel()
        ranked = sorted(range(size.size), key=lambda i: (-size[i], i))
        on = np.zeros(size.size, dtype=bool)
        on[ranked[: max(1, int(p.density * size.size))]] = True
        return on.reshape(p.w.shape)
