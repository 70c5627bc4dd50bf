"""The loss as a smooth function of the searched keys: a Gaussian process fitted to complete trials.

Matérn 5/2 kernel with a length for each key, on the axes that were searched (logarithmic where the
search was); two categories are one length apart. Lengths, size and noise maximise the posterior
under weak priors. It promises to be the same for the same trials, and is a fit: intervals take its
kernel for granted and know nothing of other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from analysis.trials import Axis, Record

Floats = np.ndarray[Any, np.dtype[np.float64]]

LEAST = 8
"""Fewer complete trials are not fitted; nor are fewer than four a key."""
MOST_FITTED = 300
"""Of more trials, about so many, evenly spread, settle the lengths; all are predicted from."""
Z = 1.959963984540054
"""Half-width of a 95 % interval in standard deviations."""

METHOD = (
    "A Gaussian process (Matérn 5/2, a length for each key, noise fitted too) through the complete "
    "trials, on the axes that were searched"
)


@dataclass(frozen=True)
class Prediction:
    """A mean with the half-width of its 95 % interval."""

    mean: float
    half_width: float


class Surface:
    """The fitted process. Made by `fit`."""

    def __init__(self, axes: Sequence[Axis], points: Sequence[Mapping[str, Any]], y: Floats):
        self.axes = list(axes)
        self._x = self._encoded(points)
        self._center, self._spread = float(y.mean()), float(y.std()) or 1.0
        scaled = (y - self._center) / self._spread
        step = max(1, math.ceil(len(y) / MOST_FITTED))
        self._parameters = self._fitted(self._x[::step], scaled[::step])
        self._factor = cho_factor(self._covariance(self._parameters, self._x), lower=True)
        self._weights: Floats = cho_solve(self._factor, scaled)

    @property
    def noise(self) -> float:
        """The standard deviation of trials around the surface, in nats."""
        return float(math.exp(self._parameters[-1] / 2)) * self._spread

    def mean(self, points: Sequence[Mapping[str, Any]]) -> Floats:
        """The surface at these points."""
        mean, _ = self._posterior(points)
        return mean

    def band(self, points: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats]:
        """The surface at these points, and the half-width of its 95 % interval."""
        mean, covariance = self._posterior(points)
        half: Floats = Z * np.sqrt(np.clip(np.diag(covariance), 0, None))
        return mean, half

    def of_a_run(self, point: Mapping[str, Any]) -> Prediction:
        """What a run at this point would come to, the trials' scatter included."""
        mean, covariance = self._posterior([point])
        half = Z * math.sqrt(max(float(covariance[0, 0]), 0) + self.noise**2)
        return Prediction(float(mean[0]), half)

    def difference(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> Prediction:
        """How much higher the surface is at `one` than at `other`."""
        mean, covariance = self._posterior([one, other])
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        return Prediction(float(mean[0] - mean[1]), Z * math.sqrt(max(float(variance), 0)))

    def _encoded(self, points: Sequence[Mapping[str, Any]]) -> Floats:
        """A row a point: a number's place on its axis, a category's number."""
        rows = [
            [
                axis.place(point[axis.key])
                if axis.is_number
                else float(axis.choices.index(point[axis.key]))
                for axis in self.axes
            ]
            for point in points
        ]
        return np.asarray(rows, dtype=np.float64)

    def _kernel(self, parameters: Floats, one: Floats, other: Floats) -> Floats:
        squares = np.zeros((len(one), len(other)))
        for i, axis in enumerate(self.axes):
            gap = one[:, i][:, None] - other[:, i][None, :]
            apart = gap**2 if axis.is_number else (gap != 0).astype(np.float64)
            squares += apart * math.exp(-2 * parameters[i])
        r = np.sqrt(5 * squares)
        result: Floats = math.exp(parameters[-2]) * (1 + r + r**2 / 3) * np.exp(-r)
        return result

    def _covariance(self, parameters: Floats, x: Floats) -> Floats:
        noise = math.exp(parameters[-1]) + 1e-8
        result: Floats = self._kernel(parameters, x, x) + noise * np.eye(len(x))
        return result

    def _fitted(self, x: Floats, y: Floats) -> Floats:
        """Log lengths, log variance of the signal, log variance of the noise."""
        count = len(self.axes)
        center = np.asarray([math.log(0.5)] * count + [0.0, math.log(0.01)])
        spread = np.asarray([1.0] * count + [1.0, 2.0])

        def cost(parameters: Floats) -> float:
            try:
                factor = cho_factor(self._covariance(parameters, x), lower=True)
            except np.linalg.LinAlgError:
                return 1e10
            fit = 0.5 * float(y @ cho_solve(factor, y)) + float(np.log(np.diag(factor[0])).sum())
            return fit + 0.5 * float((((parameters - center) / spread) ** 2).sum())

        bounds = [(math.log(0.03), math.log(10.0))] * count + [(-4.0, 5.0), (-14.0, 1.0)]
        starts = [center, center + 0.8, center - 0.8]
        found = [minimize(cost, start, method="L-BFGS-B", bounds=bounds) for start in starts]
        best = min(found, key=lambda result: float(result.fun))
        return np.asarray(best.x, dtype=np.float64)

    def _posterior(self, points: Sequence[Mapping[str, Any]]) -> tuple[Floats, Floats]:
        x = self._encoded(points)
        across = self._kernel(self._parameters, x, self._x)
        covariance = self._kernel(self._parameters, x, x) - across @ cho_solve(
            self._factor, across.T
        )
        return across @ self._weights * self._spread + self._center, covariance * self._spread**2


def fit(record: Record) -> Surface | None:
    """The surface over all keys without a condition; None where there are too few trials."""
    axes = [axis for axis in record.axes if not axis.is_conditional]
    trials = record.complete
    values = np.asarray([record.value(trial) for trial in trials], dtype=np.float64)
    if not axes or len(trials) < max(LEAST, 4 * len(axes)):
        return None
    return Surface(axes, [trial.point for trial in trials], values)


def why_none(record: Record) -> str:
    """Why there is no surface, in a sentence."""
    needed = max(LEAST, 4 * sum(not axis.is_conditional for axis in record.axes))
    count = len(record.complete)
    if count < needed:
        return f"{count} complete trials are too few for a surface: it takes {needed}."
    return "Every searched key has a condition: there is no surface over all trials."
