"""The command line of `launch.py`: one run, an ad-hoc grid (`-m`) or a sweep, all on one path.

Overrides become requests, requests a plan, the plan is printed, dispatched and recorded. Hydra
composes; it does not schedule. What is Hydra's own (`--cfg job`, `--hydra-help`,
`hydra/launcher=...`) is handed to it unchanged.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from spam_lab.config.compose import compose_command, expand_multirun, register
from spam_lab.config.fields import ConfigError
from spam_lab.config.schema import CommandConfig
from spam_lab.help import print_help
from spam_lab.orchestrate.compiling import resolved
from spam_lab.orchestrate.cost import estimate, prices
from spam_lab.orchestrate.dispatch import dispatch, worker_count
from spam_lab.orchestrate.display import Watch, print_plan, print_summary, totals
from spam_lab.orchestrate.expand import (
    ALL,
    expand,
    expand_rows,
    expand_sweeps,
    load_sweep,
    sweep_names,
)
from spam_lab.orchestrate.plan import Plan, make_plan, plan_of_sweeps
from spam_lab.orchestrate.run import Host
from spam_lab.orchestrate.tuned import tuned_of
from spam_lab.record.state import State
from spam_lab.record.store import StoreError

SHOWN = 20
"""Results of single runs that are printed at the end."""

OPTIONS = ("-m", "--multirun")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 only where everything asked for has a result."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    console = Console()
    try:
        if "--help" in arguments or "-h" in arguments:
            print_help(console, [a for a in arguments if not a.startswith("-")])
            return 0
        if _is_hydras(arguments):
            return _hydra(arguments)
        multirun = any(a in ("-m", "--multirun") for a in arguments)
        overrides = ["follow=true" if a == "--follow" else a for a in arguments if a not in OPTIONS]
        return launch(overrides, multirun, console)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoints", file=sys.stderr)
        return INTERRUPTED
    except (ConfigError, StoreError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def launch(overrides: Sequence[str], multirun: bool, console: Console) -> int:
    """Plan, print, dispatch and record what the overrides ask for."""
    rows = expand_multirun(overrides) if multirun else [list(overrides)]
    command = compose_command([*_task_of_sweep(rows[0]), *rows[0]])
    if command.study.name != "none":
        if multirun:
            raise ConfigError("study=... is a search already: leave out -m and lists of values")
        if command.tuned is not None:
            raise ConfigError("tuned=... is for runs, and a study makes its own: leave it out")
        from spam_lab.study_launch import launch_study

        code = launch_study(command, overrides, console)
        if command.cluster.name != "slurm" and not command.dry_run:
            _record(Path(command.paths.runs))
        return code

    def host_of(plan: Plan) -> Host:
        train = resolved(command.train, plan)
        return Host(
            train, command.cluster, command.paths, ("launch.py", *(["-m"] * multirun), *overrides)
        )

    if command.cluster.name == "slurm":
        from spam_lab.slurm_launch import launch_on_slurm

        def make(queued: Collection[str]) -> Plan:
            return _plan(command, overrides, rows, queued)

        return launch_on_slurm(command, make, host_of, overrides, console)
    plan = _plan(command, overrides, rows)
    host = host_of(plan)
    workers = 1 if command.cluster.name == "inline" else worker_count(host, len(plan.due))
    if command.dry_run:
        with console.status("timing a few training steps of each shape that is new here"):
            known = prices(plan, measure=True)
        print_plan(console, plan, known, workers)
        return 0
    # Whoever starts a plan sees its speed in a moment: a calibration would only delay the start.
    cost = estimate(plan, measure=False)
    console.print(totals(plan, cost, workers), highlight=False, soft_wrap=True)
    plan.write(overrides)
    with Watch(console, plan) as watch:
        census = dispatch(plan, host, watch)
    print_summary(console, plan, census)
    _record(Path(command.paths.runs))
    _print_next(console, plan, command)
    return 0 if all(s.state.is_result for s in census.statuses.values()) else 1


def _task_of_sweep(row: Sequence[str]) -> list[str]:
    """The task that the sweep of a command line sets, so that the line may set that task's keys."""
    name = next((o.removeprefix("sweep=") for o in row if o.startswith("sweep=")), ALL)
    if name not in sweep_names() or any(o.startswith("task=") for o in row):
        return []
    tasks = {str(c.overrides["task"]) for c in load_sweep(name).cells if "task" in c.overrides}
    return [f"task={task}" for task in sorted(tasks)[:1]]


def _plan(
    command: CommandConfig,
    overrides: Sequence[str],
    rows: list[list[str]],
    queued: Collection[str] = (),
) -> Plan:
    root, tuned = Path(command.paths.runs), tuned_of(rows[0])
    if command.sweep is not None:
        if len(rows) > 1:
            raise ConfigError("sweep=... is a grid already: leave out -m or the lists of values")
        kept = [o for o in overrides if not o.startswith(("sweep=", "dry_run=", "follow="))]
        if command.sweep == ALL:
            sweeps = [load_sweep(name) for name in sweep_names()]
            plan = plan_of_sweeps(expand_sweeps(sweeps, kept, tuned), root, queued)
            return replace(plan, note="\n".join(filter(None, (plan.note, str(tuned or "")))))
        sweep = load_sweep(command.sweep)
        plan = make_plan(expand(sweep, kept, tuned), root, sweep.name, sweep.description, queued)
    else:
        plan = make_plan(expand_rows(rows, tuned), root, queued=queued)
    return replace(plan, note=str(tuned or ""))


def _record(root: Path) -> None:
    """Bring MLflow's record up to date, in a process of its own: training owes it nothing."""
    subprocess.run([sys.executable, "-m", "spam_lab.cli", "sync", "--runs", str(root)], check=False)


def _print_next(console: Console, plan: Plan, command: CommandConfig) -> None:
    if plan.sweeps:
        exhibit = "report" if plan.parts else plan.name
        scale = f" --scale {command.scale.name}" if command.scale.name != "nano" else ""
        tuned = f" tuned={command.tuned}" if command.tuned else ""
        line = f"the exhibit:   python -m analysis {exhibit}{scale}{tuned}"
        console.print(line, highlight=False, soft_wrap=True)
    else:
        for entry in plan.entries[:SHOWN]:
            status = plan.directory(entry).status()
            if status.state is State.DONE:
                lines = [
                    line
                    for line in plan.directory(entry).metrics()
                    if any(key.startswith("validation/") for key in line.values)
                ]
                values = lines[-1].values
                if "validation/perplexity" in values:
                    shown = f"perplexity {values['validation/perplexity']:.2f}"
                else:
                    shown = ", ".join(
                        f"{key.removeprefix('validation/')} {value:.4g}"
                        for key, value in values.items()
                        if key.startswith("validation/")
                    )
                console.print(f"{entry.label}: validation {shown}")


def _is_hydras(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for something of Hydra's own."""
    own = {*OPTIONS, "--follow"}
    return any(
        (a.startswith("-") and a not in own) or a.startswith(("hydra/", "hydra.", "+hydra"))
        for a in arguments
    )


def _hydra(arguments: Sequence[str]) -> int:
    """Hand over to Hydra: its help, its printing of configs, its launchers and sweepers."""
    from spam_lab.hydra_app import run

    register()
    sys.argv[1:] = arguments
    run()
    return 0
