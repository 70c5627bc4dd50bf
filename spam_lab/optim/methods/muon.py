"""Muon for the matrices of attention and feed-forward blocks, AdamW for everything else.

This module owns the hyperparameters of both and the rule of who trains what. It promises torch's
own Muon and torch's own AdamW, fused wherever it can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import MISSING

from spam_lab.config.fields import choice, flag, number, text
from spam_lab.config.schema import OptimizerConfig
from spam_lab.optim.registry import Groups, method

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

MUON_KINDS = ("attention", "ffn")
"""Kinds whose matrices Muon trains; embedding, head, norms and biases are AdamW's."""


@dataclass
class MuonConfig(OptimizerConfig):
    """Muon (Jordan et al.): momentum, orthogonalised by a Newton-Schulz iteration."""

    name: str = text("muon", doc="registry name of the method")
    momentum: float = number(
        0.95, low=0, high=1, high_open=True, doc="decay of Muon's moment (Jordan: 0.95)"
    )
    nesterov: bool = flag(True, doc="orthogonalise Nesterov's momentum (Jordan: true)")
    ns_steps: int = number(
        5, low=1, high=99, doc="Newton-Schulz iterations, in bfloat16 (Jordan: 5)"
    )
    adjust_lr_fn: str = choice(
        "match_rms_adamw",
        ("original", "match_rms_adamw"),
        doc="factor on lr for an A x B matrix: sqrt(max(1, A/B)) (Jordan), or 0.2 sqrt(max(A, B)), "
        "with which AdamW's rates serve (Liu et al. 2025, arXiv 2502.16982, Section 2.2)",
    )
    adam_lr: float = number(
        MISSING, low=0, low_open=True, doc="peak learning rate of what AdamW trains"
    )
    beta1: float = number(0.9, low=0, high=1, high_open=True, doc="AdamW's first decay")
    beta2: float = number(0.999, low=0, high=1, high_open=True, doc="AdamW's second decay")
    eps: float = number(1e-8, low=0, doc="AdamW's; added to the bias-corrected root")


def member_of(kind: str, parameter: Tensor) -> str:
    """Who trains a parameter: "muon" or "adam".

    GPT-NeoX's fused query, key and value are one matrix here, and orthogonalised as one.
    """
    return "muon" if kind in MUON_KINDS and parameter.dim() == 2 else "adam"


@method("muon", MuonConfig, source="Jordan et al. 2024, kellerjordan.github.io/posts/muon; torch")
def build(groups: Groups, config: MuonConfig, seed: int) -> Optimizer:
    """torch's Muon and AdamW behind one optimizer. Nothing is random: no seed.

    The groups of AdamW have "lr_ratio" = adam_lr / lr, and both decay the weights alike.
    """
    import torch

    from spam_lab.optim.baselines.combined import Combined, empty

    members = [parameter for group in groups for _, parameter in group["params"]]
    muon = empty(
        torch.optim.Muon,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        nesterov=config.nesterov,
        ns_steps=config.ns_steps,
        adjust_lr_fn=config.adjust_lr_fn,
    )
    adam = empty(
        torch.optim.AdamW,
        lr_ratio=config.adam_lr / config.lr,
        lr=config.adam_lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=all(m.is_floating_point() and m.device.type in ("cpu", "cuda") for m in members),
    )
    return Combined(groups, {"muon": muon, "adam": adam}, member_of)
