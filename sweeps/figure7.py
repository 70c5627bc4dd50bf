"""Figure 7: forecasting under anomalies, Adam beside SPAM, from none to severe (paper, Appendix G).

PatchTST on a weather series; 10 % of the training inputs are X + N(0, severity * max X); ten runs a
point. The paper's text names no severity: these are ours, and 0 is what they are compared with. The
two optimizers see the same windows, the same anomalies and the same initial weights, by seed. On
the paper's own series: sweep=figure7 task.series=weather task.path=weather.csv
"""

from spam_lab.orchestrate.grid import Cell, Sweep

OPTIMIZERS = ("adam", "spam")
SEVERITIES = (0, 0.025, 0.05, 0.1)


def sweep() -> Sweep:
    """Four severities, two optimizers, ten paired seeds."""
    return Sweep(
        name="figure7",
        description="The worse the anomalies in a weather series, the larger SPAM's advantage?",
        cells=tuple(
            Cell(
                {"panel": optimizer, "value": severity},
                {"task": "forecasting", "optimizer": optimizer, "task.severity": severity},
            )
            for optimizer in OPTIMIZERS
            for severity in SEVERITIES
        ),
        seeds=tuple(range(10)),
    )
