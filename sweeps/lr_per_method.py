"""The study of the learning rate of every method of the paper's Table 1, over the paper's own grid.

The paper tunes Adam over these six rates and prints no winner. A comparison is worth
what its rates are worth: `tuned=` hands what is found here to sweeps, a rate for each method.
Trials have a seed that no sweep uses.
"""

from spam_lab.orchestrate.search import Search, Study

METHODS = ("adam_mini", "adam", "adam_value_clip", "adam_norm_clip", "adafactor", "spam")
RATES = ("1.0e-4", "3.0e-4", "5.0e-4", "7.0e-4", "9.0e-4", "1.0e-3")


def study() -> Study:
    """Six methods by six rates on LLaMA-60M: every pair once."""
    return Study(
        name="lr_per_method",
        description="Which learning rate is best for each method of Table 1 on LLaMA-60M?",
        space=(
            Search("optimizer", choices=METHODS),
            Search("optimizer.lr", choices=tuple(f"${{scaled:lr,{rate}}}" for rate in RATES)),
        ),
        fixed={"model": "llama_60m"},
        paper={"optimizer": "spam", "optimizer.lr": "${scaled:lr,1.0e-3}"},
        winners_by="optimizer",
    )
