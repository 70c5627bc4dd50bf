"""The report: every complete exhibit of a scale, the claims ledger, what is missing and where the
numbers come from, as one HTML page that loads nothing.

It promises a page that stands alone: pictures and downloads are in it, and it says to the browser
that nothing may be fetched. The same record gives the same bytes.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import spam_lab
from analysis import ledger as ledgers
from analysis.assembly import Assembled, Scale
from analysis.claims import Answer
from analysis.document import OWN_CLAIMS, PAPERS_CLAIMS
from analysis.exhibit import Exhibit, csv, drawn
from analysis.frames import RESULTS
from analysis.ledger import Ledger
from analysis.markup import Writer
from analysis.origins import last_end, origins
from spam_lab.files import replacing
from spam_lab.orchestrate.provenance import git_state

if TYPE_CHECKING:
    from mlflow.entities import Run

MARKS = {"holds": "✓", "fails": "✗", "undecided": "?", "not run": "–"}
LARGEST_SVG = 300_000
"""Bytes from which on a figure is put in as PNG: many marks are smaller as pixels."""

CSS_DPI = 96
FOLDED = (
    PAPERS_CLAIMS,
    OWN_CLAIMS,
    "What was run",
    "How intervals were mapped",
    "The runs behind",
)
"""What the headings of sections begin with that are folded at first: answers stand above them."""


@dataclass(frozen=True)
class ShownSection:
    """A section of an exhibit's page, as HTML."""

    heading: str
    html: Markup
    open: bool


@dataclass(frozen=True)
class Shown:
    """One exhibit as the template shows it. `image` and `csv` are data addresses; sizes are in CSS
    pixels."""

    name: str
    short: str
    title: str
    summary: Markup
    answers: Sequence[Answer]
    image: str
    width: int
    height: int
    alternative: str
    sections: Sequence[ShownSection]
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    csv: str
    launch: str
    make: str


@dataclass(frozen=True)
class Missing:
    """One exhibit that is not shown, and why."""

    name: str
    question: str
    results: int
    runs: int
    why: str
    launch: str


def write(scale: Scale, ledger: Ledger, root: Path, path: Path, ui: str = "") -> Path:
    """Write the page to `path`; returns it.

    Args:
        scale: the exhibits.
        ledger: the claims, of this scale and of others.
        root: the folder of runs, for their provenance.
        path: the file.
        ui: the address of an MLflow UI that run_ids link to; empty for none.
    """
    with replacing(path) as file:
        file.write(page(scale, ledger, root, ui).encode())
    return path


def page(scale: Scale, ledger: Ledger, root: Path, ui: str = "") -> str:
    """The page as text."""
    ui = _linkable(ui)
    writer = Writer(_links(scale.records, ui))
    shown = [_shown(made, writer) for made in scale.exhibits if made.is_complete]
    missing = [_missing(made) for made in scale.exhibits if not made.is_complete]
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"p": ledgers.shown_p, "code": writer.code}
    return environment.get_template("report.html.j2").render(
        title=f"SPAM at scale {scale.config.name}: the paper’s exhibits, regenerated",
        opening=_opening(scale, len(shown)),
        scale=scale.config.name,
        style=Markup(_template("report.css")),
        script=Markup(_template("report.js")),
        marks=MARKS,
        counts=ledger.counts(),
        summary=ledgers.summary(ledger),
        correction=ledgers.CORRECTION.replace("`", "").format(count=len(ledger.tested)),
        lines=ledger.lines,
        linked={one.name for one in shown},
        ledger_csv=_data("text/csv", ledgers.csv(ledger).encode()),
        shown=shown,
        missing=missing,
        origins={
            name: sorted(values.items(), key=lambda item: (-item[1], item[0]))
            for name, values in origins(root, _results(scale)).items()
            if values
        },
        origins_text=_origins_text(_results(scale)),
        ui=ui,
        version=spam_lab.__version__,
    )


def _opening(scale: Scale, shown: int) -> str:
    return (
        f"{shown} of {len(scale.exhibits)} exhibits are complete at scale {scale.config.name}, "
        f"from {len(_results(scale))} runs with a result. Every number is a mean over seeds with "
        "its 95 % interval, stands beside the runs behind it, and beside the paper’s own where the "
        "paper prints one."
    )


def _results(scale: Scale) -> dict[str, Run]:
    """The recorded runs that have a result, by run_id: where the page's numbers come from."""
    frames = [made.frame for made in scale.exhibits if not made.frame.empty]
    known = {i for frame in frames for i in frame[frame["state"].isin(RESULTS)]["run_id"]}
    return {run_id: run for run_id, run in scale.records.items() if run_id in known}


def _origins_text(records: Mapping[str, Run]) -> str:
    commit, edited = git_state()
    code = f"commit {commit}{' with uncommitted changes' if edited else ''}" if commit else "no git"
    ended = last_end(records)
    runs = f"{len(records)} runs with a result" + (
        f", the last of which ended at {ended}" if ended else ""
    )
    return f"This page was written by code of {code}, from {runs}. Counts are of runs."


def _shown(made: Assembled, writer: Writer) -> Shown:
    exhibit = made.exhibit
    assert exhibit is not None
    width, height = exhibit.figure.get_size_inches()
    table = exhibit.table
    return Shown(
        name=made.name,
        short=exhibit.title.replace(f" at scale {made.scale}", ""),
        title=exhibit.title,
        summary=writer.html(exhibit.summary, exhibit.title),
        answers=exhibit.answers,
        image=_image(exhibit),
        width=round(width * CSS_DPI),
        height=round(height * CSS_DPI),
        alternative=_alternative(exhibit),
        sections=[
            ShownSection(
                section.heading,
                writer.html(section.body, f"{made.name}: {section.heading}"),
                not section.heading.startswith(FOLDED),
            )
            for section in exhibit.sections
        ],
        headers=[str(name) for name in table.columns],
        rows=[[_cell(value) for value in row] for row in table.itertuples(index=False)],
        csv=_data("text/csv", csv(exhibit)),
        launch=made.launch,
        make=made.make,
    )


def _alternative(exhibit: Exhibit) -> str:
    """What the figure shows, for those who cannot see it."""
    said = "; ".join(f"{answer.claim.text}: {answer.verdict}" for answer in exhibit.answers)
    end = "Its numbers are in the tables below."
    return f"{exhibit.title}. {said}. {end}" if said else f"{exhibit.title}. {end}"


def _missing(made: Assembled) -> Missing:
    others = {s: n for s, n in sorted(made.states.items()) if s not in ("done", "diverged")}
    why = made.problem or ", ".join(f"{count} {state}" for state, count in others.items())
    return Missing(made.name, made.question, made.results, made.runs, why, made.launch)


def _image(exhibit: Exhibit) -> str:
    content = drawn(exhibit.figure, "svg")
    if len(content) <= LARGEST_SVG:
        return _data("image/svg+xml", content)
    return _data("image/png", drawn(exhibit.figure, "png"))


def _linkable(ui: str) -> str:
    """The address as it can stand on a page: no account and password in it; empty if no page's."""
    if not ui.startswith(("http://", "https://")):
        return ""
    return re.sub(r"//[^/]*@", "//", ui).rstrip("/")


def _links(records: Mapping[str, Run], ui: str) -> dict[str, str]:
    """Where each run_id leads in the MLflow UI at `ui`."""
    if not ui:
        return {}
    return {
        run_id: f"{ui}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        for run_id, run in records.items()
    }


def _cell(value: object) -> str:
    """A value of a table; a dash where there is none."""
    if isinstance(value, float):
        return "–" if value != value else f"{value:.6g}"
    return "" if value is None else str(value)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _template(name: str) -> str:
    return resources.files("analysis").joinpath("templates", name).read_text(encoding="utf-8")
