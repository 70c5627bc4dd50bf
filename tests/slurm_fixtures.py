"""Fixtures of the tests that need SLURM: one real cluster a session, as good as new for each test.

`slurm` is a cluster of three nodes with the stand-in sacct, `slurm_accounting` one with slurmdbd
and MariaDB. While a test has one of them, every SLURM command and submitit talk to it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest

from tests.slurm_cluster import Cluster
from tests.slurm_config import Accounting
from tests.slurm_daemons import FOREIGN
from tests.slurm_packages import obstacle, required
from tests.slurm_processes import ClusterError


class Shared:
    """A cluster that tests share: started when first used, replaced when a test broke it.

    Jobs that are left and nodes that are down are mended. After a crash of the controller there is
    a new cluster, as the old one gives ids of lost jobs again.
    """

    def __init__(self, accounting: Accounting) -> None:
        self.accounting: Accounting = accounting
        self.cluster: Cluster | None = None

    def lend(self) -> Cluster:
        """The cluster, with all nodes idle and no jobs."""
        if self.cluster is not None and self.cluster.forgetful:
            self.stop()
        if self.cluster is not None:
            try:
                self.cluster.restore()
            except ClusterError as error:
                warnings.warn(f"the tests' cluster is replaced: {error}", stacklevel=2)
                self.stop()
        if self.cluster is None:
            self.cluster = Cluster.start(nodes=3, accounting=self.accounting)
        return self.cluster

    def tidy(self) -> None:
        """End what a test has left, lest it slow the next ones, SLURM's or not."""
        if self.cluster is not None:
            try:
                self.cluster.cancel_all()
            except ClusterError:
                self.stop()

    def stop(self) -> None:
        """Remove the cluster."""
        if self.cluster is not None:
            self.cluster.stop()
        self.cluster = None


@pytest.fixture(scope="session")
def shared_slurm() -> Iterator[Shared]:
    """What `slurm` lends to each test."""
    shared = Shared("shim")
    yield shared
    shared.stop()


@pytest.fixture(scope="session")
def shared_slurm_accounting() -> Iterator[Shared]:
    """What `slurm_accounting` lends to each test."""
    shared = Shared("slurmdbd")
    yield shared
    shared.stop()


@pytest.fixture
def slurm(shared_slurm: Shared, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A real cluster of three idle nodes with two GPUs each; this process's environment is its."""
    need_slurm()
    yield from _lent(shared_slurm, monkeypatch)


@pytest.fixture
def slurm_accounting(
    shared_slurm_accounting: Shared, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cluster]:
    """As `slurm`, with slurmdbd: sacct knows jobs that are gone and who cancelled them."""
    need_slurm(accounting=True)
    yield from _lent(shared_slurm_accounting, monkeypatch)


def need_slurm(accounting: bool = False) -> None:
    """Skip a test where no cluster can be had; fail it where that must not be."""
    reason = obstacle(accounting)
    if reason is None:
        return
    if required():
        pytest.fail(f"a real SLURM cluster is required here: {reason}")
    pytest.skip(f"needs a real SLURM cluster: {reason}")


def _lent(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    cluster = shared.lend()
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        monkeypatch.delenv(name)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield cluster
    shared.tidy()
