"""Figure 3: gradients that spike, across architectures, corpora and layers (paper, Section 2.1):
LLaMA-60M on C4 and on SlimPajama, Pythia-70M on C4.

SlimPajama is asked for beside data=c4 alone. The text that is shipped has no cleaner sibling.
"""

from spam_lab.orchestrate.grid import Sweep
from sweeps import observed_across_corpora


def sweep() -> Sweep:
    """Two architectures, and the second corpus for one of them; three seeds."""
    return Sweep(
        name="figure3",
        description="Do gradients spike in every layer, and less on cleaner text?",
        cells=observed_across_corpora(),
        seeds=(0, 1, 2),
    )
