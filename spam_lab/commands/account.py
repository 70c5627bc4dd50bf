"""The account of `spam-lab ui --auth`: the one name and password that its server lets in, through
MLflow's own basic-auth app.

It promises that both come from the environment and are written nowhere as they are: the server gets
them through its environment, and what it keeps of them (a salted hash) lives in a temporary folder
that only this user can enter and that is removed with the server.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from spam_lab.commands import CommandError
from spam_lab.record.mlflow_store import ACCOUNT

_SHORTEST = 12
"""MLflow refuses shorter passwords, a quarter of a minute later."""

_CONFIG = """\
[mlflow]
default_permission = READ
database_uri = sqlite:///{database}
# Checking a password costs half a second; one that was right stays right for so long.
auth_cache_ttl_seconds = 600
"""


@dataclass(frozen=True)
class Account:
    """Who may use the server."""

    name: str
    password: str = field(repr=False)

    @classmethod
    def from_environment(cls) -> Account:
        """The account that the environment names.

        Raises:
            CommandError: it names none, or one that MLflow would refuse.
        """
        name, password = (os.environ.get(variable, "") for variable in ACCOUNT)
        if not name or not password:
            raise CommandError(
                f"--auth needs {' and '.join(ACCOUNT)} in the environment: the name and password "
                "that the server is to ask for"
            )
        if ":" in name:
            raise CommandError(f"{ACCOUNT[0]} must not contain a colon")
        if len(password) < _SHORTEST:
            raise CommandError(
                f"{ACCOUNT[1]} is too short: MLflow wants {_SHORTEST} characters or more"
            )
        return cls(name, password)

    def header(self) -> dict[str, str]:
        """The HTTP header that signs in."""
        pair = base64.b64encode(f"{self.name}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}

    @contextlib.contextmanager
    def environment(self) -> Iterator[dict[str, str]]:
        """What a server needs in its environment to ask for this account, while the block lasts."""
        with tempfile.TemporaryDirectory(prefix="spam_lab_auth_") as name:
            folder = Path(name)
            config = folder / "basic_auth.ini"
            handle = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(_CONFIG.format(database=folder / "accounts.db").replace("%", "%%"))
            yield {
                "MLFLOW_AUTH_CONFIG_PATH": str(config),
                "MLFLOW_AUTH_ADMIN_USERNAME": self.name,
                "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
            }
