"""Panels: an interval that goes on beyond its panel says so, and panels of a row share one axis."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import drawing
from analysis.drawing import Point
from analysis.stats import Cell

DOWN, UP = 7, 6
"""Matplotlib's triangles whose tip is at the point."""


def point(name: str, *perplexities: float) -> Point:
    return Point(Cell(name, name, dict(enumerate(map(math.log, perplexities)))), name)


NARROW = point("narrow", 100, 101, 102)
WIDE = point("wide", 60, 110, 140)
HIGHER = point("higher", 130, 131, 132)


def triangles(axes: Axes) -> dict[int, set[int]]:
    """The places of the triangles, by direction, each with its tip on the panel's edge."""
    bottom, top = axes.get_ylim()
    found: dict[int, set[int]] = {DOWN: set(), UP: set()}
    for line in axes.lines:
        if line.get_marker() in (DOWN, UP):
            (place,), (height,) = line.get_data()
            assert height == (bottom if line.get_marker() == DOWN else top)
            found[int(str(line.get_marker()))].add(int(place))
    return found


def test_a_cut_interval_ends_in_a_triangle_at_the_edge() -> None:
    axes = Figure().subplots()
    drawing.draw_panel(axes, [NARROW, WIDE])
    estimate = WIDE.cell.perplexity
    assert estimate is not None
    bottom, top = axes.get_ylim()
    assert estimate.mean - estimate.half_width < bottom
    assert estimate.mean + estimate.half_width > top
    assert triangles(axes) == {DOWN: {1}, UP: {1}}


def test_an_interval_that_is_whole_has_none() -> None:
    axes = Figure().subplots()
    drawing.draw_panel(axes, [NARROW, HIGHER])
    assert triangles(axes) == {DOWN: set(), UP: set()}


def test_panels_of_a_row_share_their_axis() -> None:
    panels = Figure().subplots(1, 2)
    row = [NARROW, WIDE, HIGHER]
    drawing.draw_panel(panels[0], [NARROW], row=row)
    drawing.draw_panel(panels[1], [WIDE, HIGHER], row=row)
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert triangles(panels[0]) == {DOWN: set(), UP: set()}
    assert triangles(panels[1]) == {DOWN: {0}, UP: {0}}
