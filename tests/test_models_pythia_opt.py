"""Pythia-70M and OPT-125M: published sizes, kinds of weights, what sparse SPAM is sparse in."""

from __future__ import annotations

import math

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from spam_lab.config.compose import compose_run
from spam_lab.data import Batch
from spam_lab.models import build_model, named_kinds, parameter_count, token_losses
from spam_lab.optim.registry import build_optimizer
from tests.conftest import ROOT

PUBLISHED = {"pythia_70m": 70_426_624, "opt_125m": 125_239_296}
"""Model cards of EleutherAI/pythia-70m and facebook/opt-125m, both with 2048 positions."""
PUBLISHED_POSITIONS = 2048

RANKS = {"pythia_70m": 128, "opt_125m": 256}
LINEAR = {
    # (rows, columns) of one layer's attention and feed-forward matrices, from the model cards
    "pythia_70m": [(1536, 512), (512, 512), (2048, 512), (512, 2048)],
    "opt_125m": 4 * [(768, 768)] + [(3072, 768), (768, 3072)],
}
"""GaLore's ranks of the LLaMA nearest in size, and what they apply to."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_number_of_weights(name: str) -> None:
    model = compose_run([f"model={name}", "scale=paper"]).model
    assert parameter_count(model, PUBLISHED_POSITIONS) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_densities_match_the_memory_of_galore(name: str) -> None:
    """Per matrix m x n and rank r, GaLore keeps r min + 2 r max numbers, Adam 2 m n."""
    run = compose_run([f"model={name}", "scale=paper", "optimizer=spam_sparse"])
    rank, shapes = RANKS[name], LINEAR[name]
    kept = sum(rank * min(shape) + 2 * rank * max(shape) for shape in shapes)
    adam = sum(2 * math.prod(shape) for shape in shapes)
    assert run.optimizer.density == pytest.approx(kept / adam, abs=1e-9)  # type: ignore[attr-defined]


@pytest.mark.parametrize("scale", ["nano", "small"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_it_learns_with_dense_and_sparse_spam(name: str, scale: str) -> None:
    run = compose_run([f"model={name}", f"scale={scale}", "optimizer=spam_sparse"])
    model = build_model(run.model, sequence_length=16, seed=0)
    named = named_kinds(model)
    kinds = {"embedding", "attention", "ffn", "norm"} | (
        {"head"} if name == "pythia_70m" else set()
    )
    assert {kind for _, kind, _ in named} == kinds
    optimizer = build_optimizer(run.optimizer, named, seed=0)
    ids = torch.arange(48).view(3, 16)
    losses = []
    for _ in range(8):
        total, count = token_losses(model, Batch(ids, ids))
        loss = total / count
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("name", PUBLISHED)
def test_sparse_spam_is_sparse_in_matrices_alone(name: str) -> None:
    """Linear layers of attention and feed-forward, found by their type; never their biases."""
    run = compose_run([f"model={name}", "optimizer=spam_sparse"])
    model = build_model(run.model, sequence_length=16, seed=0)
    inside = {
        id(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    }
    optimizer = build_optimizer(run.optimizer, named_kinds(model), seed=0)
    sparse = {
        id(parameter)
        for group in optimizer.param_groups
        if group["density"] < 1
        for parameter in group["params"]
    }
    assert sparse == inside and sparse
    listed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(listed) == len(set(map(id, listed))) == len(list(model.parameters()))


def test_a_word_of_ours_is_not_taken_for_opts_padding() -> None:
    """Row 1 of OPT's embedding is padding by default: zero, and without a gradient."""
    run = compose_run(["model=opt_125m"])
    model = build_model(run.model, sequence_length=16, seed=0)
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, torch.nn.Embedding) and embedding.padding_idx is None
    assert embedding.weight[1].any()


def test_every_table_of_the_optimizers_has_both() -> None:
    """Learning rates, densities and ranks by model name."""
    found = 0
    for path in sorted((ROOT / "conf/optimizer").glob("*.yaml")):
        content = OmegaConf.load(path)
        assert isinstance(content, DictConfig)
        for key in ("learning_rates", "densities", "ranks"):
            table = content.get(key)
            if isinstance(table, DictConfig) and "finetuning" not in table:  # that of one task
                found += 1
                assert set(PUBLISHED) <= set(table), f"{path.name}: {key}"
    assert found > 15
