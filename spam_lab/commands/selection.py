"""Which runs a user means: by the beginning of a run_id, by a readable name or by a sweep's.

It promises that a name is never guessed at: one that fits several runs, or none, is an error that
says which there are.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from spam_lab.commands import CommandError
from spam_lab.commands.overview import SINGLE, Overview, file_name

_SHOWN = 6


def find_run(overview: Overview, name: str) -> str:
    """The run_id of the one run that `name` means.

    A name is the beginning of a run_id, a readable name, or words of one ("theta=500 seed=1").

    Raises:
        CommandError: it fits several runs, or none; the text names them, or what is near.
    """
    wanted = name.strip()
    known = list(overview.truths)
    if not known:
        raise CommandError("there are no runs here yet: python launch.py")
    if not wanted:
        raise CommandError("an empty name is no run: spam-lab status shows the runs there are")
    if wanted in overview.truths:
        return wanted
    labels = _labels(overview)
    exact = {run_id for label, run_id in labels if label == wanted}
    begun = {run_id for run_id in known if run_id.startswith(wanted.lower())}
    words = set(wanted.split())
    worded = {run_id for label, run_id in labels if words <= set(label.split())}
    for fitting in (exact, begun, worded):
        if len(fitting) == 1:
            return fitting.pop()
        if fitting:
            shown = [overview.named(run_id) for run_id in known if run_id in fitting]
            raise CommandError(f"{name!r} fits {len(fitting)} runs: {_list(shown)}")
    raise CommandError(f"no run is called {name!r} here{_near(overview, wanted, labels)}")


def find_runs(overview: Overview, names: Sequence[str]) -> list[str]:
    """The run_ids that names of sweeps and runs mean, in order, each once; all without a name.

    Raises:
        CommandError: a name means none or is not clear.
    """
    if not names:
        return list(overview.truths)
    found: dict[str, None] = {}
    for name in names:
        sweeps = [s for s in overview.sweeps if s.name != SINGLE and name in (s.name, file_name(s))]
        ids = [i for s in sweeps for i in s.run_ids] if sweeps else [find_run(overview, name)]
        found |= dict.fromkeys(ids)
    return list(found)


def _labels(overview: Overview) -> list[tuple[str, str]]:
    """(readable name, run_id): a run has one in every sweep that asked for it."""
    return [
        (label, run_id)
        for sweep in overview.sweeps
        for run_id, label in overview.labels(sweep).items()
    ]


def _near(overview: Overview, wanted: str, labels: Sequence[tuple[str, str]]) -> str:
    by_label = dict(labels)
    names = [*by_label, *overview.truths, *(s.name for s in overview.sweeps if s.name != SINGLE)]
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    shown = [f"{n} ({by_label[n]})" if n in by_label else n for n in near]
    if shown:
        return f"; did you mean {' or '.join(shown)}?"
    return ": spam-lab status shows the runs there are; give the beginning of a run_id"


def _list(shown: Sequence[str]) -> str:
    more = len(shown) - _SHOWN
    return "; ".join(shown[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
