"""The Debian packages behind the tests in a real browser: what is missing, how it comes.

`python -m tests.browser_packages` installs what is missing where it may and says in one line why it
could not; it never fails. Tests that need a browser ask `obstacle`, and are skipped where there is
one.
"""

from __future__ import annotations

import shutil

from tests.slurm_packages import CannotInstall, install

PROGRAMS = {
    # package -> a program it brings
    "chromium": "chromium",
    "chromium-driver": "chromedriver",
}


def missing() -> list[str]:
    """The packages that a browser needs and this machine has not."""
    return [package for package, name in PROGRAMS.items() if shutil.which(name) is None]


def obstacle() -> str | None:
    """Why a browser cannot be had here."""
    if packages := missing():
        return f"not installed: {' '.join(packages)} (`python -m tests.browser_packages` does it)"
    return None


def main() -> None:
    """Install what is missing and say so, or why not."""
    wanted = missing()
    if not wanted:
        return
    names = " ".join(wanted)
    try:
        install(wanted)
    except CannotInstall as reason:
        print(f"tests in a real browser lack {names}: {reason}", flush=True)
    else:
        print(f"installed for the tests in a real browser: {names}", flush=True)


if __name__ == "__main__":
    main()
