"""The questions, as code: one file an exhibit, each with one function `sweep() -> Sweep`.

Here stands what the exhibits on gradient spikes ask alike, so that they share their runs: the first
1000 steps of Adam (paper, Section 2.1), with every gradient observed. All of them lie in the
learning rate's warm-up, which the paper's 1000 steps and ours do. Their number is the same at every
scale: a score above 50 means something else over fewer steps (it cannot exceed their number).
"""

from collections.abc import Mapping

from spam_lab.orchestrate.grid import Cell, Value

OBSERVED_STEPS = 1000

OBSERVED: Mapping[str, Value] = {
    "optimizer": "adam",
    "observe": "thousand_steps",
    "schedule.steps": OBSERVED_STEPS,
    "schedule.warmup_steps": OBSERVED_STEPS,
    "evaluation.every": OBSERVED_STEPS,
}

SECOND_CORPUS: Mapping[str, Value] = {
    "data": "slimpajama",
    "data.hub_name": "cerebras/SlimPajama-627B",
    "data.hub_subset": None,
    "data.files": "${oc.env:SPAM_LAB_SLIMPAJAMA,null}",
    "data.validation_files": "${oc.env:SPAM_LAB_SLIMPAJAMA_VALIDATION,null}",
}
"""SlimPajama, whatever mirror of C4 the command line names; the environment may name one of it."""


def observed(model: str) -> Cell:
    """The observed steps of `model`, on the command line's corpus."""
    return Cell({"panel": model, "value": "adam"}, {"model": model, **OBSERVED})


def observed_on_slimpajama(model: str) -> Cell:
    """The same on SlimPajama, beside C4: neither text is shipped, both can be streamed."""
    overrides = {"model": model, **OBSERVED, **SECOND_CORPUS}
    return Cell({"panel": model, "value": "slimpajama"}, overrides, beside={"data": "c4"})
