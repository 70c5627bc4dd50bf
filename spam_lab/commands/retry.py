"""`spam-lab retry`: make runs due again, so that the next launch trains them.

It promises to delete nothing (a result is moved aside, with all that belongs to it), to touch no
run that is being trained or queued, and to say which runs it was and what to type next.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace

from spam_lab.commands import CommandError, add_runs_argument, confirm
from spam_lab.commands.overview import ALIVE, Overview, capped, count
from spam_lab.commands.relaunch import launch_command
from spam_lab.commands.selection import find_runs
from spam_lab.commands.status import say
from spam_lab.orchestrate.lease import Lease, is_live
from spam_lab.orchestrate.truth import Condition
from spam_lab.record.store import RunDirectory

SUMMARY = "make failed, lost or diverged runs due again"
DETAILS = """
Makes runs due again, so that the next launch trains them: what failed, unless
told otherwise, or the runs that are named. A failed or lost run goes on from
its checkpoint. A diverged run is a result: its directory is moved to
<runs>/.retried/, after a question, and it begins anew. Nothing is deleted, and
no run that is trained or queued is touched. NAME is a sweep, the beginning of a
run_id or a readable name.

  spam-lab retry                       what failed, in all sweeps
  spam-lab retry figure9 --lost
  spam-lab retry figure9 --diverged    asks before it moves results
  spam-lab retry 3f9a --yes
"""

FOLDER = ".retried"
SHOWN = 20
RESULTS = (Condition.DONE, Condition.DIVERGED)


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="sweeps or runs (default: all)")
    kinds = parser.add_argument_group("which of them (default: --failed)")
    for condition in (Condition.FAILED, Condition.DIVERGED, Condition.LOST):
        kinds.add_argument(
            f"--{condition}",
            action="append_const",
            dest="conditions",
            const=condition,
            help=f"those that are {condition}",
        )
    parser.add_argument("--yes", "-y", action="store_true", help="move results without asking")
    add_runs_argument(parser)


def run(arguments: Namespace) -> int:
    """Make the runs due; 1 where one was left alone though it was named."""
    overview = Overview.of(arguments.runs)
    chosen = _chosen(overview, arguments.names, arguments.conditions)
    if not chosen:
        what = " or ".join(arguments.conditions or [Condition.FAILED])
        print(f"no run there is {what}: nothing to retry")
        return 0
    # Names and commands are read from the directories, some of which are about to be moved.
    told = {run_id: _told(overview, run_id) for run_id in chosen}
    commands = {run_id: launch_command(overview, run_id) for run_id in chosen}
    due = [run_id for run_id in chosen if overview.truths[run_id].condition not in ALIVE]
    results = [i for i in due if overview.truths[i].condition in RESULTS]
    if results and not _agreed(overview, results, arguments.yes):
        print("nothing was changed")
        return 1
    made = [run_id for run_id in due if _make_due(overview, run_id, run_id in results)]
    for line in capped([told[run_id] for run_id in made], SHOWN, "runs"):
        say(f"  {line}")
    left = [run_id for run_id in chosen if run_id not in made]
    for run_id in left:
        now = overview.truths[run_id].condition
        now_is = f"it is {now}" if now in ALIVE else "somebody has just taken it up"
        say(f"left alone: {overview.named(run_id)}: {now_is}; spam-lab cancel {run_id} stops it")
    if made:
        print(f"{count(len(made), 'run')} due again; train with:")
        for command in dict.fromkeys(commands[run_id] for run_id in made):
            print(f"  {command}")
    return int(bool(left))


def _agreed(overview: Overview, results: list[str], yes: bool) -> bool:
    """Whether results may be moved aside, after naming them."""
    truths = overview.truths
    named = [f"{overview.named(i)}: {truths[i].status.reason or 'done'}" for i in results]
    for line in capped(named, SHOWN, "runs"):
        say(f"  {line}")
    them = "This run has a result." if len(results) == 1 else f"These {len(results)} have results."
    return confirm(f"{them} Move to {overview.root / FOLDER} and train anew?", yes)


def _chosen(overview: Overview, names: list[str], conditions: list[Condition] | None) -> list[str]:
    """The runs that are meant: named ones as they are, those of sweeps by their condition."""
    wanted = conditions or [Condition.FAILED]
    if not names:
        return [i for i, truth in overview.truths.items() if truth.condition in wanted]
    found: list[str] = []
    for name in names:
        ids = find_runs(overview, [name])
        of_sweep = any(name in (s.name, f"{s.name}.{s.scale}") for s in overview.sweeps)
        if of_sweep or conditions:
            ids = [i for i in ids if overview.truths[i].condition in wanted]
        found += [run_id for run_id in ids if run_id not in found]
    return found


def _make_due(overview: Overview, run_id: str, has_result: bool) -> bool:
    """Make one run due; False where it was taken up meanwhile."""
    directory = RunDirectory(overview.root, run_id)
    if not directory.path.exists():
        return True
    if has_result:
        return _move_aside(directory)
    if not directory.status().lost:
        return not is_live(directory.lease_path)
    lease = Lease(directory.lease_path)
    if not lease.acquire():
        return False
    with lease:
        status = directory.status()
        if status.lost and not status.state.is_result:
            directory.report(lost=0)  # the next attempt must not be taken for one too many
    return True


def _move_aside(directory: RunDirectory) -> bool:
    """Move a result out of the way. No worker trains one, so nobody can be writing to it."""
    if not directory.status().state.is_result or is_live(directory.lease_path):
        return False
    folder = directory.path.parent / FOLDER
    folder.mkdir(exist_ok=True)
    target = folder / f"{directory.run_id}.{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while target.exists():
        number += 1
        target = target.with_name(f"{target.name.partition('+')[0]}+{number}")
    try:
        directory.path.rename(target)
    except OSError as error:
        raise CommandError(f"cannot move {directory.path} to {target}: {error}") from None
    return True


def _told(overview: Overview, run_id: str) -> str:
    truth = overview.truths[run_id]
    name = overview.named(run_id)
    if truth.condition in RESULTS:
        return f"{name}: was {truth.condition}, begins anew; the old one is in {FOLDER}"
    step = truth.status.checkpoint_step
    goes = f"goes on from its checkpoint at step {step}" if step else "begins anew"
    return f"{name}: was {truth.condition}, {goes}"
