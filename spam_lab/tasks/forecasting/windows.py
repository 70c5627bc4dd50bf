"""Windows of a series as batches: which ones a step trains on, and what anomalies do to them.

It promises that batches and anomalies are a function of data_seed and the step alone: two
optimizers with one seed see the same numbers, and so does a run that was killed and goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spam_lab.data.order import EpochOrder, random_state
from spam_lab.data.state import matching
from spam_lab.tasks.forecasting.series import Series, Values

if TYPE_CHECKING:
    from spam_lab.tasks.forecasting import ForecastingConfig

_ANOMALIES = 1
"""Sets the random numbers of anomalies apart from those of the order, at the same data_seed."""

_DECIDING = (
    "batch_size",
    "context_length",
    "horizon",
    "sentinels",
    "anomalies",
    "anomaly_share",
    "severity",
    "maximum",
)
"""Keys that decide the batches."""

_EVALUATED_TOGETHER = 128
"""Windows a forward pass of an evaluation."""


@dataclass(frozen=True)
class Windows:
    """What is seen, `past` [B, L, C], and what follows, `future` [B, H, C].

    `counted` [B] is 1 for each window, and 0 for one that only evens out the ranks.
    """

    past: Tensor
    future: Tensor
    counted: Tensor

    @classmethod
    def of(cls, past: Tensor, future: Tensor) -> Windows:
        """Windows that all count."""
        return cls(past, future, torch.ones(len(past)))

    @property
    def weight(self) -> int:
        """How many windows count."""
        return int(self.counted.sum())

    def to(self, device: torch.device | str) -> Windows:
        """The same windows on `device`."""
        return Windows(self.past.to(device), self.future.to(device), self.counted.to(device))

    def split(self, size: int) -> list[Windows]:
        """Batches of `size` windows, in order; the last one may have fewer."""
        return [
            Windows(self.past[i : i + size], self.future[i : i + size], self.counted[i : i + size])
            for i in range(0, len(self.past), size)
        ]

    def share(self, rank: int, size: int) -> Windows:
        """The windows of one of `size` ranks; where they do not divide, some get one that is 0."""
        each = -(-len(self.past) // size)
        rows = torch.arange(rank * each, (rank + 1) * each)
        inside = rows < len(self.past)
        rows = rows.clamp(max=len(self.past) - 1)
        return Windows(self.past[rows], self.future[rows], self.counted[rows] * inside)


class Anomalies:
    """X + N(0, severity * max X) at randomly chosen values (Figure 7's caption)."""

    def __init__(self, config: ForecastingConfig, series: Series, data_seed: int) -> None:
        self._config = config
        self._data_seed = data_seed
        training = series.values[: series.validation]
        largest = training.max(0) if config.maximum == "channel" else training.max()
        self._deviation = config.severity * np.broadcast_to(largest, training.shape[1:])

    def spoiled_series(self, values: Values) -> Values:
        """The training part [T, C] as training sees it."""
        if self._config.anomalies != "series":
            return values
        return self._spoiled(values, random_state(self._data_seed, _ANOMALIES, 0))

    def spoiled_inputs(self, past: NDArray[Any], step: int) -> NDArray[Any]:
        """The inputs [B, L, C] of a step (from 0) as training sees them."""
        if self._config.anomalies == "series":
            return past
        random = random_state(self._data_seed, _ANOMALIES, step)
        if self._config.anomalies == "inputs":
            return self._spoiled(past, random)
        if random.random_sample() >= self._config.anomaly_share:
            return past
        return past + self._deviation * random.standard_normal(past.shape)

    def _spoiled(self, values: NDArray[Any], random: np.random.RandomState) -> NDArray[Any]:
        chosen = random.random_sample(values.shape) < self._config.anomaly_share
        noise = np.zeros(values.shape)
        noise[chosen] = random.standard_normal(int(chosen.sum()))
        return values + noise * self._deviation


class TrainingWindows:
    """An endless sequence of batches of the training part, each epoch in its own order."""

    def __init__(self, config: ForecastingConfig, series: Series, data_seed: int) -> None:
        assert config.batch_size is not None
        context, horizon = config.context_length, config.horizon
        starts = series.window_starts("train", context, horizon)
        self._anomalies = Anomalies(config, series, data_seed)
        spoiled = self._anomalies.spoiled_series(series.values[: series.validation])
        self._windows = _windows(spoiled, context + horizon)
        self._context, self._batch_size = context, config.batch_size
        self._order = EpochOrder(len(starts), data_seed)
        self._step = 0
        self._identity = {
            "sha256": series.sha256,
            "data_seed": data_seed,
            **{key: getattr(config, key) for key in _DECIDING},
        }

    def next_batch(self) -> Windows:
        """The windows of the next step."""
        rows = self._windows[self._order.batch(self._step, self._batch_size)]
        past, future = rows[:, : self._context], rows[:, self._context :]
        past = self._anomalies.spoiled_inputs(past, self._step)
        self._step += 1
        return Windows.of(_tensor(past), _tensor(future))

    def state_dict(self) -> dict[str, Any]:
        """The step, and the data that it is a step in."""
        return {"data": self._identity, "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`. DataError if it is of other data."""
        self._step = matching(state, self._identity)["step"]


def evaluation_windows(config: ForecastingConfig, series: Series) -> Sequence[Windows]:
    """The clean windows of the part that is evaluated on; all of them share the series' memory."""
    context, horizon = config.context_length, config.horizon
    starts = np.array(series.window_starts(config.evaluate_on, context, horizon))
    windows = _windows(series.values.astype(np.float32), context + horizon)
    limit = config.evaluated_windows
    if limit is None or limit >= len(starts):
        chosen = windows[starts[0] : starts[-1] + 1]
    else:
        chosen = windows[starts[np.linspace(0, len(starts) - 1, limit).round().astype(int)]]
    both = torch.from_numpy(chosen)
    return Windows.of(both[:, :context], both[:, context:]).split(_EVALUATED_TOGETHER)


def _windows(values: NDArray[Any], length: int) -> NDArray[Any]:
    """A view [T - length + 1, length, C] of all windows of `values` [T, C]."""
    # torch warns of memory that cannot be written to, although nothing here writes.
    view = np.lib.stride_tricks.sliding_window_view(values, length, axis=0, writeable=True)
    return view.transpose(0, 2, 1)


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
