"""What is claimed of training in few bits, by SPAM and by Stable-SPAM, and what the runs answer.

It owns the claims, their words in print and their tests. Neither SPAM's paper nor its code has a
number or a setting of such training: what is claimed is a direction, and nothing is compared with
a printed value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from analysis.claims import Answer, Claim, every_pair
from analysis.stats import Cell

SPAM = "SPAM's abstract on arXiv (2501.06842v1)"
STABLE = "Stable-SPAM's abstract (arXiv 2502.17055v2)"

SPAM_IN_FOUR = Claim(
    "quantization.spam_in_four_bits",
    "In 4 bits SPAM is better than Adam",
    f"{SPAM}: “SPAM consistently surpasses Adam and its variants across various tasks, including "
    "(1) LLM pre-training from 60M to 1B, (2) 4-bit LLM pre-training”; no number is given",
)
SPAM_IN_EIGHT = Claim(
    "quantization.spam_in_eight_bits",
    "In 8 bits SPAM is better than Adam",
    f"{STABLE}: SPAM “achieves the best performance across various bit levels”; the README of "
    "SPAM's code names A4W4 and A8W8, among what is to be released",
)
STABLE_IN_FOUR = Claim(
    "quantization.stable_spam_in_four_bits",
    "In 4 bits Stable-SPAM is better than Adam and than SPAM",
    f"{STABLE}: “delivering superior performance compared to Adam and SPAM”",
)
FOUR_BEATS_FULL = Claim(
    "quantization.four_bits_beat_full_precision",
    "Stable-SPAM in 4 bits is better than Adam in full precision",
    f"{STABLE}: “our 4-bit LLaMA-1B model trained with Stable-SPAM outperforms the BF16 LLaMA-1B "
    "trained with Adam by up to 2 perplexity”",
)
RATE_MATTERS_MORE = Claim(
    "quantization.rate_matters_more",
    "In 4 bits four times the learning rate costs more than in full precision",
    f"{STABLE}: “low-bit precision amplifies sensitivity to learning rates”",
)
STABLE_BEARS_RATES = Claim(
    "quantization.stable_spam_bears_rates",
    "In 4 bits four times the learning rate costs Stable-SPAM less than Adam and than SPAM",
    f"{STABLE}: SPAM “struggles to stabilize gradient norms, requiring careful learning rate "
    "tuning”, which Stable-SPAM is to mend",
)

CellOf = Callable[[str, str, str], Cell]
"""(panel, method, bits) to the runs; a cell without seeds where nobody asked for them."""


def answers(cell: CellOf, models: Sequence[str], usual: str, high: str) -> tuple[Answer, ...]:
    """Every claim's answer; `models` are the panels of sizes, `high` that of `usual` at x4."""

    def rise(method: str, bits: str) -> Cell:
        return added(cell(high, method, bits), cell(usual, method, bits))

    def on_each(*pairs: tuple[tuple[str, str], tuple[str, str]]) -> list[tuple[Cell, Cell]]:
        return [(cell(m, *good), cell(m, *bad)) for m in models for good, bad in pairs]

    adam, spam, stable = ("adam", "a4w4"), ("spam", "a4w4"), ("stable_spam", "a4w4")
    rises = {
        RATE_MATTERS_MORE: [
            (rise(method, "full"), rise(method, "a4w4"))
            for method in ("adam", "spam", "stable_spam")
        ],
        STABLE_BEARS_RATES: [(rise(*stable), rise(*other)) for other in (adam, spam)],
    }
    return (
        every_pair(SPAM_IN_FOUR, on_each((spam, adam))),
        every_pair(SPAM_IN_EIGHT, on_each((("spam", "a8w8"), ("adam", "a8w8")))),
        every_pair(STABLE_IN_FOUR, on_each((stable, adam), (stable, spam))),
        every_pair(FOUR_BEATS_FULL, on_each((stable, ("adam", "full")))),
        # Differences of losses are no losses: they must not count among the exhibit's own.
        *(
            replace(answer, comparisons=(), tested=answer.comparisons)
            for answer in (every_pair(claim, pairs) for claim, pairs in rises.items())
        ),
    )


def added(high: Cell, usual: Cell) -> Cell:
    """What a high rate adds to the loss of each seed, as a cell; below zero where it is better.

    A seed that diverged at the high rate alone has diverged; one that is without a loss at the
    usual rate, or unfinished at either, is incomplete.
    """
    name = f"what 4 × the rate adds to {usual.name}"
    losses = {s: high.losses[s] - usual.losses[s] for s in high.losses.keys() & usual.losses.keys()}
    diverged = frozenset(high.diverged & usual.losses.keys())
    incomplete = {**usual.incomplete, **high.incomplete}
    incomplete |= dict.fromkeys(usual.diverged, "diverged at the usual rate")
    asked = {s for one in (high, usual) for s in (*one.losses, *one.diverged, *one.incomplete)}
    for seed in asked - losses.keys() - diverged - incomplete.keys():
        incomplete[seed] = "missing"
    return Cell(name, "", losses, diverged, incomplete)
