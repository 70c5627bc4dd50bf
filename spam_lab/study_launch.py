"""Launching a study: check its space, show what it will do, search here or on SLURM, and sum up.

It promises that nothing is begun before the whole space has been checked, and that the same command
goes on with what there is: to the number of trials asked for, on whatever day.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from spam_lab.config.compose import compose_command
from spam_lab.config.fields import ConfigError
from spam_lab.config.schema import CommandConfig
from spam_lab.files import write_json
from spam_lab.orchestrate.dispatch import worker_count
from spam_lab.orchestrate.expand import load_study
from spam_lab.orchestrate.processes import interruptible
from spam_lab.orchestrate.run import Host
from spam_lab.orchestrate.search import Study
from spam_lab.orchestrate.slurm import ledger, queue, resources
from spam_lab.orchestrate.slurm.study import submit_study
from spam_lab.orchestrate.slurm.submit import settle
from spam_lab.orchestrate.truth import slurm_jobs
from spam_lab.orchestrate.tune.methods import most_trials, require_method
from spam_lab.orchestrate.tune.ongoing import list_trials
from spam_lab.orchestrate.tune.progress import Standing, standing, winners
from spam_lab.orchestrate.tune.space import Space, checked_space
from spam_lab.orchestrate.tune.storage import StudyFolder, begin, open_study
from spam_lab.orchestrate.tune.worker import StudyOrder
from spam_lab.orchestrate.tune.workers import StudyWorkers

if TYPE_CHECKING:
    import optuna

LOOK_SECONDS = 2.0


def launch_study(command: CommandConfig, overrides: Sequence[str], console: Console) -> int:
    """Search; 0 where there are as many answered trials as asked for, or they were submitted."""
    definition = load_study(command.study.name)
    for_trials = trial_overrides(overrides)
    _require_free(definition, for_trials)
    space = checked_space(definition, for_trials)
    require_method(command.study, space, definition.objectives)
    command.study.trials = most_trials(command.study, space)
    _print_space(console, command, definition, space)
    if command.dry_run:
        return 0
    if command.cluster.name == "inline":
        raise ConfigError("a study has workers of its own: leave cluster=inline out")
    root = Path(command.paths.runs).resolve()
    folder = StudyFolder(root, definition.name, command.scale.name)
    begin(folder, definition, space, for_trials, command.study)
    study = open_study(folder, command.study)
    at_work = compose_command([*for_trials, *(f"{k}={v}" for k, v in definition.fixed.items())])
    host = Host(at_work.train, command.cluster, command.paths, ("launch.py", *overrides))
    order = StudyOrder(root, folder.scale, command.study, tuple(for_trials), host)
    if standing(study).answered < command.study.trials:
        if command.cluster.name == "slurm":
            return _on_slurm(command, order, study, console)
        _here(command, order, study, console)
    with folder.lock():  # a worker may have been killed before it could
        list_trials(study, folder, definition, for_trials)
    _print_result(console, folder, definition, space, study)
    return 0 if standing(study).answered >= command.study.trials else 1


def trial_overrides(overrides: Sequence[str]) -> list[str]:
    """What a command line sets in every trial: all but what says where and how much to search."""
    own = ("study=", "study.", "dry_run=", "follow=", "cluster=", "cluster.", "paths.")
    return [o for o in overrides if not o.startswith(own)]


def _require_free(definition: Study, overrides: Sequence[str]) -> None:
    own = {s.key for s in definition.space} | set(definition.fixed) | {"seed", "sweep"}
    taken = sorted(own & {o.partition("=")[0].lstrip("+") for o in overrides})
    if taken:
        raise ConfigError(f"study={definition.name} sets {', '.join(taken)} itself: leave it out")


def _here(command: CommandConfig, order: StudyOrder, study: optuna.Study, console: Console) -> None:
    left = order.study.trials - standing(study).answered
    host = order.host
    if command.study.workers is not None:
        host = replace(host, cluster=replace(host.cluster, workers=command.study.workers))
    workers = StudyWorkers(order, worker_count(host, left), study)
    with interruptible(workers), _Bar(console, order, study) as bar:
        workers.search(bar.look)


def _on_slurm(
    command: CommandConfig, order: StudyOrder, study: optuna.Study, console: Console
) -> int:
    left = order.study.trials - standing(study).answered
    resources.check(command.cluster)
    if resources.world_size(command.cluster) > 1:
        raise ConfigError(
            "a study trains each trial in one process: leave cluster.nodes at 1, and give one GPU "
            "a trial (cluster.side_by_side)"
        )
    queue.require()
    with ledger.locked(order.root):
        jobs = slurm_jobs(order.root)
        for line in settle(order.root, jobs):
            console.print(line, highlight=False)
        there = ledger.live_jobs(order.root, jobs, order.folder.title)
        if there:
            console.print(f"its workers are in SLURM already: job {', '.join(there)}")
        else:
            each = command.cluster.side_by_side or 1
            most = math.ceil(left / each)
            ids = submit_study(order, min(command.study.workers or 1, most))
            console.print(f"submitted: job {ids[0].partition('_')[0]} ({len(ids)} workers)")
    console.print(
        f"what they do:  spam-lab status {order.study.name}\n"
        f"the exhibit:   python -m analysis tuning --study {order.study.name}",
        highlight=False,
    )
    return 0


class _Bar:
    """Live progress of a study: trials, and the best so far."""

    def __init__(self, console: Console, order: StudyOrder, study: optuna.Study) -> None:
        self._study, self._looked, self._console = study, 0.0, console
        self._progress = Progress(
            TextColumn("trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=order.study.trials)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def look(self) -> None:
        """Show how the study stands."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        now = standing(self._study)
        self._progress.update(self._task, completed=now.answered, description=_short(now))


def _short(now: Standing) -> str:
    parts = [f"{n} {state}" for state, n in sorted(now.states.items()) if state != "complete"]
    if now.diverged:
        parts.append(f"{now.diverged} diverged")
    if len(now.best) == 1:
        parts.append(f"best {now.best[0].values[0]:.4f}")
    return ", ".join(parts)


def _print_space(console: Console, command: CommandConfig, definition: Study, space: Space) -> None:
    config = command.study
    console.print(f"{definition.name}: {definition.description}", highlight=False)
    for d in space.dimensions:
        where = f" (where {', '.join(f'{k}={v}' for k, v in d.when)})" if d.when else ""
        if d.choices:
            shown = f"one of {', '.join(map(str, d.choices))}"
        else:
            kind = "whole numbers " if d.integer else ""
            shown = f"{kind}from {d.low:g} to {d.high:g}{', logarithmic' if d.log else ''}"
        console.print(f"  {d.key}: {shown}{where}", highlight=False)
    console.print(
        f"  minimises {' and '.join(definition.objectives)} over {config.trials} trials in all, "
        f"sampler {config.sampler}, pruner {config.pruner}",
        highlight=False,
    )


def _print_result(
    console: Console, folder: StudyFolder, definition: Study, space: Space, study: optuna.Study
) -> None:
    now = standing(study)
    counted = ", ".join(f"{n} {state}" for state, n in sorted(now.states.items()))
    diverged = f" ({now.diverged} of them diverged)" if now.diverged else ""
    console.print(f"{sum(now.states.values())} trials: {counted}{diverged}", highlight=False)
    for trial in now.best:
        point = " ".join(f"{key}={_shown(value)}" for key, value in trial.params.items())
        values = ", ".join(f"{value:.4g}" for value in trial.values)
        run = trial.user_attrs.get("run_id", "")
        console.print(f"  best: {values} with {point} (trial {trial.number}, run {run})")
    if len(definition.objectives) == 1:
        trials = study.get_trials(deepcopy=False)
        found = winners(trials, definition.winners_by, definition.fixed)
        where = {"scale": folder.scale, "study": definition.name, "seed": definition.seed}
        write_json(folder.winners_path, [where | entry for entry in found])
        for entry in found:
            _warn_of_ends(console, entry, space)
        path = os.path.relpath(folder.winners_path)
        console.print(f"as overrides for sweeps:  tuned={path}", highlight=False)
    console.print(
        f"the exhibit:  python -m analysis tuning --study {definition.name}", highlight=False
    )


def _warn_of_ends(console: Console, entry: Mapping[str, Any], space: Space) -> None:
    """Say where the best lies at an end of what was searched: nobody knows what lies beyond."""
    where = " ".join(f"{key}={value}" for key, value in entry["where"].items())
    for d in space.dimensions:
        if d.key in entry["set"] and d.is_at_end(entry["set"][d.key]):
            best = f"{d.key} for {where or 'all'} is {_shown(entry['set'][d.key])}"
            console.print(
                f"  [yellow]note:[/] the best {best}, an end of the range: beyond may be better",
                highlight=False,
            )


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
