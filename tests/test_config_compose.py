"""Composition with the real Hydra: what is refused and how it is said, and that the fast path for
scalar overrides equals Hydra's own composition."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spam_lab.config.compose import (
    CONF,
    compose_command,
    compose_run,
    expand_multirun,
    from_dict,
    groups,
    register,
    run_config,
)
from spam_lab.config.fields import ConfigError, walk
from spam_lab.config.schema import check
from spam_lab.orchestrate.calibrate import parameter_count
from spam_lab.orchestrate.expand import expand, load_sweep, sweep_names

REFUSED = [
    # (override, words that the message must hold)
    ("optimizer.tehta=5000", ["optimizer.tehta", "did you mean optimizer.theta"]),
    ("sede=1", ["sede", "did you mean seed"]),
    ("optimizer=spamm", ["optimizer=spamm", "one of", "adam", "did you mean spam"]),
    ("model=llama_7b", ["model=llama_7b", "llama_60m"]),
    ("optimizer.delta_t=2.5", ["optimizer.delta_t=2.5", "type"]),
    ("optimizer.theta=many", ["optimizer.theta=many", "type"]),
    ("optimizer.density=0", ["optimizer.density=0", "> 0 and <= 1"]),
    ("optimizer.density=1.5", ["optimizer.density=1.5", "<= 1"]),
    ("optimizer.delta_t=0", ["optimizer.delta_t=0", ">= 1"]),
    ("optimizer.theta=-1", ["optimizer.theta=-1", "> 0"]),
    ("optimizer.theta=.inf", ["optimizer.theta"]),
    ("optimizer.lr=nan", ["optimizer.lr=nan", "> 0"]),
    ("optimizer.selection=best", ["optimizer.selection=best", "random", "weight_magnitude"]),
    ("optimizer.delta_t=null", ["optimizer.warmup_steps", "0"]),
    ("train.micro_batch_size=3", ["train.micro_batch_size=3", "divisor of data.batch_size"]),
    ("model.num_attention_heads=5", ["num_attention_heads=5", "divisor of model.hidden_size"]),
    ("schedule.warmup_steps=100000", ["schedule.warmup_steps=100000", "schedule.steps"]),
    ("data.source=hub", ["data.hub_name"]),
    ("precision.autocast=maybe", ["precision.autocast=maybe"]),
    ("optimizer.theta=1,2", ["add -m"]),
    ("stabilizer=embed_lm", ["stabilizer=embed_lm", "none", "did you mean embed_ln"]),
    ("stabilizer.embed_norm=batch", ["stabilizer.embed_norm=batch", "layer_norm", "rms_norm"]),
    ("stabilizer.embed_detach=0", ["stabilizer.embed_detach=0", "> 0 and <= 1"]),
    ("stabilizer.embed_detach=1.5", ["stabilizer.embed_detach=1.5", "> 0 and <= 1"]),
    ("stabilizer.scaled_init=some", ["stabilizer.scaled_init=some", "residual", "all"]),
    ("stabilizer.scaled_embed=maybe", ["stabilizer.scaled_embed=maybe", "type"]),
    ("=5", ["=5"]),
    ("sweep=figure99 ", ["sweep"]),
]


@pytest.mark.parametrize(("override", "words"), REFUSED, ids=[o for o, _ in REFUSED])
def test_bad_values_are_refused_by_name(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        command = compose_command([override])
        if command.sweep is not None:
            load_sweep(command.sweep)
    for word in words:
        assert word in str(error.value)


def test_a_method_without_resets_takes_no_reset_warmup() -> None:
    """N belongs to resets: Adam has no such key, and says which keys it has."""
    with pytest.raises(ConfigError, match=r"optimizer.warmup_steps.*no such key"):
        compose_run(["optimizer=adam", "optimizer.warmup_steps=150"])


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        compose_run(["optimizer.density=0", "optimizer.theta=0", "schedule.final_ratio=2"])
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optimizer=adam", "optimizer.lr=5e3"],
        ["scale=paper", "model=llama_1b", "optimizer.theta=1e3", "data=c4"],
        ["optimizer.delta_t='${scaled:interval,250}'", "scale=small", "seed=3"],
        ["+model.architecture.rope_theta=5000", "precision=bf16"],
    ],
)
def test_merging_scalars_equals_a_full_composition(overrides: list[str]) -> None:
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        full = OmegaConf.to_object(compose("config", overrides=overrides))
    assert dataclasses.asdict(run_config(full)) == dataclasses.asdict(compose_run(overrides))


def test_every_option_of_every_group_composes() -> None:
    for group, options in groups().items():
        for option in options:
            compose_run([f"{group}={option}"])


def test_paper_scale_is_the_paper() -> None:
    """Tables 6 and 7, written out again here from the paper's text."""
    sizes = {
        "llama_60m": (512, 1376, 8, 8, 10_000, 1e-3),
        "llama_130m": (768, 2048, 12, 12, 20_000, 8e-4),
        "llama_350m": (1024, 2736, 16, 24, 60_000, 4e-4),
        "llama_1b": (2048, 5461, 32, 24, 89_000, 2e-4),
    }
    for name, (hidden, intermediate, heads, layers, steps, lr) in sizes.items():
        run = compose_run([f"model={name}", "scale=paper", "data=c4", "precision=bf16"])
        model = run.model
        assert (model.hidden_size, model.intermediate_size) == (hidden, intermediate)
        assert (model.num_attention_heads, model.num_hidden_layers) == (heads, layers)
        assert (model.vocab_size, run.schedule.steps, run.optimizer.lr) == (32_000, steps, lr)
        assert (run.schedule.warmup_steps, run.schedule.final_ratio) == (1000, 0.1)
        assert (run.data.sequence_length, run.data.batch_size) == (256, 512)
        assert (run.optimizer.delta_t, run.optimizer.theta) == (500, 5000.0)
        assert (run.optimizer.warmup_steps, run.optimizer.density) == (150, 1.0)
        assert (run.optimizer.beta1, run.optimizer.beta2, run.optimizer.eps) == (0.9, 0.999, 1e-6)


def test_nano_maps_intervals_in_one_place() -> None:
    run = compose_run(["model=llama_130m", "scale=nano"])
    assert (run.optimizer.delta_t, run.optimizer.warmup_steps) == (50, 15)
    assert run.optimizer.beta2 == 0.99
    assert (run.schedule.steps, run.schedule.warmup_steps) == (333, 17)


def test_a_larger_model_has_the_intervals_that_the_paper_gives_it() -> None:
    """Table 7: sparse SPAM on LLaMA-1B alone resets at other intervals, whoever asks for it."""
    for scale, divisor in (("paper", 1), ("small", 2), ("nano", 10)):
        for model, (delta_t, n) in {"llama_350m": (500, 150), "llama_1b": (1000, 300)}.items():
            run = compose_run([f"scale={scale}", f"model={model}", "optimizer=spam_sparse"])
            optimizer: Any = run.optimizer
            found = (optimizer.delta_t, optimizer.warmup_steps)
            assert found == (delta_t // divisor, n // divisor), (scale, model)
    dense: Any = compose_run(["scale=paper", "model=llama_1b", "optimizer=spam"]).optimizer
    assert (dense.delta_t, dense.warmup_steps) == (500, 150)


@pytest.mark.parametrize(
    ("observe", "scale", "models"),
    [
        ("thousand_steps", "paper", ("pythia_70m", "llama_130m", "llama_350m", "llama_1b")),
        ("spikes", "paper", ("llama_1b",)),
        ("spikes", "nano", ("llama_1b",)),
    ],
)
def test_spikes_are_counted_in_all_weights_where_a_gpu_holds_that(
    observe: str, scale: str, models: tuple[str, ...]
) -> None:
    """At up to 135 bytes a weight in bfloat16: the rule is on sizes, the table on names."""
    for model in models:
        run = compose_run([f"scale={scale}", f"model={model}", f"observe={observe}"])
        fits = 135 * parameter_count(run.model) < 24e9
        assert run.observe.definition == ("all" if fits else "sampled"), model


def test_multirun_syntax_becomes_a_product() -> None:
    rows = expand_multirun(["optimizer.theta=500,1000", "seed=range(0,2)", "scale=nano"])
    assert rows == [
        ["optimizer.theta=500", "seed=0", "scale=nano"],
        ["optimizer.theta=500", "seed=1", "scale=nano"],
        ["optimizer.theta=1000", "seed=0", "scale=nano"],
        ["optimizer.theta=1000", "seed=1", "scale=nano"],
    ]


def test_a_stored_config_comes_back_typed() -> None:
    run = compose_run(["optimizer=adam", "optimizer.clip_norm=1"])
    again = from_dict(dataclasses.asdict(run))
    assert again == run
    assert type(again.optimizer) is type(run.optimizer)


def test_a_config_of_another_shape_is_refused() -> None:
    stored = dataclasses.asdict(compose_run([]))
    stored["optimizer"]["bogus"] = 1
    with pytest.raises(ConfigError, match="schema"):
        from_dict(stored)


def test_every_key_says_what_it_means() -> None:
    for key, field, _ in walk(compose_run([])):
        assert field.metadata.get("doc"), key


def test_a_model_without_a_published_rate_asks_for_one() -> None:
    with pytest.raises(ConfigError, match=r"optimizer.lr has no published value.*my_model"):
        compose_run(["model.name=my_model"])


@pytest.mark.parametrize("name", sweep_names())
@pytest.mark.parametrize("scale", ["nano", "small", "paper"])
def test_every_sweep_composes_at_every_scale(name: str, scale: str) -> None:
    requests = expand(load_sweep(name), [f"scale={scale}"])
    cells = {(tuple(r.labels.items()), r.seed) for r in requests}
    assert len(cells) == len(requests), "two cells have the same labels"


def test_a_sweep_refuses_an_override_of_its_own_axis() -> None:
    with pytest.raises(ConfigError, match=r"sets optimizer\.theta itself"):
        expand(load_sweep("figure9"), ["optimizer.theta=3"])


def test_a_sweep_refuses_all_its_bad_cells_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        expand(load_sweep("figure9"), ["train.micro_batch_size=3"])
    assert len(str(error.value).splitlines()) > 15


SETTABLE: dict[str, list[object]] = {
    "seed": [0, 3],
    "data_seed": [5],
    "optimizer.theta": [500, 5e3, "1000"],
    "optimizer.delta_t": [7, "${scaled:interval,250}"],
    "optimizer.warmup_steps": ["${optimizer.delta_t}"],
    "optimizer.lr": [0.1, 1],
    "optimizer.weight_decay": [0.1],
    "model.name": ["llama_60m", "mine"],
    "model.hidden_size": [64],
    "scale.lr": [3.0],
    "scale.name": ["other"],
    "schedule.steps": [100],
    "train.micro_batch_size": [2, None],
    "train.device": ["cpu"],
    "cluster.name": ["inline"],
    "cluster.gpus": [2],
    "cluster.time": [30],
    "paths.runs": ["elsewhere"],
    "evaluation.every": [10],
    "stabilizer.embed_detach": [0.1, None],
    "optimizer": ["spam", "spam_sparse"],
    "model": ["llama_130m", "llama_1b"],
    "scale": ["small", "paper"],
    "observe": ["spikes"],
    "cluster": ["slurm"],
}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(sorted(SETTABLE)), max_size=6, unique=True).flatmap(
        lambda keys: st.fixed_dictionaries({key: st.sampled_from(SETTABLE[key]) for key in keys})
    )
)
def test_the_fast_way_is_the_whole_way(values: dict[str, object]) -> None:
    """Against Hydra's own composition of the same overrides, interpolations and all."""
    lines = [f"{key}={'null' if value is None else value}" for key, value in values.items()]
    register()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            whole: object = OmegaConf.to_object(compose("config", overrides=lines))
    except OmegaConfBaseException:  # a model that no table knows, without a learning rate
        with pytest.raises(ConfigError):
            compose_command(lines)
        return
    try:
        fast: object = compose_command(lines)
    except ConfigError:  # refused by our own checks: what was set is what they see
        with pytest.raises(ConfigError):
            check(whole)
        return
    assert fast == whole


def test_two_thousand_runs_compose_in_seconds() -> None:
    """Processor time, so that a busy machine does not matter."""
    start = time.process_time()
    for row in expand_multirun(["seed=range(0,5)", "optimizer.theta=range(1,401)"]):
        compose_run(row)
    assert time.process_time() - start < 12
