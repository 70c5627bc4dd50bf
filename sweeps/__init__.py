"""The questions, as code: one file an exhibit, each with one function `sweep() -> Sweep`.

Here stands what several exhibits ask alike. Those on gradient spikes share their runs: the first
1000 steps of Adam (paper, Section 2.1), with every gradient observed. All of them lie in the
learning rate's warm-up, which the paper's 1000 steps and ours do. Their number is the same at every
scale: a score above 50 means something else over fewer steps (it cannot exceed their number).
"""

from collections.abc import Mapping, Sequence

from spam_lab.orchestrate.grid import Cell, Value, panel

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


def observed_across_corpora() -> tuple[Cell, ...]:
    """Two architectures, and the second corpus for one of them (Figure 3 and Table 5)."""
    return observed("llama_60m"), observed_on_slimpajama("llama_60m"), observed("pythia_70m")


def spike_rules(rules: Sequence[Value]) -> tuple[Cell, ...]:
    """Dense SPAM under each rule for spikes, on two sizes (Tables 11 and 12)."""
    return tuple(
        cell
        for model in ("llama_60m", "llama_130m")
        for cell in panel(
            model, "optimizer.spike_rule", rules, fixed={"model": model, "optimizer": "spam"}
        )
    )
