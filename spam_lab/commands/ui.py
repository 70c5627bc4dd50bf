"""`spam-lab ui`: MLflow's own pages over the record, or Optuna's over a study, until Ctrl-C.

It promises a server that only this machine can reach unless asked otherwise, addresses that open
the tables of training runs, and that no process is left behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from spam_lab.commands import CommandError, add_runs_argument, dashboard, require_runs
from spam_lab.commands.account import Account
from spam_lab.commands.serving import (
    FIRST_PORT,
    LOOPBACK,
    address_of,
    free_port,
    interruptible,
    served,
    tail,
    wait_until_ready,
)
from spam_lab.record.mlflow_store import (
    artifact_root,
    is_server,
    shown,
    sqlite_path,
    tracking_uri,
)
from spam_lab.record.running_ui import announced

SUMMARY = "look at the record in MLflow's pages, or at a study in Optuna's"
DETAILS = """
Starts MLflow's own server over the record that spam-lab sync has made and prints the address of
each experiment's runs. Stop it with Ctrl-C. It does not sync: run spam-lab sync beside it and
reload the page. While it is up, python -m analysis report links run_ids to it.

The server has no password. It listens on this machine only; to look at it from another one, tunnel:
  ssh -N -L 5000:127.0.0.1:5000 THIS_MACHINE

With --auth it asks for one account, whose name and password you set in the environment as
MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (12 characters or more). With the same two
variables and MLFLOW_TRACKING_URI=http://THIS_MACHINE:5000, spam-lab sync writes through it. Names
that others reach it by go into MLFLOW_SERVER_ALLOWED_HOSTS, as MLflow answers to no other:
  MLFLOW_SERVER_ALLOWED_HOSTS='localhost:*,127.0.0.1:*,node7:*' spam-lab ui --auth --host 0.0.0.0
For an account for each member, run MLflow's own server: mlflow server --app-name basic-auth

With --study it starts Optuna's dashboard over that study instead: history, importance, contours and
trials, live. It is for this machine alone, as it can delete what it shows.
"""

_MLFLOW = "MLflow's server"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_runs_argument(parser)
    parser.add_argument(
        "--port", type=int, metavar="N", help=f"port (default: the first free from {FIRST_PORT})"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--auth",
        action="store_true",
        help="ask for the account in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    )
    parser.add_argument(
        "--study", metavar="NAME", help="look at this study in Optuna's dashboard instead"
    )
    parser.add_argument(
        "--scale", help="of the study, where it was begun at several (default: the only one)"
    )


def run(arguments: Namespace) -> int:
    """Serve the record, or a study, until interrupted."""
    if arguments.study is not None:
        if arguments.auth:
            raise CommandError("--auth is for the record: a study's pages have no password")
        return dashboard.serve(
            arguments.runs, arguments.study, arguments.scale, arguments.host, arguments.port
        )
    uri = tracking_uri(arguments.runs)
    if is_server(uri):
        print(f"the record is on a server already: open {shown(uri)}/#/experiments")
        return 0
    require_runs(arguments.runs)
    path = sqlite_path(uri)
    if path and not path.exists():
        raise CommandError(f"nothing is recorded at {shown(uri)} yet: run spam-lab sync first")
    account = Account.from_environment() if arguments.auth else None
    host: str = arguments.host
    if host not in LOOPBACK:
        danger = (
            "the password and the record travel unencrypted. A proxy with TLS before 127.0.0.1"
            if account
            else f"there is no password; whoever reaches {host} reads and changes the record. "
            "An SSH tunnel to 127.0.0.1"
        )
        print(f"warning: {danger} is safer.", file=sys.stderr)
    port = free_port(host, arguments.port)
    print(f"starting MLflow on {host}:{port} (10 to 60 s) ...", flush=True)
    address = address_of(host, port)
    with interruptible(), tempfile.TemporaryFile() as log:
        try:
            with (
                _account_environment(account) as environment,
                served(*_mlflow(uri, arguments.runs, host, port, environment), log) as server,
            ):
                wait_until_ready(server, _MLFLOW, f"{address}/health", log, uri)
                with announced(arguments.runs, address, uri):
                    for name, url in _experiment_pages(address, account):
                        print(f"{name}: {url}")
                    if account:
                        print(f"sign in as {account.name}")
                    print("Ctrl-C stops it", flush=True)
                    server.wait()
                raise CommandError(f"{_MLFLOW} ended by itself: {tail(log, uri)}")
        except KeyboardInterrupt:
            print("stopped")
    return 0


def _account_environment(
    account: Account | None,
) -> contextlib.AbstractContextManager[dict[str, str]]:
    return account.environment() if account else contextlib.nullcontext({})


def _mlflow(
    uri: str, runs: Path, host: str, port: int, account: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of MLflow's server. `account` is what its environment says about who
    may use it; empty where anybody may."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    command += ["--workers", "1", "--no-serve-artifacts"]
    command += ["--default-artifact-root", artifact_root(runs)]
    command += ["--app-name", "basic-auth"] if account else []
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # arguments are public, and it may hold a password
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **account,
    }
    return command, environment


def _experiment_pages(address: str, account: Account | None) -> list[tuple[str, str]]:
    """Each experiment of ours and the page of its runs; the server's own start page is about
    traces of language-model applications."""
    request = Request(
        f"{address}/api/2.0/mlflow/experiments/search",
        data=json.dumps({"max_results": 1000}).encode(),
        headers={"Content-Type": "application/json", **(account.header() if account else {})},
    )
    try:
        with urlopen(request, timeout=60) as answer:
            found: list[dict[str, Any]] = json.load(answer).get("experiments", [])
    except HTTPError as error:
        said = error.read().decode(errors="replace").strip()[:200]
        raise CommandError(
            f"MLflow's server refuses this machine ({error.code}: {said}): where "
            "MLFLOW_SERVER_ALLOWED_HOSTS is set, 127.0.0.1:* must be among them"
        ) from None
    pages = [
        (entry["name"], f"{address}/#/experiments/{entry['experiment_id']}/runs")
        for entry in found
        if entry["name"].startswith("spam_lab ")
    ]
    return sorted(pages) or [("no runs are recorded yet", address)]
