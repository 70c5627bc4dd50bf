"""Where the processes of a job meet: rank 0 writes its address to a file that all of them see.

Parsing node lists and resolving their names fails on one site or another; the shared folder is what
every job needs anyway.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from spam_lab.files import read_json, write_json

SECONDS = 300.0
"""How long ranks wait for the first: nodes of one job start at different times."""


@dataclass(frozen=True)
class Rendezvous:
    """The meeting at `path`, a file that is new for every attempt of a job."""

    path: Path

    def meet(self, rank: int) -> tuple[str, int]:
        """Address and port of rank 0, which rank 0 chooses.

        Raises:
            TimeoutError: rank 0 did not come.
        """
        if rank == 0:
            found = _address(), _free_port()
            write_json(self.path, {"address": found[0], "port": found[1]})
            return found
        end = time.monotonic() + SECONDS
        while not self.path.exists():
            if time.monotonic() > end:
                raise TimeoutError(f"rank 0 did not write {self.path} within {SECONDS:.0f} s")
            time.sleep(0.1)
        content = read_json(self.path)
        return content["address"], content["port"]


def _address() -> str:
    """This node's address as the job's other nodes reach it: the first node's, where rank 0 is.

    A node's own name often resolves to its loopback address on itself.
    """
    return os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or socket.gethostname()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
