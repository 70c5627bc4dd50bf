"""An exhibit and its files: PNG, SVG, CSV and Markdown, written whole, the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import drawing
from analysis.claims import Answer
from analysis.document import Section
from spam_lab.files import replacing


@dataclass(frozen=True)
class Exhibit:
    """A figure, the table behind it, the answers to its claims, and the words around them."""

    name: str
    title: str
    summary: str
    figure: Figure
    table: pd.DataFrame
    answers: tuple[Answer, ...]
    sections: tuple[Section, ...]


def write(exhibit: Exhibit, folder: Path, commands: Sequence[str]) -> list[Path]:
    """Write the exhibit's four files into `folder`; `commands` are those that made it."""
    contents = {
        "png": drawn(exhibit.figure, "png"),
        "svg": drawn(exhibit.figure, "svg"),
        "csv": csv(exhibit),
        "md": markdown(exhibit, commands).encode(),
    }
    paths = []
    for suffix, content in contents.items():
        path = folder / f"{exhibit.name}.{suffix}"
        with replacing(path) as file:
            file.write(content)
        paths.append(path)
    return paths


def markdown(exhibit: Exhibit, commands: Sequence[str]) -> str:
    """The exhibit's page."""
    parts = [f"# {exhibit.title}", exhibit.summary, f"![{exhibit.title}]({exhibit.name}.png)"]
    parts += [f"## {section.heading}\n\n{section.body}" for section in exhibit.sections]
    block = "\n".join(commands)
    parts.append(f"## Made by\n\n```\n{block}\n```")
    return "\n\n".join(parts) + "\n"


def csv(exhibit: Exhibit) -> bytes:
    """The exhibit's table."""
    return exhibit.table.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode()


def drawn(figure: Figure, kind: str) -> bytes:
    """The figure as "png" or "svg", without what would differ from one time to the next."""
    buffer = io.BytesIO()
    with drawing.style():
        figure.savefig(buffer, format=kind, metadata=_METADATA[kind])
    return buffer.getvalue()


_METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
}
