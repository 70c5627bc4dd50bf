"""Table 5: at which steps each layer's gradients spike when the loss has a bump (paper, Appendix
B): LLaMA-60M on C4 and on SlimPajama, Pythia-70M on C4, the runs of Figure 3.

SlimPajama is asked for beside data=c4 alone. The text that is shipped has no cleaner sibling.
"""

from spam_lab.orchestrate.grid import Sweep
from sweeps import observed_across_corpora


def sweep() -> Sweep:
    """Two architectures, and the second corpus for one of them; three seeds."""
    return Sweep(
        name="table5",
        description="Do gradient spikes come before the bumps of the loss, and in which layers?",
        cells=observed_across_corpora(),
        seeds=(0, 1, 2),
    )
