"""Training in 4 and in 8 bits: does SPAM help there too? (named in the abstract on arXiv)

SPAM's abstract and the README of its code claim it for 4-bit pre-training (A4W4 and A8W8) and give
no number and no code; Stable-SPAM (arXiv 2502.17055), of the same authors, asks the question again.
Weights and activations of the blocks' linear layers are fake-quantised (spam_lab/models/quantized),
on the number format that the command line chooses: float32 at nano, `precision=bf16` in the paper.
The panel `x4` is LLaMA-60M at four times its learning rate: few bits are said to make that matter
more. Runs in full precision are those of other sweeps.
"""

from spam_lab.orchestrate.grid import Cell, Sweep, Value

METHODS = ("adam", "spam", "stable_spam")
MODELS = ("llama_60m", "llama_130m")
FULL = "full"

BITS: dict[str, dict[str, Value]] = {
    FULL: {},
    "a8w8": {
        "precision.name": "a8w8",
        "precision.weight_bits": 8,
        "precision.activation_bits": 8,
    },
    "a4w4": {
        "precision.name": "a4w4",
        "precision.weight_bits": 4,
        "precision.activation_bits": 4,
    },
}
"""What each precision sets; the dtype of the weights is left to the command line."""

HIGH_RATE = "x4"
FOUR_TIMES: dict[str, Value] = {"model": "llama_60m", "optimizer.lr": "${scaled:lr,4.0e-3}"}
"""All three methods have 1e-3 on LLaMA-60M."""


def level(method: str, bits: str) -> str:
    """The label of one method in one precision."""
    return f"{method}/{bits}"


def sweep() -> Sweep:
    """Three methods in three precisions on two sizes, and at a high rate in two; paired seeds."""
    cells = [
        _cell(model, m, bits, {"model": model})
        for model in MODELS
        for m in METHODS
        for bits in BITS
    ]
    cells += [_cell(HIGH_RATE, m, bits, FOUR_TIMES) for m in METHODS for bits in (FULL, "a4w4")]
    return Sweep(
        name="quantization",
        description="Do SPAM and Stable-SPAM beat Adam in 4-bit and 8-bit training?",
        cells=tuple(cells),
        seeds=(0, 1, 2),
    )


def _cell(panel: str, method: str, bits: str, own: dict[str, Value]) -> Cell:
    labels: dict[str, Value] = {"panel": panel, "value": level(method, bits)}
    return Cell(labels, {**own, "optimizer": method, **BITS[bits]})
