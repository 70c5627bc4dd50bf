"""A calibration: seconds a training step takes on this computer, from a few real steps.

It trains on random tokens with a small batch and scales to the whole one. A model of more than
`CALIBRATED_PARAMETERS` weights is timed with fewer layers and scaled by its share of the weights.
torch and transformers are imported only here, and only when something must be measured.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from spam_lab.config.schema import ModelConfig, RunConfig

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

CALIBRATED_PARAMETERS = 100e6
CALIBRATED_TOKENS = 1024
CALIBRATED_STEPS = 4


def calibrate(config: RunConfig) -> float:
    """Seconds a step, from a few steps on a small batch of random tokens on this computer."""
    if not config.pretrains:
        return _timed_task(config)
    model, ratio = _calibrated_model(config.model)
    tokens = config.data.batch_size * config.data.sequence_length
    rows = max(1, min(config.data.batch_size, CALIBRATED_TOKENS // config.data.sequence_length))
    small = dataclasses.replace(config, model=model)
    share = tokens / (rows * config.data.sequence_length)
    return _timed_step(small, rows) * ratio * share


def has_gpu(config: RunConfig) -> bool:
    """Whether the run would train on a GPU of this computer."""
    import torch

    return config.train.device != "cpu" and torch.cuda.is_available()


def parameter_count(model: ModelConfig) -> int:
    """Weights of the model, counted once a process for each architecture, nothing allocated."""
    key = repr(model)
    if key not in _COUNTS:
        from spam_lab.models.build import parameter_count as count

        _COUNTS[key] = count(model)
    return _COUNTS[key]


_COUNTS: dict[str, int] = {}


def _calibrated_model(model: ModelConfig) -> tuple[ModelConfig, float]:
    """The model itself, or a shallower one and how much more work the whole one is."""
    whole = parameter_count(model)
    if whole <= CALIBRATED_PARAMETERS:
        return model, 1.0
    layers = max(1, int(model.num_hidden_layers * CALIBRATED_PARAMETERS / whole))
    shallow = dataclasses.replace(model, num_hidden_layers=layers)
    return shallow, whole / parameter_count(shallow)


def _timed_step(config: RunConfig, rows: int) -> float:
    """Seconds of a step of pre-training on `rows` rows of random tokens."""
    import torch

    from spam_lab.data.rows import Batch
    from spam_lab.models.build import build_model
    from spam_lab.models.loss import token_losses
    from spam_lab.train.device import choose_device

    device = choose_device(config.train.device)
    length = config.data.sequence_length
    model = build_model(
        config.model,
        sequence_length=length,
        seed=0,
        dtype=getattr(torch, config.precision.weights),
        device=device,
        stabilizer=config.stabilizer,
    )
    tokens = torch.randint(config.model.vocab_size, (rows, length), device=device)
    batch = Batch(tokens, tokens)
    return _timed(config, model, lambda: token_losses(model, batch)[0] / batch.weight)


def _timed_task(config: RunConfig) -> float:
    """Seconds of a step of any other task, on its own batches."""
    from spam_lab.tasks.registry import open_task
    from spam_lab.train.device import choose_device

    device = choose_device(config.train.device)
    task = open_task(config, str(device))

    def loss() -> Tensor:
        batch = task.next_batch()
        return task.loss(task.model, batch.to(device)) / batch.weight

    try:
        return _timed(config, task.model, loss, getattr(task, "cycle", 1))
    finally:
        task.close()


def _timed(
    config: RunConfig, model: Module, mean_loss: Callable[[], Tensor], cycle: int = 1
) -> float:
    """Seconds of a step with the run's optimizer: the fastest of a few, or a cycle's mean."""
    import torch

    from spam_lab.models.kinds import named_kinds
    from spam_lab.models.quantized import quantize
    from spam_lab.optim.registry import build_optimizer, prepare_model

    threads = torch.get_num_threads()
    torch.set_num_threads(config.cluster.threads)
    try:
        prepare_model(config.optimizer, model, 0)
        quantize(model, config.precision)
        optimizer = build_optimizer(config.optimizer, named_kinds(model), 0)
        times = []
        for _ in range(CALIBRATED_STEPS if cycle == 1 else cycle):
            start = time.perf_counter()
            loss = mean_loss()
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss.item()
            times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return min(times) if cycle == 1 else sum(times) / cycle
