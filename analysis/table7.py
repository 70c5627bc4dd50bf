"""Table 7: SPAM's hyperparameters in pre-training, as the sweeps of Tables 1 and 3 run them, beside
what the paper prints (Appendix D)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from analysis.exhibit import Exhibit
from analysis.method_table import MODELS
from analysis.settings_table import NOT_PRINTED, Setting, exhibit
from spam_lab.orchestrate.expand import expand, load_sweep

DESCRIPTION = "With which hyperparameters is SPAM pre-trained?"
SOURCE = "Table 7, Appendix D"
PAPER = ("scale=paper", "data=c4")
PARTS = {"dense": ("table1", "spam"), "sparse": ("table3", "spam_sparse")}
"""Half of the table -> the sweep and the cell that run it."""

PRINTED = {
    "dense": {
        "learning rate": "1e-3 8e-4 4e-4 2e-4",
        "ΔT": "500 500 500 500",
        "θ": "5000 5000 5000 5000",
        "N": "150 150 150 150",
    },
    "sparse": {
        "learning rate": "4e-3 4e-3 2e-3 5e-4",
        "ΔT": "500 500 500 1000",
        "θ": "5000 5000 5000 5000",
        "N": "150 150 150 300",
    },
}


def build_from_config(scale: str) -> Exhibit:
    """The exhibit at a scale, from the configuration and the sweeps alone."""
    paper, here = described(PAPER), described((f"scale={scale}",))
    settings = []
    for place, (model, column) in enumerate(MODELS.items()):
        for (part, of_model, name), value in paper.items():
            if of_model == model:
                printed = PRINTED[part].get(name)
                settings.append(
                    Setting(
                        column,
                        f"{part}, {name}",
                        printed.split()[place] if printed else NOT_PRINTED,
                        value,
                        here[part, model, name],
                    )
                )
    return exhibit(
        "table7",
        f"Table 7 at scale {scale}: SPAM's hyperparameters in pre-training",
        SOURCE,
        scale,
        settings,
        (
            "The paper says that learning rates are searched from 1e-4 to 1e-3 in steps of 2e-4, "
            "which are 1, 3, 5, 7 and 9e-4. None of SPAM's own lies on that grid, and the sparse "
            "ones of 60M to 350M lie above its end.",
            "It says that ΔT and N stay the same over sizes, and prints others for sparse 1B.",
            "The densities are printed nowhere; they follow from GaLore's memory, and those of 60M "
            "and 130M stand in the logs of the public code.",
        ),
    )


def described(overrides: tuple[str, ...]) -> dict[tuple[str, str, str], str]:
    """(half, model, name) -> value, from the requests of the two sweeps."""
    found = {}
    for part, (name, method) in PARTS.items():
        sweep = load_sweep(name)
        cells = tuple(cell for cell in sweep.cells if cell.labels["value"] == method)
        for request in expand(replace(sweep, cells=cells, seeds=sweep.seeds[:1]), overrides):
            optimizer: Any = request.config.optimizer
            model = str(request.labels["panel"])
            found[part, model, "learning rate"] = f"{optimizer.lr:g}"
            found[part, model, "ΔT"] = str(optimizer.delta_t)
            found[part, model, "θ"] = f"{optimizer.theta:g}"
            found[part, model, "N"] = str(optimizer.warmup_steps)
            if part == "sparse":
                found[part, model, "density"] = f"{optimizer.density:.4f}"
    return found
