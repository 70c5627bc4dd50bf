"""The workers of a study, on this computer or inside a SLURM job.

A worker that dies is replaced while there are trials to come. A run that took two workers down with
it is marked failed, so that its trial ends; where workers die again and again and nothing comes of
it, something is wrong with all of them, and it is said.
"""

from __future__ import annotations

import secrets
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from spam_lab.orchestrate.processes import Environment, Processes, cause
from spam_lab.orchestrate.slurm.place import Place
from spam_lab.orchestrate.tune.ongoing import RUN_ID, lives
from spam_lab.orchestrate.tune.progress import standing
from spam_lab.orchestrate.tune.worker import StudyOrder
from spam_lab.orchestrate.workers import DEATHS_ALLOWED
from spam_lab.record.state import State
from spam_lab.record.store import RunDirectory

if TYPE_CHECKING:
    import optuna

DEATHS_FOR_NOTHING = 5
"""Deaths in a row, or two a worker if that is more, between which nothing in the study moved."""


class StudyWorkers(Processes):
    """`count` workers of `order`.

    Args:
        order: what they do.
        count: how many.
        study: the Optuna study.
        first: the number of the first worker among all of the study's.
        environment: of worker number i, beyond this process's own.
    """

    def __init__(
        self,
        order: StudyOrder,
        count: int,
        study: optuna.Study,
        first: int = 0,
        environment: Environment = lambda number: {},
    ) -> None:
        self._order, self._study, self._first = order, study, first
        self._path = order.root / ".orders" / f"{secrets.token_hex(6)}.json"
        self._allowed = max(DEATHS_FOR_NOTHING, 2 * count)
        self._for_nothing, self._seen = 0, self._moved()
        self._deaths: Counter[str] = Counter()
        threads = order.host.cluster.threads
        super().__init__(count, threads, self._path.with_suffix(".log"), environment)

    def search(self, look: Callable[[], None] = lambda: None) -> None:
        """Search until there are as many trials as asked for, or until asked to stop.

        Raises:
            RuntimeError: workers die again and again.
        """
        self._order.write(self._path)
        try:
            self.run(look)
        finally:
            self._path.unlink(missing_ok=True)

    def command(self, number: int) -> Sequence[str]:
        """The command line of a worker."""
        module = "spam_lab.orchestrate.tune.worker"
        return [sys.executable, "-m", module, str(self._path), str(self._first + number)]

    def died(self, pid: int, code: int) -> None:
        """Count a death against the run that the worker had, and against them all."""
        for run_id in self._runs_of(pid):
            self._deaths[run_id] += 1
            if self._deaths[run_id] >= DEATHS_ALLOWED:
                RunDirectory(self._order.root, run_id).move(
                    State.FAILED, reason=f"its worker died {DEATHS_ALLOWED} times: {cause(code)}"
                )
        now = self._moved()
        self._for_nothing = self._for_nothing + 1 if now == self._seen else 1
        self._seen = now
        if self._for_nothing >= self._allowed:
            raise RuntimeError(f"the study's workers die ({cause(code)}): {self.last_words()}")

    def is_left(self) -> bool:
        """Whether trials are left to be answered."""
        return standing(self._study).answered < self._order.study.trials

    def _moved(self) -> tuple[int, ...]:
        """Numbers of which one grows whenever the study gets anywhere."""
        trials = self._study.get_trials(deepcopy=False)
        reports = sum(len(trial.intermediate_values) for trial in trials)
        return len(trials), standing(self._study).answered, reports

    def _runs_of(self, pid: int) -> list[str]:
        """The runs that a process of this computer trained, and nobody else does by now."""
        found = []
        for trial in self._study.get_trials(deepcopy=False):
            run_id = trial.user_attrs.get(RUN_ID)
            if trial.state.name != "RUNNING" or run_id is None:
                continue
            directory = RunDirectory(self._order.root, run_id)
            status = directory.status()
            own = status.pid == pid and status.host == Place.here().host
            if own and status.state is State.RUNNING and not lives(directory.lease_path):
                found.append(run_id)
        return found
