"""The training loop of one run: batches in, metrics and checkpoints out.

Everything it does is a function of the config and of the last checkpoint, so a run that is killed
at any instant and started again ends with the weights, the optimizer state and the metrics of one
that was never killed. It stops at a step boundary when asked, with a checkpoint. A loss that is not
finite ends the run as diverged: a result, recorded with the step at which it happened.

Several ranks (`distributed`) train one run with the same global batches, and so the same numbers to
rounding: each computes its rows, all take every decision from what was reduced, rank 0 writes.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from spam_lab.config.schema import RunConfig
from spam_lab.models.quantized import quantize
from spam_lab.optim.clip import clip_gradients
from spam_lab.optim.registry import build_optimizer, prepare_model
from spam_lab.tasks.registry import TaskBatch, open_task
from spam_lab.train import checkpoint
from spam_lab.train.device import choose_device
from spam_lab.train.distributed import SOLO, World
from spam_lab.train.evaluate import evaluate
from spam_lab.train.journal import Journal, Silent, StepLog
from spam_lab.train.observer import Observer
from spam_lab.train.replica import choose_replica
from spam_lab.train.schedule import lr_factor
from spam_lab.train.timing import Stopwatch

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far the run is; told at every write of metrics."""

    step: int
    checkpoint_step: int
    loss: float | None
    tokens_per_second: float | None  # of a task that reads text
    seconds_per_step: float | None


@dataclass(frozen=True)
class Outcome:
    """How the loop ended. `stopped` means asked to; the run can go on from its checkpoint."""

    state: Literal["done", "diverged", "stopped"]
    step: int
    reason: str = ""


class Training:
    """One run in memory: model, optimizer, data and step, restored from the newest checkpoint.

    Args:
        config: the run.
        folder: where its checkpoints are kept.
        journal: where its metrics go.
        tell: called with the progress at every write of metrics.
        should_stop: asked after every step; True on any rank stops the run with a checkpoint.
        world: the ranks that train it together; `folder` is one that all of them share, while
            `journal` and `tell` are used on rank 0 alone.
        observations: where what is observed goes; None is a folder in `folder`.

    Raises:
        ConfigError: where several ranks cannot train this run.
        PeerLost: where another rank is lost, here or in `run`.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        journal: Journal,
        tell: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
        world: World = SOLO,
        observations: Path | None = None,
    ) -> None:
        self._config, self._folder, self._world = config, folder, world
        self._journal = journal if world.is_main else Silent()
        self._tell, self._should_stop = tell, should_stop
        with world.together("open its data and build its model"):
            self.device = choose_device(world.device or config.train.device)
            make, place = choose_replica(config, world, self.device)
            model = self._open(place)
        with world.guard():
            self._replica = make(model)
            self.model = self._replica.model
            named = self._replica.named()
            self.optimizer = build_optimizer(config.optimizer, named, config.seed)
            self._compile()
            seen = observations or folder / "observations"
            self._observer = Observer(config, named, seen, active=world.is_main)
            self._log = StepLog(self._replica.reduced)
            self._stopwatch = Stopwatch(self.device)
            self.step = 0
            self._checkpoint_step = 0
            self._clock = (0, time.perf_counter())
            self._restore()

    def _open(self, place: str) -> nn.Module:
        """Open the task, its model built at `place`, as method and precision want it."""
        config = self._config
        torch.manual_seed(config.seed)
        self._task = open_task(config, place)
        self._validation = [self._share(batch) for batch in self._task.validation]
        prepare_model(config.optimizer, self._task.model, config.seed)
        quantize(self._task.model, config.precision)
        return self._task.model

    def run(self) -> Outcome:
        """Train to the last step, to a stop or to divergence."""
        with self._world.guard():
            try:
                return self._run()
            finally:
                self._task.close()

    def _run(self) -> Outcome:
        steps, evaluation = self._config.schedule.steps, self._config.evaluation.every
        every, save_every = self._config.train.log_every, self._config.train.checkpoint_every
        self._clock = (self.step, time.perf_counter())
        while self.step < steps:
            with self._stopwatch.measure("train/step_seconds"):
                self._update()
            due = self.step % evaluation == 0 or self.step == steps
            saving = self.step % save_every == 0 or self.step == steps
            stopping = self._world.any(self._should_stop())
            if due or saving or stopping or self.step % every == 0:
                diverged = self._write() or (self._evaluate() if due else None)
                if diverged:
                    return self._diverged(*diverged)
            if saving or stopping:
                self._save()
            if stopping and self.step < steps:
                return Outcome("stopped", self.step)
        if self._world.is_main:
            checkpoint.prune(self._folder, kept=1)
        return Outcome("done", self.step)

    def _update(self) -> None:
        """One optimizer step over one global batch, this rank's rows of it in micro-batches."""
        config, replica = self._config, self._replica
        batch = self._task.next_batch()
        size = config.train.micro_batch_size or config.batch_size
        total = torch.zeros((), device=self.device)
        parts = self._share(batch).split(size)
        for number, part in enumerate(parts, start=1):
            with replica.backward_of(last=number == len(parts)):
                with self._autocast():
                    loss = self._task.loss(replica.module, part.to(self.device))
                loss = loss / max(1, batch.weight)
                torch.autograd.backward(loss, replica.seed)
            total += loss.detach()
        grad_norm = replica.grad_norm()
        self._observer.before_update(self.step + 1, self.optimizer, grad_norm)
        clip_gradients(replica.parameters, config.optimizer.clip_value, config.optimizer.clip_norm)
        lr = config.optimizer.lr * lr_factor(self.step + 1, config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_ratio", 1.0)
        with self._stopwatch.measure("train/optimizer_seconds"):
            replica.step(self.optimizer)
        replica.zero_grad(self.optimizer)
        self.step += 1
        self._task.updated(self.step)
        self._observer.after_update(self.step, self.optimizer)
        telemetry = getattr(self.optimizer, "telemetry", None)
        self._log.add(self.step, total, grad_norm, {"train/lr": lr}, telemetry)

    def _write(self) -> tuple[int, float] | None:
        """Write metrics and tell the progress; return the first step that diverged, if any."""
        diverged = self._log.write(self._journal)
        before, then = self._clock
        now = time.perf_counter()
        if self.step > before:
            seconds = (now - then) / (self.step - before)
            unit = self._task.unit
            speed = self._task.units_per_step / seconds
            clocked = {f"train/{unit}_per_second": speed, **self._stopwatch.means()}
            if not diverged:
                self._journal.add(self.step, clocked)
            self._journal.flush()
            self._clock = (self.step, now)
            tokens = speed if unit == "tokens" else None
            self._report(
                Progress(self.step, self._checkpoint_step, self._log.last_loss, tokens, seconds)
            )
        return diverged

    def _evaluate(self) -> tuple[int, float] | None:
        autocast = self._autocast()
        values = evaluate(
            self._task, self.model, self._validation, self.device, autocast, self._world
        )
        self._replica.evaluated()
        self._journal.add(self.step, values)
        self._clock = (self.step, time.perf_counter())
        broken = [value for value in values.values() if not math.isfinite(value)]
        return (self.step, broken[0]) if broken else None

    def _diverged(self, step: int, loss: float) -> Outcome:
        self._journal.flush(durable=True)
        self._observer.close("the run diverged")
        reason = f"the loss became {loss} at step {step} of {self._config.schedule.steps}"
        return Outcome("diverged", step, reason)

    def _save(self) -> None:
        """A checkpoint of this step. Metrics reach the disk first, so none is missing under it."""
        self._journal.flush(durable=True)
        self._observer.write()
        content: dict[str, Any] = {
            **self._replica.state(self.optimizer),
            "data": self._task.state_dict(),
            "clipped_total": self._log.clipped_total,
            "random": torch.get_rng_state(),
            **self._observer.state_dict(),
        }
        if self.device.type == "cuda":
            content["random_cuda"] = torch.cuda.get_rng_state(self.device)
        if self._world.is_main:
            checkpoint.save(self._folder, self.step, content, self._config.train.checkpoints_kept)
        self._checkpoint_step = self.step
        self._clock = (self.step, time.perf_counter())
        self._report(Progress(self.step, self.step, self._log.last_loss, None, None))

    def _restore(self) -> None:
        newest = checkpoint.load_newest(self._folder) if self._world.is_main else None
        # Rank 0's choice counts: another machine may not see its newest file yet.
        step: int | None = self._world.from_main(newest and newest[0])
        if step is None:
            return
        content = newest[1] if newest else checkpoint.load(self._folder, step)
        self.step = self._checkpoint_step = step
        self._replica.load_state(content, self.optimizer)
        self._task.load_state_dict(content["data"])
        self._log.clipped_total = content["clipped_total"]
        self._observer.load_state_dict(content)
        torch.set_rng_state(content["random"])
        if "random_cuda" in content and self.device.type == "cuda":
            torch.cuda.set_rng_state(content["random_cuda"], self.device)
        LOG.info("going on from step %d", self.step)

    def _compile(self) -> None:
        """Let the optimizer step through compiled kernels, if it can; auto takes those at hand."""
        mode = self._config.train.compile
        compile_steps = getattr(self.optimizer, "compile", None)
        if compile_steps is None or mode == "never":
            return
        folder = Path(self._config.paths.cache) / "kernels"
        compile_steps(folder, when="kept" if mode == "auto" else mode)

    def _report(self, progress: Progress) -> None:
        if self._world.is_main:
            self._tell(progress)

    def _share(self, batch: TaskBatch) -> TaskBatch:
        return batch.share(self._world.rank, self._world.size)

    def _autocast(self) -> AbstractContextManager[object]:
        if not self._config.precision.autocast:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)
