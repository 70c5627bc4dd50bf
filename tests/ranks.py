"""Worlds of real processes for tests: each rank trains the cases it is handed, one after another.

A rank writes FOLDER/NAME.RANK.json for every case, and what it died of to FOLDER/died.RANK.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TIMEOUT = 30.0
"""Seconds that the ranks of a test wait for each other."""

PRELOADED = (
    "spam_lab.config.compose",
    "spam_lab.orchestrate.run",
    "spam_lab.train.loop",
    "spam_lab.train.sharded",
    "transformers.models.llama.modeling_llama",
)


@dataclass
class Case:
    """One training of all ranks together.

    `stop` and `kill` are (rank, step): who asks for a stop, or is killed, after which step.
    """

    name: str
    overrides: list[str]
    folder: str
    stop: tuple[int, int] | None = None
    kill: tuple[int, int] | None = None
    order: str = ""
    """Instead of overrides: a run directory that `execute` trains."""


@dataclass
class Result:
    """What one rank saw of a case."""

    state: str = ""
    step: int = 0
    reason: str = ""
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    """Metrics by step."""
    weights: str = ""
    masks: list[int] = field(default_factory=list)
    error: str = ""


def together(folder: Path, cases: list[Case], size: int) -> list[list[Result]]:
    """Train the cases in `size` processes: results by case and rank.

    A rank that was killed or died has no result of that case and of later ones. A thread of gloo's
    own crashes now and then, in native code; then all begin anew, once, from the folders as they
    were.
    """
    places = [Path(case.order).parent if case.order else Path(case.folder) for case in cases]
    kept = folder.with_name(f"{folder.name}.before")
    for number, place in enumerate(places):
        if place.exists():
            shutil.copytree(place, kept / str(number))
    if crashed(folder, cases, size):
        for number, place in enumerate(places):
            shutil.rmtree(place, ignore_errors=True)
            if (kept / str(number)).exists():
                shutil.copytree(kept / str(number), place)
        shutil.rmtree(folder)
        assert not crashed(folder, cases, size), "twice: it is no accident"
    paths = [[folder / f"{case.name}.{rank}.json" for rank in range(size)] for case in cases]
    return [[read(path) for path in row if path.exists()] for row in paths]


def crashed(folder: Path, cases: list[Case], size: int) -> bool:
    """Train the cases; whether a rank ended by a fault in native code."""
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Ranks are forked from a process that has imported all they need, and has done nothing else.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    ranks = [
        context.Process(target=live, args=(folder, cases, rank, size, port)) for rank in range(size)
    ]
    try:
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(timeout=200)
    finally:
        for process in ranks:
            process.kill()
            process.join()
    return any(process.exitcode == -signal.SIGSEGV for process in ranks)


def read(path: Path) -> Result:
    return Result(**json.loads(path.read_text()))


def live(folder: Path, cases: list[Case], rank: int, size: int, port: int) -> None:
    """One rank, from joining the world to leaving it."""
    import torch

    from spam_lab.train.distributed import PeerLost, join

    torch.set_num_threads(1)
    try:
        world = join(rank, size, rank, "127.0.0.1", port, "cpu", timeout=TIMEOUT)
        for case in cases:
            result = dataclasses.asdict(run(case, world))
            (folder / f"{case.name}.{rank}.json").write_text(json.dumps(result))
        world.close()
    except PeerLost as error:
        (folder / f"died.{rank}").write_text(str(error))


def run(case: Case, world: Any) -> Result:
    """Train one case on this rank."""
    import torch

    from spam_lab.config.compose import compose_run
    from spam_lab.config.fields import ConfigError
    from spam_lab.train.loop import Training
    from tests.test_train_loop import Listed

    if case.order:
        return execute_order(case.order, world)
    training: Training | None = None

    def asked() -> bool:
        assert training is not None
        if case.kill and case.kill == (world.rank, training.step):
            os.kill(os.getpid(), signal.SIGKILL)
        return case.stop == (world.rank, training.step)

    journal = Listed()
    try:
        config = compose_run(case.overrides)
        training = Training(config, Path(case.folder), journal, should_stop=asked, world=world)
    except (ConfigError, RuntimeError) as error:
        world.require()
        return Result(error=f"{type(error).__name__}: {error}")
    outcome = training.run()
    values = {str(step): told for step, told in journal.values.items()}
    result = Result(outcome.state, outcome.step, outcome.reason, values)
    digest = hashlib.sha256()
    for parameter in training.model.parameters():
        local = getattr(parameter, "to_local", lambda p=parameter: p)()
        digest.update(local.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    result.weights = digest.hexdigest()
    states = training.optimizer.state_dict()["state"].values()
    result.masks = [state["mask_seed"] for state in states if "mask_seed" in state]
    return result


def execute_order(path: str, world: Any) -> Result:
    """Train the run of an order as a worker does."""
    from spam_lab.orchestrate.run import execute
    from spam_lab.orchestrate.stop import StopRequest
    from spam_lab.orchestrate.worker import Order
    from spam_lab.record.store import RunDirectory

    order = Order.read(Path(path))
    status = execute(RunDirectory(order.root, order.run_ids[0]), order.host, StopRequest(), world)
    return Result(state="" if status is None else status.state.value)
