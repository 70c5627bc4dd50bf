"""Figure 9: how SPAM depends on its four choices, one panel each (paper, Appendix R).

(1) which entries sparse momentum keeps moments for, LLaMA-60M; (2) the reset interval from 50 to
2500 steps, (3) the spike threshold from 20000 to 10 and no clipping, (4) the warm-up after a reset
from 0 to 200 steps, LLaMA-130M. The figure prints no grid; these values span the ranges its text
names. The paper's setting is the same cell in panels 2, 3 and 4, so its runs are shared. An Adam
cell is added as the line to compare with.
"""

from spam_lab.orchestrate.grid import Cell, Sweep, Value, panel

SELECTIONS = ("random", "weight_magnitude", "gradient_magnitude")
DELTA_T = (50, 100, 250, 500, 1000, 2500)
THETA: tuple[Value, ...] = (20000, 5000, 1000, 100, 10, None)
WARMUP = (0, 50, 100, 150, 200)


def sweep() -> Sweep:
    """Four panels and the Adam line, three paired seeds."""
    small = {"model": "llama_60m", "optimizer": "spam_sparse"}
    large = {"model": "llama_130m", "optimizer": "spam"}
    return Sweep(
        name="figure9",
        description="How does SPAM depend on selection strategy, ΔT, θ and N?",
        cells=(
            *panel("selection", "optimizer.selection", SELECTIONS, fixed=small),
            *panel(
                "delta_t",
                "optimizer.delta_t",
                [f"${{scaled:interval,{steps}}}" for steps in DELTA_T],
                labels=DELTA_T,
                fixed=large,
            ),
            *panel("theta", "optimizer.theta", [v for v in THETA if v is not None], fixed=large),
            Cell(
                {"panel": "theta", "value": None},
                {**large, "optimizer.spike_rule": "none"},
            ),
            *panel(
                "warmup_steps",
                "optimizer.warmup_steps",
                [f"${{scaled:interval,{steps}}}" for steps in WARMUP],
                labels=WARMUP,
                fixed=large,
            ),
            Cell({"panel": "adam", "value": None}, {**large, "optimizer": "adam"}),
        ),
        seeds=(0, 1, 2),
    )
