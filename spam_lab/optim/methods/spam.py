"""SPAM as a method of the lab: its hyperparameters, and which layers are sparse.

This module owns the declaration of SPAM's hyperparameters with the paper's defaults, and the rule
that sparse momentum applies to attention and feed-forward matrices alone. `spam_lab.optim.SPAM`
explains what each one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spam_lab.config.fields import Problem, choice, flag, mapping, number, text
from spam_lab.config.schema import OptimizerConfig
from spam_lab.optim.methods.adam import random_rounding
from spam_lab.optim.registry import Groups, method

if TYPE_CHECKING:
    from torch.optim import Optimizer

SPARSE_KINDS = ("attention", "ffn")
"""Kinds that `density` applies to; embedding, head and norms stay dense, as in the reference."""


@dataclass
class SpamConfig(OptimizerConfig):
    """Spike-Aware Adam with Momentum Reset (Algorithm 1)."""

    name: str = text("spam", doc="registry name of the method")
    beta1: float = number(0.9, low=0, high=1, high_open=True, doc="decay of the first moment")
    beta2: float = number(0.999, low=0, high=1, high_open=True, doc="decay of the second moment")
    eps: float = number(1e-6, low=0, doc="added to the raw root of the second moment")
    delta_t: int | None = number(
        500, low=1, unit="steps", doc="interval between momentum resets; null never (paper: 500)"
    )
    theta: float = number(
        5000.0, low=0, low_open=True, doc="threshold on g^2 / v for a spike (paper: 5000)"
    )
    warmup_steps: int = number(
        150, low=0, unit="steps", doc="N, cosine warm-up after each reset (paper: 150)"
    )
    intervals: dict[str, Any] = mapping(
        doc="the paper's delta_t and warmup_steps of a model that has its own"
    )
    density: float = number(
        1.0, low=0, low_open=True, high=1, doc="share of attention and FFN entries with moments"
    )
    densities: dict[str, float] = mapping(doc="the density that matches GaLore's memory, by model")
    selection: str = choice(
        "random",
        ("random", "random_block", "random_row", "weight_magnitude", "gradient_magnitude"),
        doc="which entries have moments (Figure 9-1; paper: random entries)",
    )
    spike_rule: str = choice(
        "clip",
        ("clip", "nullify", "gaussian", "none"),
        doc="what becomes of a spike (Tables 11, 12; paper: clip)",
    )
    grace_steps: int = number(
        20, low=0, unit="steps", doc="steps after start and resets without clipping (reference: 20)"
    )
    clip_at_zero_moment: bool = flag(
        False, doc="an entry without a second moment counts as a spike (reference: true)"
    )
    bias_correction: str = choice(
        "running",
        ("running", "restarted", "none"),
        doc="what the bias correction counts from: the start (reference) or the last reset",
    )
    unselected: str = choice(
        "freeze",
        ("freeze", "sgd", "sign"),
        doc="what entries without moments do (Figure 6; reference: freeze)",
    )
    reselected: str = choice(
        "reset", ("reset", "keep"), doc="moments of entries chosen again (Figure 6; paper: reset)"
    )
    state_dtype: str | None = choice(
        None,
        ("float32", "bfloat16"),
        doc="dtype of the moments; null is the gradients' (reference)",
    )
    arithmetic: str = choice(
        "fused",
        ("fused", "stepwise"),
        doc="rounding once a step, or every operation to the moments' dtype (reference)",
    )
    rounding: str = choice(
        "nearest",
        ("nearest", "stochastic"),
        doc="how bfloat16 weights and moments are rounded, where arithmetic=fused",
    )

    def cross_problems(self) -> list[Problem]:
        """Settings that contradict each other."""
        found = []
        if self.delta_t is None:
            resets = {"warmup_steps": 0, "reselected": "reset"}
            for key, idle in resets.items():
                if (value := getattr(self, key)) != idle:
                    allowed = f"{idle} wherever optimizer.delta_t=null, as nothing is reset"
                    found.append(Problem(f"optimizer.{key}", value, allowed))
        if self.reselected == "keep" and self.bias_correction == "restarted":
            allowed = "running or none wherever optimizer.reselected=keep: kept moments are old"
            found.append(Problem("optimizer.bias_correction", self.bias_correction, allowed))
        if self.rounding == "stochastic" and self.arithmetic == "stepwise":
            allowed = "nearest wherever optimizer.arithmetic=stepwise"
            found.append(Problem("optimizer.rounding", self.rounding, allowed))
        return found


def coupling(config: SpamConfig) -> str:
    """What an entry's update needs beside the entry: nothing, where SPAM is dense."""
    if config.density < 1:
        return f"optimizer.density={config.density:g} draws masks over whole tensors"
    return random_rounding(config.rounding)


@method(
    "spam",
    SpamConfig,
    source="arXiv 2501.06842, Algorithm 1; this project's",
    coupling=coupling,
)
def build(groups: Groups, config: SpamConfig, seed: int) -> Optimizer:
    """SPAM, sparse in the attention and feed-forward groups and dense elsewhere."""
    from spam_lab.optim.spam import SPAM

    return SPAM(
        _with_densities(groups, config.density),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        delta_t=config.delta_t,
        theta=config.theta,
        warmup_steps=config.warmup_steps,
        selection=config.selection,
        spike_rule=config.spike_rule,
        grace_steps=config.grace_steps,
        clip_at_zero_moment=config.clip_at_zero_moment,
        bias_correction=config.bias_correction,
        unselected=config.unselected,
        reselected=config.reselected,
        state_dtype=config.state_dtype,
        arithmetic=config.arithmetic,
        rounding=config.rounding,
        seed=seed,
    )


def _with_densities(groups: Groups, density: float) -> Groups:
    """The groups with a density each: `density` for matrices of SPARSE_KINDS, and 1.

    Biases, which GPT-NeoX and OPT have beside those matrices, get a group of their own and stay
    dense: the reference masks the weights of linear layers alone.
    """
    found = []
    for group in groups:
        sparse = density < 1 and group["kind"] in SPARSE_KINDS
        matrices = [(name, p) for name, p in group["params"] if not sparse or p.dim() > 1]
        biases = [(name, p) for name, p in group["params"] if sparse and p.dim() <= 1]
        found.append({**group, "params": matrices, "density": density if sparse else 1.0})
        if biases:
            found.append({**group, "params": biases, "density": 1.0})
    return found
