"""What the mechanism study answers, in words made from its numbers, with their doubt.

No verdict is fixed here: every sentence follows a test's outcome and shows its interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.cell_table import Key
from analysis.claims import Answer
from analysis.document import Section
from analysis.factorial import Effect
from analysis.stats import Cell, Comparison, Verdict, compare

if TYPE_CHECKING:
    from spam_lab.orchestrate.expand import Request

HALF_SPACING = 2.0**-9
"""Half the distance of two neighbouring bfloat16 numbers, over the larger: less is rounded away."""


def section(
    found: Mapping[str, Sequence[Effect]],
    families: Mapping[str, str],
    cells: Mapping[Key, Cell],
    rates: Mapping[str, float],
    resets: Answer,
    requests: Sequence[Request],
) -> Section:
    """The answer: the gap to explain, what explains it, and what is not decided."""
    lines = [
        f"- {_gap(cells)}",
        *(f"- In the factorial with {families[one]}: {_parts(found[one])}" for one in families),
        f"- {_resets(resets)}",
        f"- {_steps(cells)}",
        f"- {_format(cells)}",
        f"- {_rates(cells, rates)}",
        f"- {_doubt(found, requests)}",
    ]
    return Section("The answer", "\n".join(lines))


def direction(test: Comparison) -> str:
    """What a corrected effect says."""
    if test.verdict is Verdict.UNDECIDED:
        return "undecided"
    return "lowers the loss" if test.verdict is Verdict.HOLDS else "raises the loss"


def reach(requests: Sequence[Request]) -> str:
    """Whether rounding can hold a second moment up here: what the number format is about."""
    betas = sorted({_beta2(request) for request in requests if _has_states(request)})
    steps = max(request.config.schedule.steps for request in requests)
    said = []
    for beta2 in betas:
        stuck = 1 - beta2 < HALF_SPACING
        said.append(f"at β2 = {beta2:g} {'it cannot fall' if stuck else 'it can'}")
    return (
        f"A bfloat16 second moment falls only if 1 − β2 is above 2^-9: {', '.join(said)}. Where it "
        f"cannot, it also stops to grow on equal gradients after some 2^8 to 2^9 steps; a run has "
        f"{steps} here. What rounding does over longer runs is beyond this scale."
    )


def _gap(cells: Mapping[Key, Cell]) -> str:
    test = _test(cells, "spam", "adam")
    return f"What is to be explained: SPAM minus Adam, both in pure bfloat16, is {_said(test)}."


def _parts(effects: Sequence[Effect]) -> str:
    decided = [one for one in effects if one.comparison.verdict is not Verdict.UNDECIDED]
    known = [one for one in effects if one.comparison.difference is not None]
    if not known:
        return "no effect could be tested."
    decided.sort(key=lambda one: -abs(_mean(one)))
    largest = max(known, key=lambda one: abs(_mean(one)))
    said = [f"{one.name} {direction(one.comparison)}, {_said(one.comparison)}" for one in decided]
    text = "; ".join(said) if said else "no effect is decided after Holm's correction"
    if largest not in decided:
        text += f"; the largest estimate, of {largest.name}, is {_said(largest.comparison)}"
    rest = len(effects) - len(decided)
    return f"{text}. {rest} of {len(effects)} effects are undecided."


def _resets(answer: Answer) -> str:
    """The reset with each of its bias corrections, averaged over format and clipping."""
    said = [f"{one.better.name}: {_said(one)}" for one in answer.comparisons]
    return f"Against no reset, each averaged over format and clipping: {'; '.join(said)}."


def _steps(cells: Mapping[Key, Cell]) -> str:
    gap, steps = _test(cells, "spam", "adam"), _test(cells, "adam_sawtooth", "adam")
    rest = _test(cells, "spam", "adam_sawtooth")
    text = (
        f"The step size alone: Adam with SPAM's saw-tooth minus Adam is {_said(steps)}; SPAM minus "
        f"that Adam is {_said(rest)}"
    )
    if gap.verdict is Verdict.HOLDS and gap.difference is not None and steps.difference is not None:
        share = steps.difference.mean / gap.difference.mean
        text += f". The steps alone make {share:.0%} of the gap, as estimates go"
    return f"{text}."


def _format(cells: Mapping[Key, Cell]) -> str:
    own, rest = _test(cells, "adam_fp32_states", "adam"), _test(cells, "spam", "adam_fp32_states")
    return (
        f"The number format alone: Adam with float32 moments minus Adam is {_said(own)}; SPAM, in "
        f"bfloat16, minus that Adam is {_said(rest)}."
    )


def _rates(cells: Mapping[Key, Cell], rates: Mapping[str, float]) -> str:
    """Each key cell at the best of its rates; a choice made on the same runs, so no test."""
    best: dict[str, tuple[float, float, str]] = {}
    names = [str(value) for panel, value in cells if rates.get(panel, 1.0) != 1.0]
    for name in dict.fromkeys(names):
        known = [
            (cell.perplexity.mean, rates[panel], cell.name)
            for (panel, value), cell in cells.items()
            if panel in rates and value == name and cell.perplexity and not cell.incomplete
        ]
        if known:
            best[name] = min(known)
    if not best:
        return "At other learning rates: no results."
    said = [f"{name} {mean:.1f}" for mean, _, name in best.values()]
    multiples = ", ".join(f"{rate:g} ×" for rate in rates.values())
    return (
        f"At the best of the learning rates {multiples}, mean "
        f"perplexities are: {', '.join(said)}. Chosen on the runs they are told of, they are a "
        f"description and no test; where a best lies at an end, it may lie beyond."
    )


def _doubt(found: Mapping[str, Sequence[Effect]], requests: Sequence[Request]) -> str:
    seeds = len({request.seed for request in requests})
    widths = sorted(
        (difference.high - difference.low) / 2
        for effects in found.values()
        for one in effects
        if (difference := one.comparison.difference) is not None
    )
    if not widths:
        return "Its doubt cannot be told: no effect could be tested."
    return (
        f"Its doubt: {seeds} seeds; intervals of effects are ± {widths[0]:.4f} to "
        f"± {widths[-1]:.4f} in loss before correction, so smaller effects than that are not seen."
    )


def _test(cells: Mapping[Key, Cell], first: str, second: str) -> Comparison:
    missing = Cell("a cell that was not run")
    return compare(
        cells.get(("controls", first), missing), cells.get(("controls", second), missing)
    )


def _said(test: Comparison) -> str:
    if test.difference is None:
        return f"not known ({test.reason})"
    one = test.difference
    return f"{one.mean:+.4f} [{one.low:+.4f}, {one.high:+.4f}] in loss"


def _mean(effect: Effect) -> float:
    difference = effect.comparison.difference
    return 0.0 if difference is None else difference.mean


def _has_states(request: Request) -> bool:
    return str(request.labels["panel"]) in ("mapped", "printed")


def _beta2(request: Request) -> float:
    optimizer: Any = request.config.optimizer
    return float(optimizer.beta2)
