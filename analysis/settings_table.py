"""A table of settings as the paper prints it, beside what is configured and what this scale runs.

Tables 6, 7 and 8 have no runs: they are rendered from conf/ and from the sweeps themselves, through
the same composition that makes a run, so that they can never disagree with what runs. It promises
to mark every printed value that differs from the configured one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis import document, drawing
from analysis.document import Section
from analysis.exhibit import Exhibit

NOT_PRINTED = "not printed"


@dataclass(frozen=True)
class Setting:
    """One value: where it belongs, as printed, as configured at paper scale, and as run here."""

    column: str
    name: str
    printed: str
    configured: str
    as_run: str

    @property
    def mark(self) -> str:
        """What is said of it; empty where print and configuration agree."""
        if self.printed == NOT_PRINTED:
            return NOT_PRINTED
        return "" if same(self.printed, self.configured) else "differs"


def same(printed: str, configured: str) -> bool:
    """Whether two values are equal, as numbers where both are."""
    try:
        return float(printed) == float(configured)
    except ValueError:
        return printed == configured


def exhibit(
    name: str,
    title: str,
    source: str,
    scale: str,
    settings: Sequence[Setting],
    notes: Sequence[str],
) -> Exhibit:
    """The exhibit of such a table; `notes` explain what differs and why."""
    differing = [setting for setting in settings if setting.mark == "differs"]
    counted = f"{len(differing)} of {len(settings)} differ" if differing else "none differs"
    columns = ["column", "setting", "paper", "conf, scale=paper", f"as run at {scale}", "mark"]
    body = document.table(
        columns,
        [
            (s.column, s.name, s.printed, s.configured, s.as_run, s.mark and f"**{s.mark}**")
            for s in settings
        ],
    )
    return Exhibit(
        name=name,
        title=title,
        summary=(
            f"What the paper prints ({source}), beside what is configured at scale `paper` and "
            f"what scale `{scale}` runs. Nothing is trained for this table: it is rendered from "
            f"the configuration. Of the printed values {counted}."
        ),
        figure=_figure(title, settings, scale),
        table=pd.DataFrame(
            [
                {
                    "column": s.column,
                    "setting": s.name,
                    "paper": s.printed,
                    "configured": s.configured,
                    "as_run": s.as_run,
                    "mark": s.mark,
                }
                for s in settings
            ]
        ),
        answers=(),
        sections=(
            Section("Values", body),
            Section("What differs, and why", "\n".join(f"- {note}" for note in notes)),
        ),
    )


def _figure(title: str, settings: Sequence[Setting], scale: str) -> Figure:
    """The table as a picture: a row a setting, a column each of the paper's columns."""
    columns = list(dict.fromkeys(setting.column for setting in settings))
    names = list(dict.fromkeys(setting.name for setting in settings))
    found = {(setting.name, setting.column): setting for setting in settings}
    with drawing.style():
        figure = drawing.new_figure(7.4, 1.0 + 0.42 * len(names), title)
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_xlim(-1.15, len(columns) - 0.5)
        axes.set_ylim(len(names) - 0.3, -1.2)
        for place, column in enumerate(columns):
            axes.text(place, -0.75, column, ha="center", va="center", weight="bold")
        for row, name in enumerate(names):
            axes.axhline(row - 0.5, color="#E4E4E4", lw=0.6)
            axes.text(-1.1, row, name, ha="left", va="center")
            for place, column in enumerate(columns):
                setting = found.get((name, column))
                if setting is None:
                    continue
                colour = drawing.VERMILLION if setting.mark == "differs" else drawing.INK
                text = setting.configured
                if setting.mark == "differs":
                    text += f" (paper {setting.printed})"
                axes.text(place, row - 0.14, text, ha="center", va="center", color=colour, size=8)
                axes.text(
                    place,
                    row + 0.24,
                    f"{scale}: {setting.as_run}" if setting.as_run else "",
                    ha="center",
                    va="center",
                    color=drawing.GREY,
                    size=6.5,
                )
    return figure
