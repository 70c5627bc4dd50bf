"""The mechanism: which part of SPAM does its work? A question of this laboratory, not of the paper.

SPAM as published changes several things at once against the Adam it is compared with: it resets the
moments, which in pure bfloat16 also undoes a second moment that rounding keeps from falling; its
bias correction is not restarted at a reset, which multiplies its learning rate; and it clips. Here
each is switched alone and with the others, on LLaMA-60M in pure bfloat16 as in the paper:

    moments in bfloat16 | float32
    no reset | reset with a running bias correction | reset with a restarted one
    clipping | none

Without a reset the two corrections are one optimizer, so that the bias correction is a factor among
cells with resets alone. All of it is asked twice: with beta2 as a scale maps it, which keeps the
paper's ratio of the second moment's memory to the reset interval, and with beta2 = 0.999 as
printed, at which a bfloat16 second moment cannot fall (at 0.99 it can). At scale `paper` the two
are the same runs. Beside the factorial stand Adam in both formats, with norm clip, with
beta2 = 0.95 and with SPAM's saw-tooth on its learning rate, SPAM's reference code, and the key
cells at half and twice the learning rate, at which any of them might be better.
"""

from __future__ import annotations

from itertools import product

from spam_lab.orchestrate.grid import Cell, Sweep, Value

STATES = ("bf16", "fp32")
RESETS = ("none", "running", "restarted")
CLIPS = ("unclipped", "clip")

BETA2: dict[str, Value] = {"mapped": "${scaled:decay,0.999}", "printed": 0.999}
"""Panel -> beta2 of its factorial."""

MODEL: dict[str, Value] = {"model": "llama_60m", "precision": "bf16"}

CONTROLS: dict[str, dict[str, Value]] = {
    "adam": {"optimizer": "adam"},
    "adam_fp32_states": {"optimizer": "adam_fp32_states"},
    "adam_norm_clip": {"optimizer": "adam_norm_clip"},
    "adam_beta2_0.95": {"optimizer": "adam", "optimizer.beta2": 0.95},
    "adam_sawtooth": {"optimizer": "adam_sawtooth"},
    "spam": {"optimizer": "spam"},
    "spam_reference": {"optimizer": "spam_reference"},
    "spam_reference_beta2_0.999": {"optimizer": "spam_reference", "optimizer.beta2": 0.999},
}
"""Adam's variants, SPAM as the paper has it (a cell of the factorial) and as its code computes."""

RATES = {"x0.5": 5.0e-4, "x2": 2.0e-3}
"""Half and twice the paper's 1e-3, which is the learning rate of Adam and SPAM on LLaMA-60M."""
AT_OTHER_RATES = ("adam", "adam_fp32_states", "adam_sawtooth", "spam")


def level(states: str, reset: str, clip: str) -> str:
    """The label of one combination of the factorial."""
    return f"{states}/{reset}/{clip}"


def sweep() -> Sweep:
    """Two factorials of twelve cells, the controls, and key cells at other rates; paired seeds."""
    cells = [*_factorial("mapped")]
    cells += [
        Cell({"panel": "controls", "value": name}, {**MODEL, **own})
        for name, own in CONTROLS.items()
    ]
    cells += _factorial("printed")
    cells += [
        Cell(
            {"panel": rate, "value": name},
            {**MODEL, **CONTROLS[name], "optimizer.lr": f"${{scaled:lr,{value}}}"},
        )
        for rate, value in RATES.items()
        for name in AT_OTHER_RATES
    ]
    return Sweep(
        name="mechanism",
        description="Which part of SPAM does the work: number format, reset, step size or clip?",
        cells=tuple(cells),
        seeds=(0, 1, 2),
    )


def _factorial(family: str) -> list[Cell]:
    return [
        Cell(
            {"panel": family, "value": level(states, reset, clip)},
            {
                **MODEL,
                "optimizer": "spam",
                "optimizer.beta2": BETA2[family],
                **_switches(states, reset, clip),
            },
        )
        for states, reset, clip in product(STATES, RESETS, CLIPS)
    ]


def _switches(states: str, reset: str, clip: str) -> dict[str, Value]:
    """The overrides of one combination; the paper's own has none."""
    found: dict[str, Value] = {}
    if states == "fp32":
        found["optimizer.state_dtype"] = "float32"
    if reset == "none":
        found |= {"optimizer.delta_t": None, "optimizer.warmup_steps": 0}
    elif reset == "restarted":
        found["optimizer.bias_correction"] = "restarted"
    if clip == "unclipped":
        found["optimizer.spike_rule"] = "none"
    return found
