"""ReLoRA: Adam on adapters that are merged into their frozen weights again and again.

This module owns the clock of merges, the warm-up after each and the pruning of the adapters'
moments. It promises that before the first merge a step is torch's own AdamW, and that a run whose
model and optimizer are loaded into freshly prepared ones goes on bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from spam_lab.optim.base import Group, KeepsState
from spam_lab.optim.baselines.adapters import Adapter, adapter_of, merge
from spam_lab.optim.selection import stream_seed


class ReLoRA(KeepsState, AdamW):
    """AdamW with a merge at the end of the steps K, 2 K, ... (Lialin et al. 2023, Algorithm 1).

    A merge does, for every adapter (W, A, B) of `adapters.AdaptedLinear`,

        W := W + (alpha / rank) B A,   A := kaiming_uniform(a = sqrt 5),   B := 0

    and zeroes each entry of the moments m and v of A and B with probability `reset_fraction`. One
    draw decides for m and v of an entry (the public code draws twice, which leaves entries with an
    old m over a v of zero, and steps of some thirty times the learning rate). Adam's bias
    correction goes on counting, as there.

    The j-th step after a merge takes min(1, j / rewarm_steps) of the learning rate, in every group
    and for weight decay too: with the loop's schedule this is the jagged cosine. The public code
    counts j from 0, and so loses the step of the merge.

    Parameters that belong to no adapter are trained by AdamW alone. A parameter without a gradient
    takes no step, and an adapter is merged only in a step in which both factors have one; a merge
    that it missed happens at the next such step. (torch wraps the step of every class in its hooks,
    and this step calls AdamW's: a hook that is registered here can run twice.)

    Args:
        params: groups with the names of their parameters, of a model that
            `spam_lab.optim.registry.prepare_model` has changed.
        lr: learning rate.
        betas: decay rates of m and v.
        eps: added to the bias-corrected root of v.
        weight_decay: decoupled; of what is trained, so never of W.
        merge_every: K, steps between merges.
        rewarm_steps: steps of linear warm-up after a merge; 0 has none.
        reset_fraction: share of the adapters' moments that a merge zeroes.
        seed: of the new A and of the pruning.
        fused: torch's fused kernel.

    Raises:
        ValueError: for a parameter named as a factor that carries no adapter (its model was copied
            after it was prepared): it would never be merged.
    """

    def __init__(
        self,
        params: list[Group],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        merge_every: int,
        rewarm_steps: int,
        reset_fraction: float,
        seed: int,
        fused: bool,
    ) -> None:
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=fused
        )
        own = {
            "merge_every": merge_every,
            "rewarm_steps": rewarm_steps,
            "reset_fraction": reset_fraction,
            "seed": seed,
            "calls": 0,
        }
        self.defaults.update(own)
        for group in self.param_groups:
            group.update(own)

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters, now or in mid-training."""
        super().add_param_group(param_group)
        for name, param in zip(
            param_group.get("param_names", ()), param_group["params"], strict=False
        ):
            if name.endswith(".lora_A") and adapter_of(param) is None:
                raise ValueError(f"{name} carries no adapter: prepare the model, do not copy it")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient, and a merge where one is due.

        Args:
            closure: reevaluates the model and returns the loss; called with gradients enabled.

        Returns:
            What the closure returned, or None.
        """
        first = self.param_groups[0]
        calls, every = first["calls"] + 1, first["merge_every"]
        factor = self._factor(first["calls"], every, first["rewarm_steps"])
        rates = [group["lr"] for group in self.param_groups]
        try:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            loss = super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate
        for group in self.param_groups:
            group["calls"] = calls
        self._merge_all(calls // every, first["reset_fraction"], first["seed"])
        return loss

    @staticmethod
    def _factor(calls: int, merge_every: int, rewarm_steps: int) -> float:
        """The share of the learning rate that the step after `calls` others takes."""
        since = calls % merge_every + 1
        if calls < merge_every or since >= rewarm_steps:
            return 1.0
        return since / rewarm_steps

    def _merge_all(self, due: int, fraction: float, seed: int) -> None:
        """Merge every adapter that took this step and has merged less than `due` times."""
        for param in self.parameters():
            adapter = adapter_of(param)
            if adapter is None or param.grad is None or adapter.b.grad is None:
                continue
            if self.state[param].get("merges", 0) < due:
                self._merge(param, adapter, due, fraction, seed)

    def _merge(self, a: Tensor, adapter: Adapter, due: int, fraction: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(stream_seed(seed, adapter.index, due))
        merge(a, adapter, generator)
        for factor in (a, adapter.b):
            kept = torch.rand(factor.shape, generator=generator) >= fraction
            for name in ("exp_avg", "exp_avg_sq"):
                # A product and not a fill: what is not finite stays so.
                self.state[factor][name].mul_(kept.to(factor.device))
        self.state[a]["merges"] = due
