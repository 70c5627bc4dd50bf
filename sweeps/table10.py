"""Table 10: is SPAM's advantage over Adam sensitive to the threshold θ? (paper, Appendix I)

Five thresholds and Adam on three architectures. The paper gives learning rates for LLaMA alone;
those of the other two are in conf/optimizer/, and are not tuned.
"""

from spam_lab.orchestrate.grid import Cell, Sweep, panel

THETA = (500, 1000, 2500, 5000, 10000)
ARCHITECTURES = ("llama_60m", "pythia_70m", "opt_125m")


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
