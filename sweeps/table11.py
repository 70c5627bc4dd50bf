"""Table 11: SPAM's threshold on g²/v beside clipping by a Gaussian of the gradients (paper,
Appendix J)."""

from spam_lab.orchestrate.grid import Sweep, panel

RULES = ("clip", "gaussian")
MODELS = ("llama_60m", "llama_130m")


def sweep() -> Sweep:
    """Two rules on two sizes, three paired seeds."""
    return Sweep(
        name="table11",
        description="Is SPAM's own rule for spikes better than one by a Gaussian?",
        cells=tuple(
            cell
            for model in MODELS
            for cell in panel(
                model,
                "optimizer.spike_rule",
                RULES,
                fixed={"model": model, "optimizer": "spam"},
            )
        ),
        seeds=(0, 1, 2),
    )
