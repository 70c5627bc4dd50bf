"""The SPAM step compiled: one pass over weights, gradients and moments, a call a tensor.

This module owns the kernels that torch makes from `arithmetic.updated` (torch.export and
AOTInductor: C++ on a CPU, Triton on a GPU), and the folder that keeps them. It promises the numbers
of the eager path, to the bit on a CPU; that nothing is traced, guarded or compiled again as steps
go by, since lengths, learning rate and seeds are arguments; that a call never makes the host wait
for the device; and that a kernel is compiled once for all runs that share the folder.

Kernels take where to write as arguments of their own, and the caller passes the very tensors that
are read. That is sound because each entry is read before it is written and no entry reads another,
and it lets the count of spikes be summed in the same pass, which an update in place would not.

The folder holds shared libraries that will be run: keep it where only you can write.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from spam_lab.optim import arithmetic, mask, pairs
from spam_lab.optim.arithmetic import Form
from spam_lab.optim.base import Group, State
from spam_lab.optim.factors import Factors

LOG = logging.getLogger(__name__)

SMALLEST = 64
"""Tensors of fewer entries are left to the eager path."""

RULES = ("clip", "nullify", "none")
DTYPES = (torch.float32, torch.bfloat16)

Run = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Kind:
    """Which kernel: everything that is fixed when it is compiled.

    Attributes:
        form: the options that change the formula.
        layout: dense | pairs | entries: all entries of what it is given; the same, bfloat16 and
            two in an int32; or a random mask of entries.
        dtypes: of weights, gradients and moments.
        device: cpu | cuda.
    """

    form: Form
    layout: str
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype]
    device: str


@dataclass
class Kernels:
    """The kernels in one folder, compiled when they are first needed.

    Attributes:
        folder: where they are kept.
        seconds: what compiling took, by name, of those that this process compiled.
    """

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    _loaded: dict[Kind, Run] = field(default_factory=dict)

    def __getitem__(self, kind: Kind) -> Run:
        """The kernel: from memory, from the folder, or compiled now (10 to 30 seconds)."""
        if kind not in self._loaded:
            path = self.folder / f"{self._name(kind)}.pt2"
            if not path.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(path.with_suffix(".lock")):  # another run may be at it
                    if not path.exists():
                        self._compile(kind, path)
            loader = torch._C._aoti.AOTIModelPackageLoader(
                str(path),
                "model",
                False,
                1,
                -1 if kind.device == "cpu" else torch.cuda.current_device(),
            )
            self._loaded[kind] = loader.run
        return self._loaded[kind]

    def has(self, kind: Kind) -> bool:
        """Whether the kernel needs no compiling."""
        return kind in self._loaded or (self.folder / f"{self._name(kind)}.pt2").exists()

    def _compile(self, kind: Kind, path: Path) -> None:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".partial_") as partial:
            made = _package(kind, Path(partial) / "kernel.pt2")
            os.replace(made, path)
        self.seconds[path.stem] = time.perf_counter() - start
        LOG.info("compiled %s in %.1f s", path.stem, self.seconds[path.stem])

    @staticmethod
    def _name(kind: Kind) -> str:
        dtypes = "_".join(str(dtype).removeprefix("torch.") for dtype in kind.dtypes)
        form = f"{kind.form.rule}_{kind.form.rounding}{'_decays' if kind.form.decays else ''}"
        label = f"{kind.layout}_{form}_{dtypes}_{kind.device}"
        return f"spam_{label}_{_fingerprint(kind.device)}"


@dataclass
class _Plan:
    """How one parameter steps until its next reset.

    Attributes:
        run: its kernel; None leaves it to the eager path.
        options: what the kernel was chosen for.
        units: where whole blocks or rows are selected, which ones; None elsewhere.
        unit: entries of such a unit, or pairs of entries.
        dtype: what a gradient is viewed as: its own, or int32 where the kernel takes pairs.
        noise, integers: the kernel's last two arguments.
        moments: m and v as they were when they were viewed.
        views: of weights, m and v, flat, and of pairs where the kernel takes those.
    """

    run: Run | None
    options: tuple[Any, ...]
    units: Tensor | None
    unit: int
    dtype: torch.dtype
    noise: Tensor
    integers: Tensor
    moments: tuple[Tensor, Tensor]
    views: tuple[Tensor, Tensor, Tensor]

    def fits(self, param: Tensor, state: State, options: tuple[Any, ...]) -> bool:
        """Whether nothing has been exchanged since the plan was made."""
        return (
            self.options == options
            and self.moments[0] is state["exp_avg"]
            and self.moments[1] is state["exp_avg_sq"]
            and self.views[0].data_ptr() == param.data_ptr()
        )


class Compiled:
    """The compiled steps of one optimizer.

    Args:
        folder: where kernels are kept.
        when: always | possible | kept (see `SPAM.compile`).
    """

    def __init__(self, folder: Path, when: str) -> None:
        self.kernels = Kernels(folder)
        self._when = when
        self._plans: dict[Tensor, _Plan] = {}
        self._numbers: tuple[Factors, Tensor] | None = None

    def forget(self, param: Tensor | None = None) -> None:
        """Plan anew for a parameter whose state has changed its form, or for all."""
        if param is None:
            self._plans.clear()
        else:
            self._plans.pop(param, None)

    def step(
        self,
        param: Tensor,
        state: State,
        group: Group,
        factors: Factors,
        noise: tuple[int, int] | None,
    ) -> Tensor | None:
        """Update one parameter in place; the count of spikes, int32. None if that is not for us."""
        grad = param.grad
        assert grad is not None
        if not (param.is_contiguous() and grad.is_contiguous()):
            return None
        form = Form(factors.spike_rule, group["rounding"], factors.weight_decay > 0)
        options = (form, group["arithmetic"], factors.unselected, grad.dtype, pairs.fits(grad))
        plan = self._plans.get(param)
        if plan is None or not plan.fits(param, state, options):
            plan = self._plans[param] = self._plan(param, state, options)
        if plan.run is None:
            return None
        if noise is not None:
            plan.noise = torch.tensor(noise, device=param.device)
        numbers = self._numbers
        if numbers is None or numbers[0] is not factors or numbers[1].device != param.device:
            self._numbers = numbers = (factors, factors.numbers(torch.float32, param.device))
        weights, exp_avg, exp_avg_sq = plan.views
        grad = grad.view(-1).view(plan.dtype)
        if plan.units is not None:
            whole = weights.view(-1, plan.unit)
            weights = whole.index_select(0, plan.units).view(-1)
            grad = grad.view(-1, plan.unit).index_select(0, plan.units).view(-1)
        arguments = [weights, grad, exp_avg, exp_avg_sq, weights, exp_avg, exp_avg_sq]
        count = plan.run([*arguments, numbers[1], plan.noise, plan.integers])[0]
        if plan.units is not None:
            whole.index_copy_(0, plan.units, weights.view(-1, plan.unit))
        return count

    def _plan(self, param: Tensor, state: State, options: tuple[Any, ...]) -> _Plan:
        form, arithmetic_, unselected, grad_dtype, even = options
        chosen, moments = mask.from_state(state), (state["exp_avg"], state["exp_avg_sq"])
        layout, unit, units = "dense", 1, None
        integers = torch.zeros(3, dtype=torch.int64, device=param.device)
        if isinstance(chosen, mask.RandomMask):
            integers, unit = torch.tensor(chosen.numbers(), device=param.device), chosen.unit
            if unit == 1:
                layout = "entries"
            else:
                # So few that listing them costs next to nothing. Whole blocks are copied faster
                # than a kernel finds its way from one to the next.
                strata = torch.arange(chosen.selected, device=param.device)
                units = mask.unit_positions(strata, integers)
        dtypes = (param.dtype, grad_dtype, moments[0].dtype)
        views = (param.detach().view(-1), moments[0].view(-1), moments[1].view(-1))
        dtype = grad_dtype
        if (
            layout == "dense"
            and set(dtypes) == {torch.bfloat16}
            and form.rounding == "nearest"
            and param.device.type == "cpu"
            and even
            and all(map(pairs.fits, views))
            and (units is None or unit % 2 == 0)
        ):
            layout, unit, dtype = "pairs", unit // 2, torch.int32
            views = (views[0].view(dtype), views[1].view(dtype), views[2].view(dtype))
        run = None
        if (
            not isinstance(chosen, mask.StoredMask)
            and (chosen is None or unselected == "freeze")
            and arithmetic_ == "fused"
            and form.rule in RULES
            and set(dtypes) <= set(DTYPES)
            and moments[0].numel() >= SMALLEST
        ):
            kind = Kind(form, layout, dtypes, param.device.type)
            if self._when != "kept" or self.kernels.has(kind):
                run = self._kernel(kind)
        noise = torch.zeros(2, dtype=torch.int64, device=param.device)
        return _Plan(run, options, units, unit, dtype, noise, integers, moments, views)

    def _kernel(self, kind: Kind) -> Run | None:
        try:
            return self.kernels[kind]
        except Exception as error:  # whatever a compiler or a damaged file may say
            if self._when == "always":
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            LOG.warning("no compiled optimizer step, going on without: %s", reason)
            self._when = "kept"
            return None


class _Step(nn.Module):
    """The graph of one kernel."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind = kind

    def forward(
        self,
        weights: Tensor,
        grad: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        new_weights: Tensor,
        new_exp_avg: Tensor,
        new_exp_avg_sq: Tensor,
        numbers: Tensor,
        seeds: Tensor,
        selected: Tensor,
    ) -> Tensor:
        """Write the new weights and moments; the number of spikes, int32."""
        form, sparse = self.kind.form, self.kind.layout == "entries"
        if self.kind.layout == "pairs":
            (w, w_), (g, g_), (m, m_), (v, v_) = map(
                pairs.halves, (weights, grad, exp_avg, exp_avg_sq)
            )
            low = arithmetic.updated(form.rule, form.decays, w, g, m, v, numbers, bitwise=True)
            high = arithmetic.updated(form.rule, form.decays, w_, g_, m_, v_, numbers, bitwise=True)
            new_weights.copy_(pairs.joined(low.weights, high.weights))
            new_exp_avg.copy_(pairs.joined(low.exp_avg, high.exp_avg))
            new_exp_avg_sq.copy_(pairs.joined(low.exp_avg_sq, high.exp_avg_sq))
            if low.spiked is None or high.spiked is None:
                return torch.zeros((), dtype=torch.int32)
            return (-low.spiked - high.spiked).sum(dtype=torch.int32)
        if sparse:
            strata = torch.arange(exp_avg.shape[0], device=exp_avg.device)
            positions = mask.unit_positions(strata, selected)
            weights, grad = weights[positions], grad[positions]
        new = arithmetic.updated(
            form.rule, form.decays, weights, grad, exp_avg, exp_avg_sq, numbers
        )
        noise: tuple[Tensor | None, ...] = (None, None, None)
        if form.rounding == "stochastic":
            noise = arithmetic.noises(0, exp_avg.numel(), seeds)
        rounded = arithmetic.rounded(new.weights, new_weights.dtype, noise[0])
        if sparse:
            new_weights.index_put_((positions,), rounded)
        else:
            new_weights.copy_(rounded)
        new_exp_avg.copy_(arithmetic.rounded(new.exp_avg, new_exp_avg.dtype, noise[1]))
        new_exp_avg_sq.copy_(arithmetic.rounded(new.exp_avg_sq, new_exp_avg_sq.dtype, noise[2]))
        # Summed last: only then does it join the pass that writes.
        if new.spiked is None:
            return torch.zeros((), dtype=torch.int32, device=numbers.device)
        return new.spiked.sum(dtype=torch.int32)


def _package(kind: Kind, path: Path) -> str:
    """Compile a kernel into the file `path`."""
    import torch._inductor  # takes a second, and only a compiling process needs it

    weights = torch.export.Dim("weights", min=2)
    shapes, dynamic = [1 << 20] * 2, [{0: weights}] * 2
    if kind.layout == "entries":
        shapes, dynamic = [1 << 20, 1 << 18], [{0: weights}, {0: torch.export.Dim("chosen", min=2)}]
    weight, grad, moment = (torch.int32,) * 3 if kind.layout == "pairs" else kind.dtypes
    example = [
        *(torch.zeros(shapes[0], dtype=dtype, device=kind.device) for dtype in (weight, grad)),
        *(torch.zeros(shapes[1], dtype=moment, device=kind.device) for _ in range(2)),
        torch.zeros(shapes[0], dtype=weight, device=kind.device),
        *(torch.zeros(shapes[1], dtype=moment, device=kind.device) for _ in range(2)),
        torch.zeros(len(arithmetic.NUMBERS), device=kind.device),
        torch.zeros(2, dtype=torch.int64, device=kind.device),
        torch.zeros(3, dtype=torch.int64, device=kind.device),
    ]
    which = [dynamic[0]] * 2 + [dynamic[1]] * 2 + [dynamic[0]] + [dynamic[1]] * 2
    with torch.no_grad():
        program = torch.export.export(
            _Step(kind), tuple(example), dynamic_shapes=(*which, {}, {}, {})
        )
    made: str = torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(path),
        inductor_configs={
            # A kernel may be used with another number of threads than it was compiled with.
            "cpp.dynamic_threads": True,
            # A fused multiply-add rounds once where the eager path rounds twice.
            "cpp.enable_floating_point_contract_flag": "off",
        },
    )
    return made


def _fingerprint(device: str) -> str:
    """What a compiled kernel depends on: our formula, torch, and the processor."""
    parts = [inspect.getsource(module) for module in (arithmetic, mask, pairs)]
    parts += [inspect.getsource(_Step), inspect.getsource(_package), torch.__version__]
    if device == "cuda":
        parts.append(torch.cuda.get_device_name())
    else:
        parts.append(_processor())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _processor() -> str:
    """The instructions that this processor has: the compiler uses all of them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    known = [line for line in lines if line.startswith(("flags", "Features"))]
    return known[0] if known else torch.backends.cpu.get_cpu_capability()
