"""`python launch.py --help`: what the lab does, the groups there are, and every key with its value,
its range and its meaning, taken from the typed config that is in force.

Overrides count: `python launch.py optimizer=adam --help` shows Adam's keys.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from spam_lab.config.compose import compose_command, groups
from spam_lab.config.fields import walk
from spam_lab.orchestrate.expand import ALL, load_study, load_sweep, study_names, sweep_names

OPENING = """\
spam_lab trains language models with SPAM (Spike-Aware Adam with Momentum Reset) and what it is
compared with: one run, a grid of runs, or a whole sweep of the paper. What has been trained is
never trained again; what was interrupted goes on.

  python launch.py                                    one nano run, under a minute
  python launch.py optimizer.theta=1000               one run with another threshold
  python launch.py model=llama_130m scale=small       a larger model, at a larger scale
  python launch.py -m optimizer.theta=500,1000,2500   a grid of runs
  python launch.py sweep=figure9 dry_run=true         the plan of a sweep; nothing is run
  python launch.py sweep=figure9                      the sweep itself
  python launch.py sweep=all                          every sweep, what they share trained once
  python launch.py study=theta_delta_t                a search; the same command goes on with it
  python launch.py optimizer=adam --cfg job           a run's whole config, as YAML
  python launch.py optimizer=adam --help              this page, for another choice of groups
  python -m analysis figure9                          the exhibit that a sweep is for
  spam-lab status | why | logs | retry | cancel       afterwards, with the runs
  spam-lab sync | ui | doctor                         afterwards, with the record and the machine

SPAM's symbols: ΔT is optimizer.delta_t, θ is optimizer.theta, N is optimizer.warmup_steps, d is
optimizer.density. (schedule.warmup_steps is the learning rate's own warm-up, not N.)

Keys take actual steps. The files in conf/ write intervals as the paper prints them and the scale
maps them: the paper's 500 steps are 50 at scale=nano. To give a value in the paper's steps:
  python launch.py 'optimizer.delta_t=${scaled:interval,250}'
"""

CLOSING = """\
Hydra's own options work too: --hydra-help lists them. CONTRIBUTING.md tells how the lab is built.
"""


def print_help(console: Console, overrides: Sequence[str]) -> None:
    """Print the page for the config that `overrides` make."""
    command = compose_command(overrides)
    console.print(OPENING, highlight=False, markup=False, soft_wrap=True)
    console.print("[bold]Sweeps[/bold] (sweep=NAME)")
    sweeps = {name: load_sweep(name).description for name in sweep_names()}
    _print_list(console, {**sweeps, ALL: "All of these, as one plan."})
    console.print("\n[bold]Studies[/bold] (study=NAME)")
    _print_list(console, {name: load_study(name).description for name in study_names()})
    console.print("\n[bold]Groups[/bold] (GROUP=OPTION)")
    _print_list(console, {group: " ".join(options) for group, options in groups().items()})
    console.print("\n[bold]Keys[/bold] (KEY=VALUE)")
    for key, field, value in walk(command):
        console.print(f"  {key}={_value(value)}{_allowed(field)}", highlight=False, markup=False)
        meaning = textwrap.fill(field.metadata.get("doc", ""), 88, initial_indent=" " * 8)
        console.print(meaning, style="dim", highlight=False, markup=False, soft_wrap=True)
    console.print(f"\n{CLOSING}", end="", highlight=False)


def _print_list(console: Console, entries: Mapping[str, str]) -> None:
    """Names and what they mean, which goes on below itself where a line is too short for it."""
    column = max(map(len, entries)) + 4
    for name, meaning in entries.items():
        lines = textwrap.wrap(
            meaning, max(20, console.width - column), break_on_hyphens=False, break_long_words=False
        )
        text = f"\n{' ' * column}".join(lines)
        console.print(f"  {name:{column - 2}}{text}", highlight=False, markup=False, soft_wrap=True)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{...}" if value else "{}"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _allowed(field: dataclasses.Field[Any]) -> str:
    options, interval = field.metadata.get("options"), field.metadata.get("interval")
    if options is not None:
        return f"   ({' | '.join(options)})"
    if interval is None:
        return ""
    unit = field.metadata.get("unit", "")
    return f"   ({interval}{f' {unit}' if unit else ''})"
