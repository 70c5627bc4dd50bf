"""Optuna's dashboard over one study, until Ctrl-C: `spam-lab ui --study NAME`.

`python -m spam_lab.commands.dashboard FOLDER STORAGE HOST PORT` is the server, its own process;
it opens the study's storage as workers do, under the same locks, and a database by the address in
the environment, which no argument shows. It promises to listen on this machine only.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path

from spam_lab.commands import CommandError, require_runs
from spam_lab.commands.serving import (
    LOOPBACK,
    address_of,
    free_port,
    interruptible,
    served,
    tail,
    wait_until_ready,
)
from spam_lab.config.fields import ConfigError
from spam_lab.config.schema import StudyConfig
from spam_lab.orchestrate.tune.storage import ADDRESS, FOLDER, StudyFolder, open_storage

_NAME = "Optuna's dashboard"


def serve(runs: Path, name: str, scale: str | None, host: str, port: int | None) -> int:
    """Serve one study.

    Raises:
        CommandError: there is no such study, or the dashboard is missing or does not start.
    """
    require_runs(runs)
    folder = _folder(runs, name, scale)
    if host not in LOOPBACK:
        raise CommandError(
            f"{_NAME} has no password, and whoever reaches it can delete studies: it listens on "
            "127.0.0.1 only. From another machine, tunnel: ssh -N -L PORT:127.0.0.1:PORT MACHINE"
        )
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise CommandError(
            f"{_NAME} is not installed: {sys.executable} -m pip install -c constraints.txt "
            '-e ".[dashboard]"'
        )
    config = StudyConfig(storage=folder.content()["storage"])
    try:
        storage = open_storage(folder, config)
        number = storage.get_study_id_from_name(folder.content()["optuna_name"])
    except (ConfigError, KeyError) as error:
        raise CommandError(f"the study {folder.title} cannot be opened: {error}") from None
    port = free_port(host, port)
    address, secret = address_of(host, port), os.environ.get(ADDRESS, "")
    command = [sys.executable, "-m", "spam_lab.commands.dashboard", str(folder.path)]
    command += [config.storage, host, str(port)]
    print(f"starting {_NAME} on {host}:{port} ...", flush=True)
    with interruptible(), tempfile.TemporaryFile() as log:
        try:
            with served(command, os.environ, log) as server:
                wait_until_ready(server, _NAME, f"{address}/api/studies", log, secret)
                print(f"{folder.title}: {address}/dashboard/studies/{number}")
                print("Ctrl-C stops it", flush=True)
                server.wait()
                raise CommandError(f"{_NAME} ended by itself: {tail(log, secret)}")
        except KeyboardInterrupt:
            print("stopped")
    return 0


def _folder(runs: Path, name: str, scale: str | None) -> StudyFolder:
    """The folder of a study that was begun under `runs`."""
    found = sorted((runs / FOLDER).glob("*/study.json"))
    folders = [_folder_at(path.parent) for path in found]
    named = [f for f in folders if f.name == name and scale in (None, f.scale)]
    if len(named) == 1:
        return named[0]
    if named:
        scales = ", ".join(folder.scale for folder in named)
        raise CommandError(f"study {name} was begun at several scales: give --scale, of {scales}")
    known = ", ".join(folder.title for folder in folders) or "none yet"
    raise CommandError(f"no study {name} was begun under {runs}: {known}")


def _folder_at(path: Path) -> StudyFolder:
    name, _, scale = path.name.rpartition(".")
    return StudyFolder(path.parent.parent, name, scale)


def main() -> None:
    """The server's entry."""
    path, storage, host, port = sys.argv[1:]
    opened = open_storage(_folder_at(Path(path)), StudyConfig(storage=storage))
    importlib.import_module("optuna_dashboard").run_server(opened, host, int(port))


if __name__ == "__main__":
    main()
