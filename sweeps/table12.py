"""Table 12: SPAM that scales spikes back beside SPAM that sets them to zero (paper, Appendix K)."""

from spam_lab.orchestrate.grid import Sweep, panel

RULES = ("clip", "nullify")
MODELS = ("llama_60m", "llama_130m")


def sweep() -> Sweep:
    """Two rules on two sizes, three paired seeds."""
    return Sweep(
        name="table12",
        description="Is it better to scale a spike back than to set it to zero?",
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
