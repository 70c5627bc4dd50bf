"""Frozen code: the working tree as it is now, kept once, for jobs that start later.

A snapshot is named by the git tree of the whole working tree, what is uncommitted and what is new
included, so the same code is kept once and an edited checkout changes nothing that was submitted.
It promises to write nothing into the repository.

    <runs>/.code/<tree>/                 the files
    <runs>/.code/<tree>/.snapshot.json   commit, whether it was edited, tree
    <runs>/.code/<tree>/.uncommitted.diff, .environment.txt
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from spam_lab.files import read_json, write_json

FOLDER = ".code"
MARK = ".snapshot.json"
DIFF = ".uncommitted.diff"
ENVIRONMENT = ".environment.txt"


class SnapshotError(RuntimeError):
    """The code cannot be frozen; the text says why."""


@dataclass(frozen=True)
class Snapshot:
    """Code as it was.

    Attributes:
        path: the folder to import from.
        tree: git's id of the whole content.
        commit: the commit it is based on; empty before the first one.
        dirty: whether it differs from that commit.
    """

    path: Path
    tree: str
    commit: str
    dirty: bool


def freeze(checkout: Path, root: Path) -> Snapshot:
    """The snapshot of `checkout` as it is now, under `root`; made where it is not there yet.

    Raises:
        SnapshotError: the checkout is no git repository, or git refuses.
    """
    with tempfile.TemporaryDirectory(prefix="spam_lab_snapshot_") as scratch:
        tree = _write_tree(checkout, Path(scratch))
        path = root / FOLDER / tree
        if not (path / MARK).exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".partial_", dir=path.parent))
            try:
                _extract(checkout, Path(scratch), tree, partial)
                _describe(checkout, tree, partial)
                os.chmod(partial, 0o777 & ~_umask())
                os.rename(partial, path)
            except OSError as error:
                if not (path / MARK).exists():  # nobody else has made it meanwhile
                    raise SnapshotError(f"cannot keep the code in {path}: {error}") from None
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    found = snapshot_of(path)
    assert found is not None
    return found


def snapshot_of(path: Path) -> Snapshot | None:
    """The snapshot whose files these are; None where this is no snapshot."""
    try:
        content = read_json(path / MARK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Snapshot(path, content["tree"], content["commit"], content["dirty"])


def keep_with_run(snapshot: Snapshot, run: Path) -> None:
    """Put what a run's code was, beyond its commit, into its directory: links where possible."""
    for name in (DIFF, ENVIRONMENT):
        source, target = snapshot.path / name, run / name.removeprefix(".")
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


def _write_tree(checkout: Path, scratch: Path) -> str:
    """git's id of the working tree, its objects in `scratch`."""
    (scratch / "objects").mkdir()
    _git(checkout, scratch, "add", "--all")
    return _git(checkout, scratch, "write-tree").strip()


def _extract(checkout: Path, scratch: Path, tree: str, target: Path) -> None:
    archive = scratch / "tree.tar"
    _git(checkout, scratch, "archive", "--output", str(archive), tree)
    shutil.unpack_archive(archive, target, filter="data")


def _describe(checkout: Path, tree: str, target: Path) -> None:
    commit = _plain_git(checkout, "rev-parse", "--verify", "--quiet", "HEAD").strip()
    committed = _plain_git(checkout, "rev-parse", "--verify", "--quiet", "HEAD^{tree}").strip()
    diff = _plain_git(checkout, "diff", "--binary", "HEAD") if commit else ""
    (target / DIFF).write_text(diff, errors="surrogateescape")
    installed = sorted(
        {f"{found.name}=={found.version}" for found in metadata.distributions() if found.name}
    )
    (target / ENVIRONMENT).write_text("\n".join(installed) + "\n")
    mark = Snapshot(target, tree, commit, committed != tree)
    write_json(target / MARK, {k: v for k, v in asdict(mark).items() if k != "path"})


def _git(checkout: Path, scratch: Path, *arguments: str) -> str:
    """git with an index and an object store of its own, so that the repository stays as it is."""
    objects = _plain_git(checkout, "rev-parse", "--git-path", "objects").strip()
    own = {
        "GIT_INDEX_FILE": str(scratch / "index"),
        "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((checkout / objects).resolve()),
    }
    return _run(checkout, arguments, {**os.environ, **own})


def _plain_git(checkout: Path, *arguments: str) -> str:
    try:
        return _run(checkout, arguments, dict(os.environ))
    except SnapshotError:
        if "--quiet" in arguments:
            return ""  # a repository without a commit
        raise


def _run(checkout: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> str:
    try:
        ran = subprocess.run(
            ["git", *arguments],
            cwd=checkout,
            env=environment,
            capture_output=True,
            check=False,
            timeout=300,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SnapshotError(f"jobs run a frozen copy of the code, made by git: {error}") from None
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise SnapshotError(
            f"jobs run a frozen copy of the code, made by git from {checkout}: {said[-1]}"
        )
    return ran.stdout.decode(errors="surrogateescape")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
