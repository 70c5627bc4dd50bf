"""Table 8: SPAM's hyperparameters in fine-tuning as the paper prints them, beside what conf/ has
(Appendix D): no model or task of them yet, so SPAM's own defaults alone."""

from __future__ import annotations

from typing import Any

from analysis.exhibit import Exhibit
from analysis.settings_table import NO_CONFIG, Setting, exhibit
from spam_lab.config.compose import compose_run, groups

DESCRIPTION = "With which hyperparameters is SPAM fine-tuned?"
SOURCE = "Table 8, Appendix D"
PAPER = ("scale=paper", "data=c4", "optimizer=spam")

PRINTED = {
    "standard": {"learning rate": "5e-5", "ΔT": "1000", "θ": "5000", "N": "300"},
    "memory-efficient": {"learning rate": "1e-4", "ΔT": "250", "θ": "5000", "N": "5"},
}


def build_from_config(scale: str) -> Exhibit:
    """The exhibit at a scale, from the configuration alone."""
    optimizer: Any = compose_run(PAPER).optimizer
    defaults = f"ΔT = {optimizer.delta_t}, θ = {optimizer.theta:g}, N = {optimizer.warmup_steps}"
    settings = [
        Setting(f"LLaMA2-7B, {part}", name, printed, NO_CONFIG, "")
        for part, values in PRINTED.items()
        for name, printed in values.items()
    ]
    return exhibit(
        "table8",
        f"Table 8 at scale {scale}: SPAM's hyperparameters in fine-tuning",
        SOURCE,
        scale,
        settings,
        (
            "**None of this has a config yet.** Fine-tuning is not built: conf/model/ has "
            f"{', '.join(groups()['model'])}, and no LLaMA2-7B; there is no group of tasks.",
            f"What conf/optimizer/spam.yaml has is the setting of pre-training: {defaults}. Every "
            "value above but θ is another one, and would have to be given.",
            "The paper prints no density here; its Tables 13 and 15 speak of d = 0.25 %.",
            "With N = 5 and ΔT = 250 the warm-up after a reset is over before the running bias "
            "correction of the public code has fallen: steps are 3.3 times the nominal rate on "
            "average over an interval, 6.6 times at most.",
        ),
    )
