"""SPAM, Spike-Aware Adam with Momentum Reset, as a plain `torch.optim.Optimizer`.

This module owns the optimizer's options, its state and the order of events in a step: reset, mask,
spike rule, moments, weights. It promises that `state_dict` holds everything that decides the next
step, in tensors and plain values and bit for bit, and that a step makes the host wait for the
device only where a mask is drawn. The arithmetic is in `arithmetic`, and in `eager` and `compiled`,
which carry it out; the rules are in `spike`, `selection` and `reset`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from spam_lab.optim import eager, moments, options
from spam_lab.optim.base import Group, LabOptimizer, State
from spam_lab.optim.compiled import Compiled
from spam_lab.optim.entries import write_back
from spam_lab.optim.factors import Factors
from spam_lab.optim.in_place import Workspace
from spam_lab.optim.reset import ResetClock
from spam_lab.optim.selection import Selection, stream_seed
from spam_lab.optim.telemetry import Telemetry


class SPAM(LabOptimizer):
    """Adam whose moments restart every dT steps and whose spiked gradients are clipped.

    Paper: "SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training", Algorithm 1; the
    update itself is written out in `arithmetic`. Where the paper and its public code differ, the
    option says so; the defaults are the paper's, made trainable.

    Args:
        params: parameters, or parameter groups. A group may override `lr`, `betas`, `eps`,
            `weight_decay` and `density`, and may carry a "kind", the label that telemetry counts
            by. All else is one value for the whole optimizer.
        lr: learning rate; a float or a tensor of one element. Paper: 1e-3 to 2e-4 (Table 7).
        betas: decay rates of m and v.
        eps: added to the raw sqrt(v), before its bias correction, as in the reference code: up to
            1/sqrt(1 - beta2^b) larger than torch's Adam makes it.
        weight_decay: decoupled, after the step and not scaled by phi. Only entries that take a
            step decay: in a sparse group with frozen unselected entries, the selected ones. (The
            reference code decays a copy there, that is, nothing.)
        delta_t: dT, steps between resets; None never resets.
        theta: threshold on g^2 / v. Finite; `spike_rule="none"` switches the rule off.
        warmup_steps: N, steps of cosine warm-up after each reset. Not the warm-up of the
            learning-rate schedule, which the published script passes here by mistake.
        density: d, the share of entries that have moments and are trained in an interval. 1.0
            stores no mask.
        selection: "random", "random_block" (64 entries that follow each other), "random_row",
            "weight_magnitude", "gradient_magnitude" (see `selection.RULES`), or a callable
            `(param, grad, density, generator) -> bool mask`, called in groups of density below 1
            at a parameter's first step and at every reset. Its generator is on the CPU, and the
            same for the same seed, parameter and number of resets.
        spike_rule: "clip" (the method), "nullify" (Table 12), "gaussian" (Table 11; two more
            numbers of state an entry), "none".
        grace_steps: calls after the start and after each reset without clipping. The paper has
            none, and then never trains; the reference code has 20.
        clip_at_zero_moment: whether an entry whose v is exactly 0 counts as a spike and is frozen
            until the next reset, as in the reference code (True), or passes.
        bias_correction: "running" counts the updates of a parameter and never restarts (the
            reference code: an interval then takes larger steps, 1.87 times the nominal rate on
            average at 500, 150); "restarted" counts from the last reset; "none" has no correction
            (the last line of Algorithm 1 as printed).
        unselected: what an entry outside the mask does: "freeze" (reference code), "sgd"
            (w -= lr phi g), "sign" (w -= lr phi sign(g)).
        reselected: moments of entries chosen again at a reset: "reset", or "keep" (Figure 6,
            middle). At density 1 every entry is chosen again, so that "keep" never zeroes a
            moment, and a reset only restarts phi and the grace.
        state_dtype: torch.float32 or torch.bfloat16, or their names; None is the gradient's.
        arithmetic: "fused" (rounds once, at the end of a step) or "stepwise" (every operation
            rounds to the dtype of the moments, as the reference code).
        rounding: "nearest", or "stochastic" for bfloat16 weights and moments.
        seed: of the random masks and roundings, which draw on no other random state.

    A parameter without a gradient takes no step; a reset that it missed happens at its next one.

    Raises:
        ValueError: for a hyperparameter out of range, naming it, its value and what is allowed.
        RuntimeError: for sparse gradients and complex parameters.
    """

    telemetry: Telemetry | None = None
    """What the last step did; None before the first."""
    _compiled: Compiled | None = None

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        delta_t: int | None = 500,
        theta: float = 5000.0,
        warmup_steps: int = 150,
        density: float = 1.0,
        selection: str | Selection = "random",
        spike_rule: str = "clip",
        grace_steps: int = 20,
        clip_at_zero_moment: bool = False,
        bias_correction: str = "running",
        unselected: str = "freeze",
        reselected: str = "reset",
        state_dtype: torch.dtype | str | None = None,
        arithmetic: str = "fused",
        rounding: str = "nearest",
        seed: int = 0,
    ) -> None:
        self._own_selection = selection if callable(selection) else None
        self._space = Workspace()
        shared = {
            "delta_t": delta_t,
            "theta": theta,
            "warmup_steps": warmup_steps,
            "selection": options.OWN_SELECTION if callable(selection) else selection,
            "spike_rule": spike_rule,
            "grace_steps": grace_steps,
            "clip_at_zero_moment": clip_at_zero_moment,
            "bias_correction": bias_correction,
            "unselected": unselected,
            "reselected": reselected,
            "state_dtype": options.dtype_name(state_dtype),
            "arithmetic": arithmetic,
            "rounding": rounding,
            "seed": seed,
        }
        own = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "density": density,
        }
        options.check_group(own)
        options.check_shared(shared)
        # Every group carries the shared values and the number of calls, so that state_dict does.
        super().__init__(params, {**own, **shared, "calls": 0})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, now or in mid-training: they share the optimizer's clock and options.

        Raises:
            ValueError: for a bad value, or a value that only the whole optimizer can have.
        """
        current = self.param_groups[0] if self.param_groups else self.defaults
        for key in (*options.SHARED, "calls"):
            if param_group.setdefault(key, current[key]) != current[key]:
                allowed = f"{current[key]!r}, the value of the whole optimizer"
                raise options.refused(key, param_group[key], allowed)
        options.check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`, hyperparameters included, as torch's optimizers do.

        Raises:
            ValueError: if the state was made with a callable selection and this one has none.
        """
        saved_groups = state_dict["param_groups"]
        if self._own_selection is None and any(
            group["selection"] == options.OWN_SELECTION for group in saved_groups
        ):
            raise options.refused("selection", self.param_groups[0]["selection"], "a callable")
        super().load_state_dict(state_dict)
        if self._compiled is not None:
            self._compiled.forget()

    def compile(self, folder: Path, when: str = "always") -> None:
        """Step through compiled kernels from now on, wherever there is one for the options.

        The numbers stay the same, to the bit on a CPU. A kernel is compiled when it is first
        needed, 10 to 30 seconds, and kept. Left to the eager path are float64 weights, tensors
        that are tiny or not contiguous, stored masks, stepwise arithmetic, the Gaussian rule, and
        unselected entries that move.

        Args:
            folder: where kernels are kept for all runs. What is in it will be run.
            when: "always" compiles what is not there, and raises what the compiler says;
                "possible" compiles, and stays eager with a warning where that fails; "kept" takes
                kernels from the folder and compiles none.
        """
        self._compiled = Compiled(folder, when)

    @property
    def compile_seconds(self) -> dict[str, float]:
        """What compiling took here, by kernel; empty where all were in the folder."""
        return {} if self._compiled is None else dict(self._compiled.kernels.seconds)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle needs beyond torch's own."""
        return {
            **super().__getstate__(),
            "_own_selection": self._own_selection,
            "_space": Workspace(),
        }

    def update_all(self) -> None:
        """One step of every parameter that has a gradient: reset if it is due, then update."""
        for group in self.param_groups:
            group["calls"] += 1
        call, clock = self.param_groups[0]["calls"], self._clock()
        scale, clips, resets = clock.scale(call), clock.clips(call), clock.resets(call)
        counts: dict[str, list[Tensor]] = {}
        examined = first_index = 0
        for group in self.param_groups:
            found, entries = self._step_group(group, first_index, resets, scale, clips)
            counts.setdefault(group.get("kind", "other"), []).extend(found)
            examined += entries if clips and group["spike_rule"] != "none" else 0
            first_index += len(group["params"])
        device = next(self.parameters()).device
        clipped = [_total(found, device) for found in counts.values()]
        self.telemetry = Telemetry(tuple(counts), torch.stack(clipped), examined, scale, resets)

    def _step_group(
        self, group: Group, first_index: int, resets: int, scale: float, clips: bool
    ) -> tuple[list[Tensor], int]:
        """Step one group's parameters; the spike rule's counts, and how many entries trained."""
        counts, examined = [], 0
        shared: dict[tuple[int, int], Factors] = {}
        for index, param in enumerate(group["params"], start=first_index):
            if param.grad is None or param.numel() == 0:
                continue
            state = self.state[param]
            if state.get("resets") != resets:
                rule = self._own_selection or group["selection"]
                moments.renew(state, param, param.grad, group, rule, index, resets)
                if self._compiled is not None:
                    self._compiled.forget(param)
            state["updates"] += 1
            ages = (state["updates"], state["age"])
            if ages not in shared:
                shared[ages] = self._factors(group, scale, clips, *ages)
            counts += self._step_one(param, state, group, index, shared[ages])
            examined += state["exp_avg"].numel()
            state["age"] += 1
        return counts, examined

    def _step_one(
        self, param: Tensor, state: State, group: Group, index: int, factors: Factors
    ) -> list[Tensor]:
        """Update one parameter, compiled if possible; the counts of the spike rule."""
        noise = None
        if group["rounding"] == "stochastic":
            seed = stream_seed(group["seed"], index, state["updates"], "rounding")
            noise = (seed & 0x7FFFFFFF, seed >> 32)
        if self._compiled is not None:
            count = self._compiled.step(param, state, group, factors, noise)
            if count is not None:
                return [count]
        assert param.grad is not None
        entries = moments.entries(state, param, param.grad)
        if group["arithmetic"] == "stepwise":
            counts = eager.stepwise(entries, factors)
        else:
            counts = eager.fused(entries, factors, noise, self._space)
        write_back(param, entries.param)
        return counts

    def _factors(self, group: Group, scale: float, clips: bool, updates: int, age: int) -> Factors:
        """What the entries of a tensor share in this step."""
        beta1, beta2 = group["betas"]
        exponents = {"running": updates, "restarted": age + 1, "none": float("inf")}
        return Factors(
            lr=group["lr"],
            warmup_scale=scale,
            beta1=beta1,
            beta2=beta2,
            eps=self._eps(group, updates),
            weight_decay=group["weight_decay"],
            spike_rule=group["spike_rule"],
            clips=clips,
            theta=group["theta"],
            clip_at_zero_moment=group["clip_at_zero_moment"],
            unselected=group["unselected"],
            updates=exponents[group["bias_correction"]],
            age=age,
        )

    def _eps(self, group: Group, updates: int) -> float:
        """What is added to the raw sqrt(v)."""
        eps: float = group["eps"]
        return eps

    def _clock(self) -> ResetClock:
        """The reset schedule, which all groups share."""
        first = self.param_groups[0]
        return ResetClock(first["delta_t"], first["warmup_steps"], first["grace_steps"])


def _total(counts: list[Tensor], device: torch.device) -> Tensor:
    """The sum of int32 counts, as int64 on one device."""
    if not counts:
        return torch.zeros((), dtype=torch.int64, device=device)
    return torch.stack([c if c.device == device else c.to(device) for c in counts]).sum()
