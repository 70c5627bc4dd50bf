"""The study of the learning rate of every method of Table 1, beyond the ends of the paper's grid.

The paper searches up to 1e-3. Where the best of a method lies at an end of its grid, nobody knows
how good it could be; this grid doubles the rate until every method is past its best. Trials have a
seed that no sweep uses.
"""

from dataclasses import replace

from spam_lab.orchestrate.search import Search, Study
from sweeps import lr_per_method

RATES = ("5.0e-4", "1.0e-3", "2.0e-3", "4.0e-3", "8.0e-3", "1.6e-2")


def study() -> Study:
    """Six methods by six rates on LLaMA-60M, each twice the one before."""
    return replace(
        lr_per_method.study(),
        name="lr_per_method_wide",
        description="Which learning rate is best for each method when the grid is wide enough?",
        space=(
            Search("optimizer", choices=lr_per_method.METHODS),
            Search("optimizer.lr", choices=tuple(f"${{scaled:lr,{rate}}}" for rate in RATES)),
        ),
    )
