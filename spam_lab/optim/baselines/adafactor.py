"""Adafactor: transformers' own, made to keep what every optimizer of this lab promises.

This module owns nothing of Adafactor's arithmetic. It promises closures that are called with
gradients enabled (transformers calls them without), refusals of sparse gradients before anything
is changed and of complex parameters, and float32 states of bfloat16 weights that come back bit
for bit.
"""

from __future__ import annotations

from transformers.optimization import Adafactor as TransformersAdafactor

from spam_lab.optim.base import LabOptimizer


class Adafactor(LabOptimizer, TransformersAdafactor):
    """transformers' Adafactor (Shazeer and Stern 2018, Algorithms 4 and 5).

    With `relative_step=False` and `scale_parameter=False`, for a matrix, at the step t = 1, 2, ...:

        beta2_t = 1 - t^decay_rate
        a  = g^2 + eps1
        r := beta2_t r + (1 - beta2_t) mean of a over columns
        c := beta2_t c + (1 - beta2_t) mean of a over rows
        u  = g / sqrt((r / mean(r)) c^T)
        u := lr u / max(1, RMS(u) / clip_threshold)
        m := beta1 m + (1 - beta1) u, and u := m    (unless beta1 is None)
        w := w - lr weight_decay w,  then  w := w - u

    A vector keeps the whole second moment. Gradients of bfloat16 weights are taken to float32, the
    states are float32, and the weights are rounded once. An empty matrix gets states that are not
    finite, which nothing reads.

    Raises:
        RuntimeError: for sparse gradients and complex parameters.
    """

    def update_all(self) -> None:
        """transformers' step."""
        TransformersAdafactor.step(self)  # type: ignore[no-untyped-call]
