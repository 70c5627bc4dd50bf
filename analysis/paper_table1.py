"""What the paper prints in Tables 1, 2, 11 and 12 and in Figure 1, and what it claims of them.

Perplexities on C4, as printed, one value each, without seeds or intervals. Nothing here is measured
by this laboratory.
"""

from __future__ import annotations

from analysis.claims import Claim
from analysis.method_table import MODELS, PublishedTable, method

TABLE1 = PublishedTable(
    source="Table 1, Section 4",
    methods={
        "adam_mini": method("Adam-mini", "Adam-\nmini", "34.10 24.85 19.05 16.07"),
        "adam": method("Adam", "Adam", "34.09 24.91 18.77 16.13"),
        "adam_value_clip": method("Adam + value clip", "value\nclip", "33.65 24.72 18.52 15.77"),
        "adam_norm_clip": method("Adam + norm clip", "norm\nclip", "33.33 24.88 18.51 15.22"),
        "adafactor": method("Adafactor", "Ada-\nfactor", "32.57 23.98 17.74 15.19"),
        "spam": method("SPAM", "SPAM", "30.46 23.36 17.42 14.66"),
    },
    own="spam",
    reference="adam",
)

TABLE2 = PublishedTable(
    source="Table 2, Section 4",
    methods={
        "adam": method("Adam", "Adam", "34.09"),
        "embed_ln": method("Adam + Embed LN", "Embed\nLN", "33.61"),
        "embed_detach": method("Adam + Embed Detach", "Embed\nDetach", "34.48"),
        "scaled_embed": method("Adam + Scaled Embed", "Scaled\nEmbed", "33.87"),
        "scaled_init": method("Adam + Scaled Init", "Scaled\nInit", "34.29"),
        "spam": method("SPAM", "SPAM", "30.46"),
    },
    own="spam",
    reference="adam",
)

TABLE11 = PublishedTable(
    source="Table 11, Appendix J",
    methods={
        "clip": method("SPAM, spike-aware clipping", "spike-aware", "30.46 23.36"),
        "gaussian": method("SPAM, Gaussian clipping", "Gaussian", "30.83 25.93"),
    },
    own="clip",
    reference="clip",
    line=False,
)

TABLE12 = PublishedTable(
    source="Table 12, Appendix K",
    methods={
        "clip": method("SPAM, spike-aware clipping", "clipping", "30.46 23.36"),
        "nullify": method("SPAM, nullifying", "nullifying", "30.86 23.62"),
    },
    own="clip",
    reference="clip",
    line=False,
)

FIGURE1_SOURCE = "Figure 1, Section 1"


def spam_is_best(model: str) -> Claim:
    """SPAM against every other optimizer of Table 1, on one size."""
    return Claim(
        f"table1.{model}.spam_is_best",
        f"SPAM is better than every other optimizer on {MODELS[model]}",
        f"{TABLE1.source}: “SPAM consistently outperforms all baselines across various LLaMA model "
        "sizes”",
    )


def clipping_helps(model: str) -> Claim:
    """Both clippings of gradients against Adam without."""
    return Claim(
        f"table1.{model}.clipping_helps",
        f"Value clipping and norm clipping improve on Adam on {MODELS[model]}",
        f"{TABLE1.source}: “commonly used gradient clipping techniques such as Value Clip and Norm "
        "Clip improve performance over Adam”",
    )


def adafactor_is_next(model: str) -> Claim:
    """Adafactor against the other baselines."""
    return Claim(
        f"table1.{model}.adafactor_is_next",
        f"Adafactor is better than every other baseline on {MODELS[model]}",
        f"{TABLE1.source}: “Adafactor further outperforms the aforementioned approaches”",
    )


def spam_leads(model: str) -> Claim:
    """SPAM against every other optimizer of Table 1 along the curve, on one size."""
    return Claim(
        f"figure1.{model}.spam_leads",
        f"SPAM is better than every other optimizer at half and at the end of training on "
        f"{MODELS[model]}",
        f"{FIGURE1_SOURCE}, with Section 4: “we report the training curves [...] Overall, we "
        "observe that SPAM consistently achieves superior performance”. The paper prints no value "
        "of a curve; half and end are this laboratory's reading",
    )


REMEDIES_FALL_SHORT = Claim(
    "table2.remedies_fall_short",
    "SPAM is better than Adam with each of four remedies against spikes",
    f"{TABLE2.source}: “all spike mitigation approaches fall short of SPAM”",
)


def gss_is_better(model: str) -> Claim:
    """SPAM's rule against the Gaussian one."""
    return Claim(
        f"table11.{model}.gss_is_better",
        f"Spike-aware clipping is better than Gaussian clipping on {MODELS[model]}",
        f"{TABLE11.source}: “Gaussian-based clipping falls short of our GSS-based clipping”",
    )


def clipping_is_better(model: str) -> Claim:
    """Scaling spikes back against setting them to zero."""
    return Claim(
        f"table12.{model}.clipping_is_better",
        f"Spike-aware clipping is better than nullifying on {MODELS[model]}",
        f"{TABLE12.source}: “SPAM with Spike-Aware Clipping outperforms SPAM with Nullifying”",
    )
