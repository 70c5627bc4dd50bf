"""Table 15: full, low-rank and sparse fine-tuning on eight commonsense tasks (paper, Appendix Q.1).

LoRA trains adapters alone, as peft does; GaLore and SPAM train the embedding, the head and the
norms as well.
"""

from spam_lab.orchestrate.grid import Cell, Sweep, Value

METHODS: dict[str, dict[str, Value]] = {
    "adam": {"optimizer": "adam"},
    "lora": {"optimizer": "lora_finetuning", "task.trained": "blocks"},
    "galore": {"optimizer": "galore_finetuning"},
    "spam_sparse": {"optimizer": "spam_sparse_finetuning"},
    "spam": {"optimizer": "spam_finetuning"},
}
"""Table 15's rows in its order: what each sets."""


def sweep() -> Sweep:
    """Five methods, three paired seeds (the paper: ten repetitions)."""
    return Sweep(
        name="table15",
        description="How well does SPAM fine-tune, at full and at low-rank memory?",
        cells=tuple(
            Cell({"panel": "commonsense", "value": name}, {"task": "finetuning", **overrides})
            for name, overrides in METHODS.items()
        ),
        seeds=(0, 1, 2),
    )
