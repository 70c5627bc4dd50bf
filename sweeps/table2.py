"""Table 2: earlier remedies against spikes beside SPAM on LLaMA-60M (paper, Section 4).

Each remedy is a stabilizer of conf/stabilizer/ with Adam, at Adam's learning rate.
"""

from spam_lab.orchestrate.grid import Cell, Sweep, Value

MODEL = "llama_60m"
METHODS: dict[str, dict[str, Value]] = {
    "adam": {"optimizer": "adam"},
    "embed_ln": {"optimizer": "adam", "stabilizer": "embed_ln"},
    "embed_detach": {"optimizer": "adam", "stabilizer": "embed_detach"},
    "scaled_embed": {"optimizer": "adam", "stabilizer": "scaled_embed"},
    "scaled_init": {"optimizer": "adam", "stabilizer": "scaled_init"},
    "spam": {"optimizer": "spam"},
}


def sweep() -> Sweep:
    """Adam alone and with four remedies, and SPAM, three paired seeds."""
    return Sweep(
        name="table2",
        description="Do earlier remedies against spikes reach SPAM?",
        cells=tuple(
            Cell({"panel": MODEL, "value": name}, {"model": MODEL, **overrides})
            for name, overrides in METHODS.items()
        ),
        seeds=(0, 1, 2),
    )
