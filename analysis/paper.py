"""What the paper published and claimed: numbers by table, claims by appendix, each with its source.

Nothing here is measured by this laboratory. A figure of the paper whose values are not printed has
claims but no numbers, and none are read off its picture.
"""

from __future__ import annotations

from analysis.claims import Claim

TABLE10_SOURCE = "Table 10, Appendix I"
TABLE10_THETA = (500, 1000, 2500, 5000, 10000)
TABLE10: dict[str, dict[int | str, str]] = {
    name: dict(zip((*TABLE10_THETA, "adam"), values.split(), strict=True))
    for name, values in {
        "llama_60m": "30.77 30.59 30.57 30.46 30.82 34.09",
        "pythia_70m": "34.4 34.1 34.1 34.2 35.1 38.34",
        "opt_125m": "28.7 28.4 28.5 28.6 29.0 32.20",
    }.items()
}
"""Final perplexity on C4 as printed: architecture -> θ (or Adam) -> value."""

TABLE10_NAMES = {"llama_60m": "LLaMA-60M", "pythia_70m": "Pythia-70M", "opt_125m": "OPT-125M"}

FIGURE9_SOURCE = "Figure 9, Appendix R"
FIGURE9_SETTING = {
    "selection": "random",
    "delta_t": 500,
    "theta": 5000,
    "warmup_steps": 150,
}
"""The setting of the paper's main results, by panel."""

FIGURE9 = {
    "selection": Claim(
        "figure9.selection",
        "Random selection is better than selection by weight or by gradient magnitude",
        f"{FIGURE9_SOURCE}, panel 1: “randomly selecting subsets of parameters performs "
        "significantly better than the other two strategies”",
    ),
    "delta_t": Claim(
        "figure9.delta_t",
        "ΔT = 500 is better than much longer and much shorter reset intervals",
        f"{FIGURE9_SOURCE}, panel 2: “performance improvement as the interval ΔT decreases from "
        "2500 to 500. However, when ΔT is further shortened, performance begins to degrade”",
    ),
    "theta": Claim(
        "figure9.theta",
        "θ = 1000 is better than an extremely large θ, than no clipping, and than a very small θ",
        f"{FIGURE9_SOURCE}, panel 3: “performance improves as θ is reduced from extremely large "
        "values to smaller values, such as 1000 [...] excessively small θ may interfere with the "
        "true gradient, ultimately leading to a degradation in performance”",
    ),
    "warmup_steps": Claim(
        "figure9.warmup_steps",
        "N = 150 is better than no warm-up after a reset, and than a short one",
        f"{FIGURE9_SOURCE}, panel 4: “significant performance drop when no warmup is applied "
        "(N = 0) [...] performance reach to optimal when the warmup duration is set to "
        "approximately 150 steps”",
    ),
}
"""Panel -> claim. The paper prints none of the figure's values."""


def table10_beats_adam(architecture: str) -> Claim:
    """SPAM against Adam on one architecture."""
    return Claim(
        f"table10.{architecture}.beats_adam",
        f"SPAM is better than Adam at every θ on {TABLE10_NAMES[architecture]}",
        f"{TABLE10_SOURCE}: “SPAM consistently outperforms Adam across a wide range of θ”",
    )


def table10_best_theta(architecture: str) -> Claim:
    """The range of good thresholds on one architecture."""
    return Claim(
        f"table10.{architecture}.best_theta",
        f"The best θ on {TABLE10_NAMES[architecture]} lies between 1000 and 5000",
        f"{TABLE10_SOURCE}: “the optimal range for θ lies between 1000 and 5000”",
    )
