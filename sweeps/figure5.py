"""Figure 5, left: what zeroing spiked gradients does to Adam, over the threshold (paper, 2.2).

Adam with moments that are never reset, LLaMA-60M. The paper finds spikes by their ratio to the mean
of an entry's gradients over the whole training, which is known when it is over; here, as in SPAM,
an entry is a spike if g^2 > theta v, and theta are those of Table 10. The cell without zeroing is
the same optimizer with its rule switched off. The middle and right panel are a simulation, which
needs no run.
"""

from spam_lab.orchestrate.grid import Cell, Sweep, Value, panel

THETA = (500, 1000, 2500, 5000, 10000)

ADAM: dict[str, Value] = {
    "model": "llama_60m",
    "optimizer": "spam",
    "optimizer.delta_t": None,
    "optimizer.warmup_steps": 0,
}


def sweep() -> Sweep:
    """Five thresholds and no zeroing, three paired seeds."""
    zeroing: dict[str, Value] = {**ADAM, "optimizer.spike_rule": "nullify"}
    return Sweep(
        name="figure5",
        description="Does Adam end better if spiked gradients are set to zero?",
        cells=(
            *panel("theta", "optimizer.theta", THETA, fixed=zeroing),
            Cell({"panel": "theta", "value": None}, {**ADAM, "optimizer.spike_rule": "none"}),
        ),
        seeds=(0, 1, 2),
    )
