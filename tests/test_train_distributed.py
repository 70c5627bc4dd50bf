"""One run over several real processes: the numbers of one process, one decision at one step, one
writer, and an end in bounded time where a rank is lost.

`TOLERANCE` is what the order of float32 sums may move a loss or a norm in 12 steps of these runs,
relative; measured: 2e-7 and 2e-6. A world trains many cases before it ends (`tests.ranks`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from spam_lab.config.compose import compose_run
from spam_lab.data.rows import IGNORED, Batch
from spam_lab.optim.registry import methods
from spam_lab.orchestrate.worker import Order
from spam_lab.record.observations import read_observations
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory
from spam_lab.train import checkpoint
from spam_lab.train.distributed import SOLO, PeerLost, is_peers_fault, join
from spam_lab.train.loop import Training
from spam_lab.train.replica import LARGE, is_sharded
from tests.conftest import tiny_run
from tests.ranks import Case, Result, together
from tests.test_train_loop import Listed
from tests.test_train_resume import prepare

TOLERANCE = 1e-5

VARIANTS: dict[str, list[str]] = {
    "dense_spam": ["optimizer=spam", "train.micro_batch_size=1"],
    "sparse_spam": ["optimizer=spam_sparse"],
    "adam_documents": ["optimizer=adam", "data.layout=document", "optimizer.clip_norm=0.5"],
}
"""Runs of 5 sequences a batch, which neither 2 nor 3 divides; with accumulation and without, with
rows of unequal length, with spikes, resets and masks."""

OBSERVED = ["observe=spikes", "observe.window=8", "observe.thresholds=[2]"]

Told = Mapping[int, Mapping[str, float]]


def overrides(cache: Path, variant: str) -> list[str]:
    chosen = VARIANTS[variant]
    spam = "spam" in chosen[0]
    kept = [o for o in tiny_run(cache, cache) if spam or not o.startswith("optimizer")]
    size = ["data.batch_size=5", "schedule.steps=12", "evaluation.every=4"]
    return [*kept, *chosen, *size]


def alone(config: list[str], folder: Path) -> Told:
    torch.set_num_threads(1)
    journal = Listed()
    Training(compose_run(config), folder, journal).run()
    return journal.values


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[str, Told]:
    """Every variant in one process."""
    folder = tmp_path_factory.mktemp("single")
    return {name: alone(overrides(cache, name), folder / name) for name in VARIANTS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def of_two(folder: Path, cache: Path) -> dict[str, list[Result]]:
    """What two ranks saw, by case; of three ranks below."""
    base = overrides(cache, "dense_spam")
    bad = ["optimizer.lr=1e30", "optimizer.spike_rule=none"]
    fsdp = "train.sharding=fsdp"
    cases = [
        *(Case(n, overrides(cache, n), str(folder / "two" / n)) for n in VARIANTS),
        *(
            Case(f"{n}_fsdp", [*overrides(cache, n), fsdp], str(folder / "two" / f"{n}_fsdp"))
            for n in ("dense_spam", "adam_documents")
        ),
        Case("observed", [*base, *OBSERVED], str(folder / "observed")),
        Case("stopped", base, str(folder / "stopped"), stop=(1, 6)),
        Case("stopped_fsdp", [*base, fsdp], str(folder / "stopped_fsdp"), stop=(1, 6)),
        Case("diverged", [*base, *bad], str(folder / "diverged")),
        Case("diverged_fsdp", [*base, *bad, fsdp], str(folder / "diverged_fsdp")),
        *(
            Case(f"refused_{name}", [*small(cache, name), fsdp], str(folder / "refused"))
            for name in ("galore", "spam_sparse", "muon")
        ),
        Case("auto_galore", small(cache, "galore"), str(folder / "galore")),
        Case("too_many", [*base, "data.batch_size=1"], str(folder / "refused")),
        Case("dropout", small(cache, "lora"), str(folder / "refused")),
    ]
    root = folder / "orders"
    prepare([*tiny_run(root, cache), "schedule.steps=6"], root)
    order = str(root / "order.json")
    cases += [Case(name, [], "", order=order) for name in ("executed", "executed_again")]
    found = together(folder / "two", cases, 2)
    return {case.name: results for case, results in zip(cases, found, strict=True)}


@pytest.fixture(scope="module")
def of_three(folder: Path, cache: Path, of_two: dict[str, list[Result]]) -> dict[str, list[Result]]:
    """Three ranks: the variants again, and what two ranks had begun."""
    base = overrides(cache, "dense_spam")
    fsdp = "train.sharding=fsdp"
    cases = [
        *(Case(n, overrides(cache, n), str(folder / "three" / n)) for n in VARIANTS),
        Case("sharded", [*base, fsdp], str(folder / "three" / "sharded")),
        Case("resumed_sharded", [*base, fsdp], str(copy(folder / "stopped"))),
        Case("resumed_whole", base, str(copy(folder / "stopped_fsdp"))),
        Case("killed", base, str(folder / "killed"), kill=(2, 7)),
    ]
    begun = time.monotonic()
    found = together(folder / "three", cases, 3)
    assert time.monotonic() - begun < 400, "a killed rank holds the others up no longer than that"
    return {case.name: results for case, results in zip(cases, found, strict=True)}


def small(cache: Path, optimizer: str) -> list[str]:
    kept = [o for o in tiny_run(cache, cache) if not o.startswith("optimizer")]
    return [*kept, f"optimizer={optimizer}", "schedule.steps=2", "schedule.warmup_steps=0"]


def copy(path: Path) -> Path:
    """A folder of checkpoints to go on from, apart from the original."""
    import shutil

    target = path.with_name(f"{path.name}_again")
    shutil.copytree(path, target)
    return target


def steps(result: Result) -> dict[int, dict[str, float]]:
    return {int(step): told for step, told in result.values.items()}


def assert_close(one: Told, other: Told, first: int = 1, last: int = 12) -> None:
    """The same losses from `first` to `last`, and the same norms, counts and resets."""
    for step in range(first, last + 1):
        for name in ("train/loss", "train/grad_norm", "validation/loss", "spam/resets"):
            assert (name in one[step]) == (name in other[step]), (step, name)
            got, expected = (told[step].get(name, 0.0) for told in (one, other))
            assert got == pytest.approx(expected, rel=TOLERANCE), (step, name)
        clipped = [told[step].get("spam/clipped_fraction", 0.0) for told in (one, other)]
        # An entry beside the threshold may fall on either side of it.
        assert clipped[0] == pytest.approx(clipped[1], rel=0.02, abs=1e-4), step


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_ranks_train_the_run_of_one_process(
    variant: str, size: int, single: dict[str, Told], request: pytest.FixtureRequest
) -> None:
    results = request.getfixturevalue("of_two" if size == 2 else "of_three")[variant]
    assert [result.state for result in results] == ["done"] * size
    assert_close(steps(results[0]), single[variant])
    assert {12, 8, 4} == {s for s, told in single[variant].items() if "validation/loss" in told}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_rank_has_the_same_weights_and_masks(
    variant: str, of_two: dict[str, list[Result]], of_three: dict[str, list[Result]]
) -> None:
    for results in (of_two[variant], of_three[variant]):
        assert len({result.weights for result in results}) == 1, "to the bit"
        assert all(result.masks == results[0].masks for result in results)
    assert bool(of_two[variant][0].masks) is (variant == "sparse_spam")


def test_only_rank_0_writes(of_two: dict[str, list[Result]], folder: Path) -> None:
    assert of_two["dense_spam"][1].values == {}
    assert checkpoint.steps(folder / "two" / "dense_spam") == [12]


@pytest.mark.parametrize("variant", ["dense_spam", "adam_documents"])
def test_shards_train_the_run_of_one_process(
    variant: str, single: dict[str, Told], of_two: dict[str, list[Result]]
) -> None:
    results = of_two[f"{variant}_fsdp"]
    assert [result.state for result in results] == ["done", "done"]
    assert_close(steps(results[0]), single[variant])
    assert results[0].weights != results[1].weights, "nothing was sharded"


def test_spikes_are_counted_on_every_shard(
    single: dict[str, Told], of_two: dict[str, list[Result]], of_three: dict[str, list[Result]]
) -> None:
    """In counts by kind, and over all entries; three ranks have shards of unequal length."""
    expected = single["dense_spam"][12]["spam/clipped_total"]
    assert expected > 100
    assert_close(steps(of_three["sharded"][0]), single["dense_spam"])
    for result in (of_two["dense_spam_fsdp"][0], of_three["sharded"][0], of_two["dense_spam"][0]):
        assert steps(result)[12]["spam/clipped_total"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("case", ["stopped", "stopped_fsdp"])
def test_a_stop_asked_of_one_rank_stops_all(
    case: str, of_two: dict[str, list[Result]], folder: Path
) -> None:
    assert [(r.state, r.step) for r in of_two[case]] == [("stopped", 6)] * 2
    assert checkpoint.steps(folder / case)[-1] == 6


def test_a_run_goes_on_with_another_number_of_ranks(
    single: dict[str, Told],
    of_two: dict[str, list[Result]],
    of_three: dict[str, list[Result]],
    folder: Path,
    cache: Path,
) -> None:
    """From two ranks to one and to three, from copies to shards and back."""
    for case in ("stopped", "stopped_fsdp"):
        told = alone(overrides(cache, "dense_spam"), folder / case)
        assert min(told) == 7
        assert_close(told, single["dense_spam"], first=7)
    for case in ("resumed_sharded", "resumed_whole"):
        told = steps(of_three[case][0])
        assert min(told) == 7
        assert_close(told, single["dense_spam"], first=7)


def test_checkpoints_do_not_tell_who_wrote_them(
    of_two: dict[str, list[Result]], folder: Path
) -> None:
    """Keys, shapes and dtypes of a sharded run's are those of one process's."""
    shapes = [
        outline(checkpoint.load(folder / path, 12, patience=0))
        for path in ("two/dense_spam", "two/dense_spam_fsdp")
    ]
    assert shapes[0] == shapes[1]


def outline(content: Any) -> Any:
    if isinstance(content, torch.Tensor):
        return tuple(content.shape), content.dtype
    if isinstance(content, dict):
        return {key: outline(value) for key, value in content.items() if key != "clipped_total"}
    return [outline(value) for value in content] if isinstance(content, list) else content


@pytest.mark.parametrize("case", ["diverged", "diverged_fsdp"])
def test_all_ranks_see_the_divergence(case: str, of_two: dict[str, list[Result]]) -> None:
    one, other = of_two[case]
    assert one.state == other.state == "diverged"
    assert one.step == other.step < 12
    assert one.reason == other.reason


def test_what_ranks_cannot_do_is_refused_by_all_of_them(of_two: dict[str, list[Result]]) -> None:
    """And they go on to the next run, in step."""
    expected = {
        "refused_galore": "train.sharding=fsdp is not allowed: train.sharding=ddp, because galore",
        "refused_spam_sparse": "spam cannot be sharded: optimizer.density=",
        "refused_muon": "because muon cannot be sharded",
        "too_many": "data.batch_size=1 is not allowed: at least 2",
        "dropout": "optimizer.dropout=",
    }
    for case, text in expected.items():
        for result in of_two[case]:
            assert result.error.startswith("ConfigError: ") and text in result.error
    assert [result.state for result in of_two["auto_galore"]] == ["done", "done"]


def test_a_killed_rank_ends_the_others(of_three: dict[str, list[Result]], folder: Path) -> None:
    assert of_three["killed"] == []
    for rank in (0, 1):
        reason = (folder / "three" / f"died.{rank}").read_text()
        assert reason.startswith(f"rank {rank} of 3 lost a peer: ")
    assert not (folder / "three" / "died.2").exists()
    assert checkpoint.load_newest(folder / "killed")[0] == 5  # type: ignore[index]


def test_a_run_directory_is_moved_by_rank_0_alone(
    of_two: dict[str, list[Result]], folder: Path
) -> None:
    """Through `execute`, twice: the second time there is nothing to do, and both know it."""
    order = Order.read(folder / "orders" / "order.json")
    directory = RunDirectory(order.root, order.run_ids[0])
    assert [result.state for result in of_two["executed"]] == ["done", ""]
    assert [result.state for result in of_two["executed_again"]] == ["", ""]
    assert directory.status().state is State.DONE
    assert directory.status().attempt == 1
    assert [line.step for line in directory.metrics()][-1] == 6


def test_a_rank_that_never_comes_is_missed() -> None:
    begun = time.monotonic()
    with pytest.raises(PeerLost, match=r"rank 1 of 2 could not meet the others at 127\.0\.0\.1:1"):
        join(1, 2, 1, "127.0.0.1", 1, "cpu", timeout=1)
    assert time.monotonic() - begun < 30


def test_one_process_is_a_world_of_its_own() -> None:
    assert join(0, 1, 0, "nowhere", 1, "cpu") is SOLO
    assert SOLO.is_main and SOLO.any(True) and not SOLO.any(False)
    assert SOLO.from_main(None) is None


def test_an_own_failure_is_not_a_peers() -> None:
    assert not is_peers_fault(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_peers_fault(torch.OutOfMemoryError("out of memory"))
    assert is_peers_fault(torch.distributed.DistBackendError("remote process exited"))
    assert is_peers_fault(RuntimeError("[x/pair.cc:5] Connection closed by peer [::1]:7"))


@pytest.mark.parametrize(("rows", "size"), [(4, 2), (5, 2), (5, 3), (7, 4), (3, 3)])
def test_shares_are_all_rows_once(rows: int, size: int) -> None:
    batch = Batch(torch.arange(rows * 2).view(rows, 2), torch.arange(rows * 2).view(rows, 2))
    shares = [batch.share(rank, size) for rank in range(size)]
    assert {len(share.labels) for share in shares} == {-(-rows // size)}
    labels = torch.cat([share.labels for share in shares])
    assert torch.equal(labels[labels[:, 0] != IGNORED], batch.labels)
    assert batch.share(0, 1) is batch


def test_large_models_of_elementwise_methods_are_sharded() -> None:
    """A model of the paper's largest size is above the threshold, its smaller ones are not."""
    assert LARGE == 10**9
    large, small = ["scale=paper", "model=llama_1b"], ["scale=paper", "model=llama_60m"]
    assert is_sharded(compose_run([*large, "optimizer=adam"]))
    assert is_sharded(compose_run([*large, "optimizer=spam"]))
    assert not is_sharded(compose_run([*large, "optimizer=spam_sparse"]))
    assert not is_sharded(compose_run([*large, "optimizer=galore"]))
    assert not is_sharded(compose_run([*small, "optimizer=adam"]))


def test_a_method_is_coupled_unless_it_says_otherwise() -> None:
    """Sharding a method that is not elementwise would train something else without a word."""
    free = set()
    for name, method in methods().items():
        assert isinstance(method.coupling(compose_run([f"optimizer={name}"]).optimizer), str)
        if not method.coupling(compose_run([f"optimizer={name}"]).optimizer):
            free.add(name)
    assert free == {"adam", "spam", "lora", "low_rank"}
    rounded = ["optimizer.rounding=stochastic", "precision=bf16"]
    for name in ("adam", "spam"):
        config = compose_run([f"optimizer={name}", *rounded]).optimizer
        assert "stochastic" in methods()[name].coupling(config)


def test_one_rank_observes_the_gradients_of_all(
    of_two: dict[str, list[Result]], folder: Path, cache: Path
) -> None:
    assert [result.error for result in of_two["observed"]] == ["", ""]
    weights = [of_two[name][0].weights for name in ("observed", "dense_spam")]
    assert weights[0] == weights[1], "observing changes nothing"
    alone([*overrides(cache, "dense_spam"), *OBSERVED], folder / "observed_alone")
    both, one = (read_observations(folder, name) for name in ("observed", "observed_alone"))
    gradients = [seen.trajectories["gradient"].to_numpy() for seen in (both, one)]
    assert len(gradients[0]) == 8 * len(both.coordinates)
    scale = abs(gradients[1]).max()
    assert abs(gradients[0] - gradients[1]).max() < 1e-3 * scale
