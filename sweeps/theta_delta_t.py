"""The study of SPAM's two intervals of trust: the threshold theta and the reset interval dT.

The ranges are those of the paper's Figure 9 and Table 10, on a logarithmic scale; the paper's own
setting, 5000 and 500, lies inside. Trials have a seed that no sweep uses.
"""

from spam_lab.orchestrate.search import Search, Study


def study() -> Study:
    """Both keys of dense SPAM on LLaMA-60M, everything else as in the paper."""
    return Study(
        name="theta_delta_t",
        description="Which threshold and reset interval are best for LLaMA-60M?",
        space=(
            Search("optimizer.theta", 10, 20000, log=True),
            Search(
                "optimizer.delta_t", "${scaled:interval,50}", "${scaled:interval,2500}", log=True
            ),
        ),
        fixed={"model": "llama_60m", "optimizer": "spam"},
        paper={"optimizer.theta": 5000, "optimizer.delta_t": "${scaled:interval,500}"},
    )
