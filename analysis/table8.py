"""Table 8: SPAM's hyperparameters in fine-tuning, as the sweep of Table 15 runs them, beside what
the paper prints (Appendix D)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from analysis.exhibit import Exhibit
from analysis.settings_table import NOT_PRINTED, Setting, exhibit
from spam_lab.orchestrate.expand import expand, load_sweep

DESCRIPTION = "With which hyperparameters is SPAM fine-tuned?"
SOURCE = "Table 8, Appendix D"
PARTS = {"standard": "spam", "memory-efficient": "spam_sparse"}
"""Half of the table -> the cell of Table 15 that runs it."""

PRINTED = {
    "standard": {"learning rate": "5e-5", "ΔT": "1000", "θ": "5000", "N": "300"},
    "memory-efficient": {"learning rate": "1e-4", "ΔT": "250", "θ": "5000", "N": "5"},
}


def build_from_config(scale: str) -> Exhibit:
    """The exhibit at a scale, from the configuration and the sweep alone."""
    paper, here = described("paper"), described(scale)
    settings = [
        Setting(
            f"LLaMA2-7B, {part}",
            name,
            PRINTED[part].get(name, NOT_PRINTED),
            value,
            here[part, name],
        )
        for (part, name), value in paper.items()
    ]
    return exhibit(
        "table8",
        f"Table 8 at scale {scale}: SPAM's hyperparameters in fine-tuning",
        SOURCE,
        scale,
        settings,
        (
            "The paper prints no density here; its Tables 13 and 15 speak of d = 0.25 %.",
            "It prints neither the length of a run nor a learning rate of any other method.",
            "With N = 5 and ΔT = 250 the warm-up after a reset is over before the running bias "
            "correction of the public code has fallen: steps are 3.3 times the nominal rate on "
            "average over an interval, 6.6 times at most.",
        ),
    )


def described(scale: str) -> dict[tuple[str, str], str]:
    """(half, name) -> value, from the requests of the sweep."""
    sweep = load_sweep("table15")
    found = {}
    for part, method in PARTS.items():
        cells = tuple(cell for cell in sweep.cells if cell.labels["value"] == method)
        only = replace(sweep, cells=cells, seeds=sweep.seeds[:1])
        (request,) = expand(only, [f"scale={scale}"])
        optimizer: Any = request.config.optimizer
        found[part, "learning rate"] = f"{optimizer.lr:g}"
        found[part, "ΔT"] = str(optimizer.delta_t)
        found[part, "θ"] = f"{optimizer.theta:g}"
        found[part, "N"] = str(optimizer.warmup_steps)
        found[part, "density"] = f"{optimizer.density:g}"
    return found
