"""Table 13: SPAM that scales spikes back beside SPAM that sets them to zero, in fine-tuning
(paper, Appendix K). The intervals are those of Table 8, the dense and the sparse half."""

from spam_lab.orchestrate.grid import Cell, Sweep

TASKS = ("winogrande", "copa")

DENSITIES = {"100": "spam_finetuning", "0.25": "spam_sparse_finetuning"}
"""Percent of the entries of attention and feed-forward that have moments, and the optimizer."""


def sweep() -> Sweep:
    """Two rules at two densities on two tasks, three paired seeds."""
    return Sweep(
        name="table13",
        description="In fine-tuning, is it better to scale a spike back than to set it to zero?",
        cells=tuple(
            Cell(
                {"panel": name, "value": f"{rule}_{density}"},
                {
                    "task": f"finetuning_{name}",
                    "optimizer": optimizer,
                    "optimizer.spike_rule": rule,
                },
            )
            for name in TASKS
            for rule in ("clip", "nullify")
            for density, optimizer in DENSITIES.items()
        ),
        seeds=(0, 1, 2),
    )
