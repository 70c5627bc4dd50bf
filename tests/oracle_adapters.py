"""Training through W0 + s B A in NumPy float64, sharing no code with `spam_lab.optim`.

This file owns an oracle: it puts the product into the weights of an unchanged network, takes the
gradient of that full weight from autograd, passes it on to the factors by the chain rule written by
hand, and takes Adam's step with one formula a line. What is random comes from the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.tiny_network import TinyNetwork


def loss_of(network: Any, tokens: Tensor) -> Tensor:
    """The loss in the network's own precision (its own `loss` rounds to float32)."""
    logits = network.lm_head(network.model(tokens[:, :-1]))
    return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


class OracleAdapters:
    """`values` holds every trained array by name, and `frozen` each W0 by its layer's name.

    A layer is named in `frozen`, with `a` and `b` the suffixes of its factors; W0 may be zero.
    """

    def __init__(
        self,
        values: Mapping[str, np.ndarray],
        frozen: Mapping[str, np.ndarray],
        names: tuple[str, str],
        scale: float,
        hyper: Mapping[str, Any],
    ) -> None:
        self.values = {name: np.array(v, dtype=np.float64) for name, v in values.items()}
        self.frozen = {name: np.array(v, dtype=np.float64) for name, v in frozen.items()}
        self.a, self.b = names
        self.scale, self.hyper = scale, hyper
        self.m = {name: np.zeros_like(v) for name, v in self.values.items()}
        self.v = {name: np.zeros_like(v) for name, v in self.values.items()}
        self.count = 0
        self.network = TinyNetwork().double()

    def full(self, layer: str) -> np.ndarray:
        """The weight that a layer stands for."""
        a, b = self.values[f"{layer}.{self.a}"], self.values[f"{layer}.{self.b}"]
        return self.frozen[layer] + self.scale * (b @ a)

    def gradients(self, tokens: Tensor, weight: float) -> dict[str, np.ndarray]:
        """d loss / d value, by name."""
        own = {name: v for name, v in self.values.items() if self.layer_of(name) is None}
        own |= {f"{layer}.weight": self.full(layer) for layer in self.frozen}
        self.network.load_state_dict({name: torch.from_numpy(v) for name, v in own.items()})
        self.network.zero_grad()
        (loss_of(self.network, tokens) * weight).backward()
        found = {name: p.grad.numpy() for name, p in self.network.named_parameters()}
        for layer in self.frozen:
            full = found.pop(f"{layer}.weight")
            found[f"{layer}.{self.a}"] = self.scale * self.values[f"{layer}.{self.b}"].T @ full
            found[f"{layer}.{self.b}"] = self.scale * full @ self.values[f"{layer}.{self.a}"].T
        return found

    def layer_of(self, name: str) -> str | None:
        """The layer that a value is a factor of."""
        layer, _, last = name.rpartition(".")
        return layer if last in (self.a, self.b) else None

    def step(self, tokens: Tensor, weight: float, factor: float = 1.0) -> None:
        """One step of Adam at `factor` of the learning rate, on `weight` times the loss."""
        (beta1, beta2), eps = self.hyper["betas"], self.hyper["eps"]
        rate = self.hyper["lr"] * factor
        self.count += 1
        for name, g in self.gradients(tokens, weight).items():
            self.m[name] = beta1 * self.m[name] + (1 - beta1) * g
            self.v[name] = beta2 * self.v[name] + (1 - beta2) * g**2
            m_hat = self.m[name] / (1 - beta1**self.count)
            v_hat = self.v[name] / (1 - beta2**self.count)
            w = self.values[name]
            w = w - rate * self.hyper["weight_decay"] * w
            self.values[name] = w - rate * m_hat / (np.sqrt(v_hat) + eps)
