"""The accounting of a throw-away SLURM cluster: a MariaDB of its own and slurmdbd on top of it.

Both keep everything below the cluster's folder and listen on 127.0.0.1 only. `prepare_accounting`
names the cluster and the invoking user to them, once, before there are jobs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.slurm_config import Ports, user
from tests.slurm_processes import ClusterError, program, spawn, until

SQL = """\
CREATE DATABASE slurm_acct_db;
CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
CREATE USER 'slurm'@'localhost' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'localhost';
"""


def start_slurmdbd(folder: Path) -> subprocess.Popen[bytes]:
    """Start slurmdbd on a database that answers; does not wait."""
    return spawn(folder, "slurmdbd", ["slurmdbd", "-D"])


def prepare_accounting(run: Callable[..., str]) -> None:
    """Name the cluster and the user to a new slurmdbd; `run` runs a SLURM command."""
    # slurmctld must not be the first to name the cluster, nor a job the first to name an account.
    run("sacctmgr", "-i", "add", "cluster", "lab")
    run("sacctmgr", "-i", "add", "account", "lab", "Cluster=lab", "Description=lab")
    run("sacctmgr", "-i", "add", "user", user(), "Account=lab", "Cluster=lab")


def start_database(folder: Path, ports: Ports) -> subprocess.Popen[bytes]:
    """Start a new MariaDB and wait until it has slurmdbd's database."""
    data, socket = folder / "mysql", folder / "run" / "mysql.sock"
    _call(
        "mariadb-install-db",
        "--no-defaults",
        f"--datadir={data}",
        f"--user={user()}",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
    )
    options = [
        f"--user={user()}",
        f"--datadir={data}",
        f"--socket={socket}",
        "--bind-address=127.0.0.1",
        f"--port={ports.database}",
        f"--pid-file={folder}/run/mariadbd.pid",
        # What slurmdbd asks for, and no more disk and memory than a test needs.
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=32M",
        "--innodb-lock-wait-timeout=900",
        "--innodb-flush-log-at-trx-commit=0",
        "--skip-log-bin",
    ]
    daemon = spawn(folder, "mariadbd", ["mariadbd", "--no-defaults", *options])
    client = ("--no-defaults", "--user=root", f"--socket={socket}")

    def answers() -> bool:
        if daemon.poll() is not None:
            raise ClusterError(f"MariaDB has ended: {_tail(folder, 'mariadbd.out')}")
        try:
            _call("mariadb-admin", *client, "ping")
        except ClusterError:
            return False
        return True

    until(answers, 90, lambda: f"MariaDB does not answer: {_tail(folder, 'mariadbd.out')}")
    _call("mariadb", *client, "-e", SQL)
    return daemon


def _call(name: str, *arguments: str) -> None:
    path = program(name)
    if path is None:
        raise ClusterError(f"{name} is not installed")
    try:
        done = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{name} hung") from error
    if done.returncode:
        raise ClusterError(f"{name} failed: {done.stderr.strip()[-2000:]}")


def _tail(folder: Path, name: str) -> str:
    path = folder / "log" / name
    return path.read_text(errors="replace")[-2000:] if path.exists() else "it says nothing"
