"""Cells beside a choice of the command line: a second corpus next to the first."""

from __future__ import annotations

import pytest

from spam_lab.config.fields import ConfigError
from spam_lab.orchestrate.expand import expand
from spam_lab.orchestrate.grid import Cell, Sweep

MIRROR = ["data.files=c4/*.gz", "data.validation_files=c4v/*.gz"]
OWN = {"data": "slimpajama", "data.files": None, "data.validation_files": None}
TWO_CORPORA = Sweep(
    "two",
    "Do two corpora differ?",
    (
        Cell({"panel": "own", "value": 1}, {"optimizer": "adam"}),
        Cell({"panel": "second", "value": 1}, {"optimizer": "adam", **OWN}, beside={"data": "c4"}),
    ),
    seeds=(0, 1),
)


def test_a_cell_beside_c4_is_asked_for_with_c4_alone() -> None:
    alone = expand(TWO_CORPORA, [])
    assert [(r.labels["panel"], r.config.data.name) for r in alone] == [("own", "embedded")] * 2
    both = expand(TWO_CORPORA, ["data=c4", *MIRROR])
    assert [(r.labels["panel"], r.config.data.name, r.config.data.files) for r in both] == [
        *[("own", "c4", "c4/*.gz")] * 2,
        *[("second", "slimpajama", None)] * 2,
    ]
    assert both[0].cell_id != both[2].cell_id


def test_only_the_second_corpus_is_set_in_place_of_the_command_line() -> None:
    with pytest.raises(ConfigError, match="sets optimizer itself"):
        expand(TWO_CORPORA, ["data=c4", "optimizer=spam"])
