"""A choice of options put together from parts is the config that Hydra composes for it, node by
node; each option is composed once; an option that says something of another group is not a part."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import DictConfig, ListConfig

from spam_lab.config import compose
from spam_lab.config.fields import ConfigError
from spam_lab.orchestrate.expand import expand, load_sweep

CACHED = (
    compose._composed,
    compose._default_groups_are_changed,
    compose._default_options,
    compose._part,
    compose._references,
    compose._settled,
)


def forget() -> None:
    for function in CACHED:
        function.cache_clear()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What Hydra is asked to compose from here on, nothing being known before or after."""
    names: list[str] = []

    def counting(name: str, overrides: list[str]) -> DictConfig:
        names.append(name)
        return hydra.compose(name, overrides=overrides)

    monkeypatch.setattr(compose, "hydra_compose", counting)
    forget()
    yield names
    forget()


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of conf/ that the test may change, in place of it."""
    folder = tmp_path / "conf"
    shutil.copytree(compose.CONF, folder)
    monkeypatch.setattr(compose, "CONF", folder)
    forget()
    yield folder
    forget()


def whole(choice: dict[str, str]) -> DictConfig:
    return compose._by_hydra("config", [f"{group}={name}" for group, name in choice.items()])


def in_parts(choice: dict[str, str]) -> DictConfig:
    return compose._composed(tuple(sorted(choice.items())), ())


def nodes(config: Any, key: str = "") -> Iterator[tuple[object, ...]]:
    """Every node: its key, type, what it may hold, and its unresolved value."""
    about = config._metadata
    kind = (key, type(config), about.ref_type, about.object_type, about.optional)
    if not isinstance(config, DictConfig | ListConfig):
        yield (*kind, config._value())
        return
    flags = tuple(config._get_flag(flag) for flag in ("struct", "readonly"))
    yield (*kind, *flags)
    names: list[Any] = list(config if isinstance(config, DictConfig) else range(len(config)))
    for name in names:
        yield from nodes(config._get_node(name), f"{key}.{name}")


def test_a_choice_of_parts_is_what_hydra_composes() -> None:
    """Choices of one option in each group: every option that is a part is in one of them."""
    parts = {
        group: [name for name in names if compose._part(group, name) is not None]
        for group, names in compose.groups().items()
    }
    assert "pretraining" in parts["task"]
    assert parts["model"] == compose.groups()["model"]
    assert len(parts["optimizer"]) > 20
    for number in range(max(map(len, parts.values()))):
        choice = {group: names[number % len(names)] for group, names in parts.items()}
        assert list(nodes(in_parts(choice))) == list(nodes(whole(choice))), choice


def test_the_cells_of_a_sweep_compose_each_option_once(asked: list[str]) -> None:
    requests = expand(load_sweep("table3"), ["scale=paper"])
    options = {f"model/{name}" for name in {r.config.model.name for r in requests}}
    choices = {(r.config.model.name, r.labels["value"]) for r in requests}
    optimizers = {f"optimizer/{method}" for _, method in choices}
    assert len(choices) == len(options) * len(optimizers) >= 20
    assert set(asked) <= {"config", "scale/paper", "precision/bf16", *options, *optimizers}
    assert len(asked) == len(set(asked))


ADAM = "optimizer: {name: adam, lr: 0.5}\n"
FOR_ALL = "# @package _global_\ndefaults: [/optimizer/base_adam@optimizer, "


@pytest.mark.parametrize(
    "text",
    [
        f"{FOR_ALL} _self_]\n{ADAM}model: {{hidden_size: 8}}\n",
        f"{FOR_ALL} override /scale: small, _self_]\n{ADAM}",
    ],
    ids=["sets another group's value", "chooses another group's option"],
)
def test_an_option_that_reaches_other_groups_is_composed_whole(conf: Path, text: str) -> None:
    (conf / "optimizer" / "reaching.yaml").write_text(text)
    choice = {"optimizer": "reaching", "model": "llama_130m"}
    assert compose._part("optimizer", "reaching") is None
    assert list(nodes(in_parts(choice))) == list(nodes(whole(choice)))


def test_a_group_set_in_config_yaml_keeps_its_value(conf: Path) -> None:
    with (conf / "config.yaml").open("a") as file:
        file.write("\nmodel: {initializer_range: 0.5}\n")
    choice = {"model": "llama_130m", "optimizer": "adam"}
    assert in_parts(choice).model.initializer_range == 0.5
    assert list(nodes(in_parts(choice))) == list(nodes(whole(choice)))


def test_a_changed_value_changes_the_config(conf: Path) -> None:
    path = conf / "model" / "llama_130m.yaml"
    before = compose.compose_run(["model=llama_130m"]).model.paper_steps
    path.write_text(
        path.read_text().replace(f"paper_steps: {before}", f"paper_steps: {before + 1}")
    )
    forget()
    assert compose.compose_run(["model=llama_130m"]).model.paper_steps == before + 1


def test_a_refused_option_is_refused_in_hydras_words(conf: Path) -> None:
    with (conf / "optimizer" / "adam.yaml").open("a") as file:
        file.write("\nbeta3: 0.5\n")
    with pytest.raises(ConfigError, match=r"optimizer/adam.*beta3") as parts:
        in_parts({"optimizer": "adam"})
    with pytest.raises(ConfigError) as hydras:
        whole({"optimizer": "adam"})
    assert str(parts.value) == str(hydras.value)
