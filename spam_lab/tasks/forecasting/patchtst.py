"""PatchTST of transformers as a task: its sizes, its squared error, and how it is judged.

It promises the architecture of PatchTST's own script where transformers can express it: learned
positions, norms after the blocks, a head on all patches, and each window normalised by its own mean
and deviation. transformers has no padding of the last patch: 41 patches of 336 steps, not 42.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from spam_lab.config.fields import ConfigError
from spam_lab.config.schema import RunConfig
from spam_lab.tasks.forecasting import ForecastingConfig
from spam_lab.tasks.forecasting.series import open_series
from spam_lab.tasks.forecasting.windows import TrainingWindows, Windows, evaluation_windows

if TYPE_CHECKING:
    from spam_lab.tasks.registry import TaskBatch


class Forecasting:
    """One PatchTST and the windows that it is trained and judged on."""

    def __init__(self, config: RunConfig, place: str) -> None:
        """Raises ConfigError where several ranks would change the numbers."""
        settings = config.task
        assert isinstance(settings, ForecastingConfig) and settings.batch_size is not None
        if torch.distributed.is_initialized() and settings.depends_on_batch:
            raise ConfigError(
                "several processes would each normalise and drop over their own windows: take one "
                "process, or task.norm=layernorm and task.dropout=0"
            )
        series = open_series(settings)
        self._windows = TrainingWindows(settings, series, config.data_seed)
        self.validation: Sequence[TaskBatch] = evaluation_windows(settings, series)
        self._dtype = getattr(torch, config.precision.weights)
        model = _model(settings, series.values.shape[1], config.seed)
        self.model: nn.Module = nn.Module.to(model, device=place, dtype=self._dtype).train()
        self.unit = "windows"
        self.units_per_step = settings.batch_size
        self.next_batch = self._windows.next_batch
        self.state_dict = self._windows.state_dict
        self.load_state_dict = self._windows.load_state_dict

    def loss(self, module: nn.Module, batch: TaskBatch) -> Tensor:
        """The sum over windows of their mean squared error."""
        return self._errors(module, batch).square().mean((1, 2)).sum()

    def score(self, model: nn.Module, batch: TaskBatch) -> Tensor:
        """The sums over windows of their mean squared and mean absolute error, and how many."""
        errors = self._errors(model, batch).double()
        counted = cast(Windows, batch).counted.double().sum()
        return torch.stack(
            [errors.square().mean((1, 2)).sum(), errors.abs().mean((1, 2)).sum(), counted]
        )

    def summary(self, totals: Sequence[float]) -> dict[str, float]:
        """Mean squared error (what is trained) and mean absolute error, of standardised values."""
        squared, absolute, windows = totals
        return {"validation/loss": squared / windows, "validation/mae": absolute / windows}

    def updated(self, step: int) -> None:
        """Nothing is kept of a step."""

    def close(self) -> None:
        """Nothing reads ahead."""

    def _errors(self, module: nn.Module, batch: TaskBatch) -> Tensor:
        """Forecast minus truth, float32 [B, H, C]; 0 for windows that do not count."""
        windows = cast(Windows, batch)
        forecast: Tensor = module(past_values=windows.past.to(self._dtype)).prediction_outputs
        return (forecast.float() - windows.future) * windows.counted[:, None, None]


def _model(settings: ForecastingConfig, channels: int, seed: int) -> Any:
    """A freshly initialised PatchTST; its weights are a function of `seed` alone."""
    from transformers import PatchTSTConfig, PatchTSTForPrediction

    config = PatchTSTConfig(
        num_input_channels=channels,
        context_length=settings.context_length,
        prediction_length=settings.horizon,
        patch_length=settings.patch_length,
        patch_stride=settings.patch_stride,
        d_model=settings.width,
        ffn_dim=settings.inner_width,
        num_attention_heads=settings.heads,
        num_hidden_layers=settings.layers,
        norm_type=settings.norm,
        positional_dropout=settings.dropout,
        ff_dropout=settings.dropout,
        path_dropout=settings.dropout,
        pre_norm=False,
        positional_encoding_type="random",
        pooling_type=None,
        scaling="std",
        loss="mse",
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return PatchTSTForPrediction(config)
