"""Table 10: is SPAM's advantage over Adam sensitive to the threshold θ? (paper, Appendix I)

The LLaMA-60M column; the architectures beside it are added with their models.
"""

from spam_lab.orchestrate.grid import Cell, Sweep, panel

THETA = (500, 1000, 2500, 5000, 10000)
ARCHITECTURES = ("llama_60m",)


def sweep() -> Sweep:
    """Five thresholds and Adam for each architecture, three paired seeds."""
    cells: list[Cell] = []
    for model in ARCHITECTURES:
        cells += panel(model, "optimizer.theta", THETA, fixed={"model": model, "optimizer": "spam"})
        cells.append(Cell({"panel": model, "value": "adam"}, {"model": model, "optimizer": "adam"}))
    return Sweep(
        name="table10",
        description="Does SPAM beat Adam at every threshold θ, on every architecture?",
        cells=tuple(cells),
        seeds=(0, 1, 2),
    )
