"""Names of runs: short where a run is usual, telling where it is not."""

from __future__ import annotations

import dataclasses

from spam_lab.config.compose import compose_run
from spam_lab.config.labels import run_labels


def labels(*rows: list[str]) -> list[str]:
    return run_labels([dataclasses.asdict(compose_run(row)) for row in rows])


def test_the_setting_that_a_sweep_varies_around_has_the_shortest_name() -> None:
    varied = labels(
        [], ["seed=1"], ["optimizer.theta=10"], ["optimizer.delta_t=7"], ["optimizer=adam"]
    )
    assert varied == [
        "spam llama_60m seed=0",
        "spam llama_60m seed=1",
        "spam llama_60m theta=10 seed=0",
        "spam llama_60m delta_t=7 seed=0",
        "adam llama_60m seed=0",
    ]


def test_a_stabilizer_shows_in_the_name_by_what_it_changes() -> None:
    assert labels([], ["seed=1"], ["stabilizer=embed_ln"], ["stabilizer=scaled_init"])[2:] == [
        "spam llama_60m embed_norm=layer_norm seed=0",
        "spam llama_60m scaled_init=residual seed=0",
    ]


def test_in_a_plain_grid_every_run_is_named_by_its_value() -> None:
    assert labels(["optimizer.lr=0.001"], ["optimizer.lr=0.5"]) == [
        "spam llama_60m lr=0.001 seed=0",
        "spam llama_60m lr=0.5 seed=0",
    ]


def test_names_tell_all_runs_of_a_grid_apart() -> None:
    rows = [
        [f"optimizer.theta={theta}", f"optimizer.warmup_steps={warmup}", f"seed={seed}"]
        for theta in (10, 5000)
        for warmup in (0, 15, 20)
        for seed in (0, 1)
    ]
    assert len(set(labels(*rows))) == len(rows)
