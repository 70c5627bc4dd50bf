"""Table 6: the sizes of LLaMA, rendered from conf/model/, beside what the paper prints (App. D)."""

from __future__ import annotations

from analysis.exhibit import Exhibit
from analysis.method_table import MODELS
from analysis.settings_table import Setting, exhibit
from spam_lab.config.compose import compose_run
from spam_lab.config.schema import RunConfig

DESCRIPTION = "Which sizes of LLaMA are trained, and for how long?"
SOURCE = "Table 6, Appendix D"
PAPER = ("scale=paper", "data=c4")

PRINTED = {
    "hidden size": "512 768 1024 2048",
    "intermediate size": "1376 2048 2736 5461",
    "heads": "8 12 16 24",
    "layers": "8 12 24 32",
    "steps": "10000 20000 60000 89000",
    "tokens": "1.3B 2.6B 7.8B 11.6B",
    "sequence length": "256 256 256 256",
    "batch, sequences": "512 512 512 512",
    "LR warm-up, steps": "1000 1000 1000 1000",
    "final LR ÷ peak": "0.1 0.1 0.1 0.1",
}
"""As printed, in the order of the sizes; the last four stand in the text beside the table."""


def build_from_config(scale: str) -> Exhibit:
    """The exhibit at a scale, from the configuration alone."""
    settings = []
    for place, (model, column) in enumerate(MODELS.items()):
        paper = described(compose_run([*PAPER, f"model={model}"]))
        here = described(compose_run([f"scale={scale}", f"model={model}"]))
        settings += [
            Setting(column, name, values.split()[place], paper[name], here[name])
            for name, values in PRINTED.items()
        ]
    return exhibit(
        "table6",
        f"Table 6 at scale {scale}: the sizes of LLaMA",
        SOURCE,
        scale,
        settings,
        (
            "1B: the paper prints 24 heads and 32 layers, swapped: 2048 is not divisible by 24, "
            "and the model has 32 heads and 24 layers.",
            "Tokens are steps × batch × sequence length. The paper cuts them off at 350M and 1B "
            "(7.86 and 11.67) and prints other amounts in Tables 1 and 3: 1.1, 2.2, 6.4 and 11.6. "
            "A sequence is one document, filled up to 256: about three quarters are text, which "
            "gives 1.0 and 2.0 in the logs of the public code at 60M and 130M.",
        ),
    )


def described(config: RunConfig) -> dict[str, str]:
    """The settings of the table, of one run."""
    data, schedule = config.data, config.schedule
    tokens = schedule.steps * data.batch_size * data.sequence_length
    return {
        "hidden size": str(config.model.hidden_size),
        "intermediate size": str(config.model.intermediate_size),
        "heads": str(config.model.num_attention_heads),
        "layers": str(config.model.num_hidden_layers),
        "steps": str(schedule.steps),
        "tokens": f"{tokens / 1e9:.1f}B" if tokens >= 1e8 else f"{tokens / 1e6:.2f}M",
        "sequence length": str(data.sequence_length),
        "batch, sequences": str(data.batch_size),
        "LR warm-up, steps": str(schedule.warmup_steps),
        "final LR ÷ peak": f"{schedule.final_ratio:g}",
    }
