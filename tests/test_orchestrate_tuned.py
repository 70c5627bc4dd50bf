"""Winners of a study taken over into runs: which runs are meant, what wins, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from spam_lab.config.compose import chosen_options, compose_run
from spam_lab.config.fields import ConfigError
from spam_lab.config.identity import run_id
from spam_lab.main import launch, main
from spam_lab.orchestrate.expand import Request, expand, expand_rows, load_sweep
from spam_lab.orchestrate.grid import Cell, Sweep
from spam_lab.orchestrate.tuned import Tuned, tuned_of


def entry(where: dict[str, Any], settings: dict[str, Any], scale: str = "nano") -> dict[str, Any]:
    return {"scale": scale, "where": where, "set": settings, "value": 5.4, "trials": 6}


SPAM = entry({"model": "llama_60m", "optimizer": "spam"}, {"optimizer.lr": 2e-3})
ADAM = entry({"model": "llama_60m", "optimizer": "adam"}, {"optimizer.lr": 3e-3})


@pytest.fixture
def winners(tmp_path: Path) -> Path:
    return write(tmp_path, [SPAM, ADAM])


def write(folder: Path, content: Any) -> Path:
    path = folder / "winners.json"
    path.write_text(json.dumps(content))
    return path


def rates(requests: list[Request]) -> dict[str, float]:
    return {request.config.optimizer.name: request.config.optimizer.lr for request in requests}


def test_runs_that_are_meant_get_their_settings(winners: Path) -> None:
    tuned = Tuned.read(str(winners))
    requests = expand(load_sweep("table2"), ["scale=nano"], tuned)
    assert rates(requests) == {"spam": 2e-3, "adam": 3e-3}
    assert {r.config.seed for r in requests} == {0, 1, 2}
    plain = expand(load_sweep("table2"), ["scale=nano"])
    assert not {r.run_id for r in requests} & {r.run_id for r in plain}
    # All else is as it was: what varies among the cells still does.
    thetas = [getattr(r.config.optimizer, "theta", None) for r in requests]
    assert thetas == [getattr(r.config.optimizer, "theta", None) for r in plain]
    assert str(tuned) == f"tuned={winners} is for 18 of 18 requests and changes 18"


def test_requests_say_what_was_found_for_them_and_where(tmp_path: Path) -> None:
    named = {**SPAM, "study": "lr_per_method", "seed": 100}
    tuned = Tuned.read(str(write(tmp_path, [named])))
    requests = expand(load_sweep("table2"), ["scale=nano"], tuned)
    source = "optimizer.lr by the study lr_per_method (scale nano, seed 100)"
    spam = {
        r.tuned
        for r in requests
        if r.config.optimizer.name == "spam" and r.labels["panel"] == "llama_60m"
    }
    assert spam == {source}
    assert {r.tuned for r in requests if r.config.optimizer.name == "adam"} == {""}
    by_hand = Tuned.read(str(write(tmp_path, [SPAM])))
    requests = expand(load_sweep("table2"), ["scale=nano"], by_hand)
    assert "optimizer.lr by winners.json (scale nano)" in {r.tuned for r in requests}
    assert {r.tuned for r in expand(load_sweep("table2"), ["scale=nano"])} == {""}


def test_runs_that_are_not_meant_stay_as_they_are(winners: Path) -> None:
    rows = [["optimizer=spam"], ["optimizer=muon"], ["model=llama_130m", "optimizer=spam"]]
    tuned = Tuned.read(str(winners))
    requests = expand_rows(rows, tuned)
    assert requests[0].config.optimizer.lr == 2e-3
    for row, request in list(zip(rows, requests, strict=True))[1:]:
        assert request.run_id == run_id(compose_run(row))
    assert "is for 1 of 3 requests and changes 1; 1 of its 2 entries are for none" in str(tuned)


def test_defaults_count_as_choices(winners: Path) -> None:
    assert chosen_options([], {})["optimizer"] == "spam"
    assert chosen_options(["optimizer=adam"], {"model": "llama_1b"})["optimizer"] == "adam"
    assert chosen_options(["optimizer=adam"], {"optimizer": "muon"})["optimizer"] == "muon"
    assert expand_rows([[]], Tuned.read(str(winners)))[0].config.optimizer.lr == 2e-3


def test_a_cell_and_the_command_line_win(tmp_path: Path) -> None:
    found = entry({"optimizer": "spam"}, {"optimizer.lr": 2e-3, "optimizer.delta_t": 36})
    path = write(tmp_path, [found])
    cells = (Cell({"c": 0}, {"optimizer.delta_t": 20}), Cell({"c": 1}, {"optimizer.theta": 100}))
    sweep = Sweep("mine", "?", cells, seeds=(0,))
    one, two = (r.config.optimizer for r in expand(sweep, [], Tuned.read(str(path))))
    assert (one.lr, one.delta_t) == (2e-3, 20)  # type: ignore[attr-defined]
    assert (two.lr, two.delta_t, two.theta) == (2e-3, 36, 100)  # type: ignore[attr-defined]
    given = expand_rows([["optimizer.lr=5e-3"]], Tuned.read(str(path)))[0].config.optimizer
    assert (given.lr, given.delta_t) == (5e-3, 36)  # type: ignore[attr-defined]


def test_what_is_set_already_changes_nothing(winners: Path) -> None:
    tuned = Tuned.read(str(winners))
    requests = expand_rows([["optimizer.lr=1e-3"]], tuned)
    assert requests[0].run_id == run_id(compose_run(["optimizer.lr=1e-3"]))
    assert "is for 1 of 1 requests and changes 0" in str(tuned)


def test_scalar_keys_are_compared_by_value(tmp_path: Path) -> None:
    path = write(tmp_path, [entry({"optimizer.theta": 1000}, {"optimizer.lr": 2e-3})])
    rows = [["optimizer.theta=1e3"], ["optimizer.theta=500"], ["optimizer=adam"]]
    requests = expand_rows(rows, Tuned.read(str(path)))
    assert [r.config.optimizer.lr == 2e-3 for r in requests] == [True, False, False]


def test_settings_of_a_method_are_not_given_to_another(tmp_path: Path) -> None:
    """A winner that sets the method itself is for runs that leave the method open."""
    path = write(tmp_path, [entry({}, {"optimizer": "adam", "optimizer.lr": 4e-3})])
    rows = [["optimizer=muon"], ["optimizer=adam"], []]
    requests = expand_rows(rows, Tuned.read(str(path)))
    assert requests[0].run_id == run_id(compose_run(rows[0]))
    assert [r.config.optimizer.name for r in requests] == ["muon", "adam", "adam"]
    assert [r.config.optimizer.lr for r in requests[1:]] == [4e-3, 4e-3]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "holds no winners"),
        ({"where": {}}, "holds no winners"),
        ([{"where": {}}], "no winner of a study"),
        ([{"where": {}, "set": {"a": [1]}, "scale": "nano"}], "no winner of a study"),
        (["spam"], "no winner of a study"),
        ([{"where": {}, "set": {"optimizer.lr": 1}}], "does not say at which scale"),
        ([entry({}, {})], "sets nothing"),
    ],
)
def test_files_that_are_none_of_winners(tmp_path: Path, content: Any, words: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(ConfigError, match=words):
        Tuned.read(str(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        Tuned.read(str(tmp_path / "none.json"))
    (tmp_path / "half.json").write_text('[{"where"')
    with pytest.raises(ConfigError, match="cannot be read"):
        Tuned.read(str(tmp_path / "half.json"))


@pytest.mark.parametrize(
    ("content", "row", "words"),
    [
        ([SPAM], ["scale=small"], "found at scale=nano, and these runs are at scale=small"),
        ([SPAM], ["optimizer=muon"], "is for none of these runs: .*optimizer=spam"),
        ([entry({"optimzer": "spam"}, {"seed": 1})], [], "none of these runs.*optimzer: no key"),
        ([SPAM, entry({"optimizer": "spam"}, {"optimizer.theta": 10})], [], "more than one entry"),
        ([entry({}, {"optimizer.thetta": 10})], [], "optimizer.thetta=10: there is no such key"),
        ([entry({}, {"optimizer.lr": -1})], [], r"optimizer.lr=-1.* is not allowed: > 0"),
    ],
    ids=["scale", "no match", "unknown where", "two", "unknown set", "out of range"],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, content: Any, row: list[str], words: str
) -> None:
    tuned = Tuned.read(str(write(tmp_path, content)))
    with pytest.raises(ConfigError, match=words):
        expand_rows([row], tuned)


def test_a_sweep_is_refused_once_for_its_scale(winners: Path) -> None:
    with pytest.raises(ConfigError) as error:
        expand(load_sweep("table2"), ["scale=small"], Tuned.read(str(winners)))
    assert str(error.value).count("scale=small") == 1


def test_the_key_is_read_from_the_command_line(winners: Path) -> None:
    assert tuned_of(["seed=1"]) is None
    assert tuned_of(["tuned=null"]) is None
    found = tuned_of(["scale=nano", f"tuned={winners}"])
    assert found is not None and len(found.winners) == 2
    assert run_id(compose_run([f"tuned={winners}"])) == run_id(compose_run([]))


def test_the_plan_says_how_many_runs_it_changed(
    winners: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spam_lab.main.estimate", lambda *_, **__: NO_COST)
    console = Console(record=True, width=200)
    words = ["seed=0,1", "optimizer=spam,muon", f"tuned={winners}", "dry_run=true"]
    assert launch([*words, f"paths.runs={tmp_path / 'runs'}"], True, console) == 0
    printed = console.export_text()
    assert f"tuned={winners} is for 2 of 4 requests and changes 2; 1 of its 2" in printed
    assert "4 runs: 4 to run" in printed


def test_a_study_takes_none(winners: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study=theta_delta_t", f"tuned={winners}"]) == 1
    assert "tuned=... is for runs" in capsys.readouterr().err


def _no_cost() -> Any:
    from spam_lab.orchestrate.cost import Cost

    return Cost(None, "")


NO_COST = _no_cost()
