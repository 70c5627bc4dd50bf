"""What the doctor says of this machine: versions, processor, GPU and compiler."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from spam_lab.commands.bench import processor
from spam_lab.commands.doctor_checks import Finding

PACKAGES = ("spam_lab", "torch", "transformers", "mlflow", "hydra-core", "numpy")
CONSTRAINTS = Path(__file__).resolve().parents[3] / "constraints.txt"
SHOWN = 6


def versions() -> Finding:
    """Python and the packages that matter most."""
    told = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return Finding("versions", f"python {platform.python_version()}, {told}")


def constraints() -> Finding:
    """Whether what is installed is what the lab was last tested with."""
    try:
        lines = CONSTRAINTS.read_text().splitlines()
    except OSError:
        return Finding("tested with", "no constraints.txt beside this installation")
    pins = [found for line in lines if (found := _PIN.match(line))]
    wanted = {str(found[1]): str(found[2]) for found in pins}
    other = []
    for name, version in wanted.items():
        have = _version(name)
        if have not in ("missing", version) and have.partition("+")[0] != version:
            other.append(f"{name} {have} ({version})")
    if not other:
        return Finding("tested with", f"what is installed is of constraints.txt ({len(wanted)})")
    more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
    return Finding(
        "tested with",
        f"other versions than constraints.txt: {', '.join(other[:SHOWN])}{more}",
        "make, or pip install -c constraints.txt -e .",
        needed=False,
    )


_PIN = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;#]+)")


def cores() -> Finding:
    """The processor."""
    import torch

    count = os.cpu_count() or 1
    return Finding(
        "processor", f"{processor()}, {count} cores, torch {torch.get_num_threads()} threads"
    )


def gpu() -> Finding:
    """What torch sees, beside what the driver says."""
    import torch

    seen = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    driver = _driver()
    if seen:
        more = f" (driver {driver[0]})" if driver else ""
        return Finding("GPU", f"{', '.join(seen)}{more}")
    if driver:
        built = torch.version.cuda
        why = f"torch is built for CUDA {built}" if built else "torch is built without CUDA"
        return Finding(
            "GPU",
            f"nvidia-smi lists {driver[1]}, torch sees none; {why}",
            "install a torch for this driver (pytorch.org), or see to CUDA_VISIBLE_DEVICES",
            needed=False,
        )
    return Finding(
        "GPU",
        "none",
        "nano and small scale run without; paper scale needs one",
        needed=False,
    )


def _driver() -> tuple[str, str] | None:
    """The driver's version and its GPUs, as nvidia-smi says; None where there are none."""
    query = ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = [line.split(", ", 1) for line in told.stdout.splitlines() if ", " in line]
    if told.returncode or not rows:
        return None
    return rows[0][0], ", ".join(row[1] for row in rows)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def compiler() -> Finding:
    """What torch.compile would call on a CPU."""
    candidates = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    path = next((found for name in candidates if name and (found := shutil.which(name))), None)
    if path is None:
        return Finding(
            "C++ compiler", "none", "install g++: SPAM.compile is faster with it", needed=False
        )
    told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return Finding("C++ compiler", (told.stdout.splitlines() or [path])[0])


def compilation() -> Finding:
    """Whether torch.compile computes what it should."""
    import torch

    def grown(x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 1

    try:
        compiled = torch.compile(grown)(torch.ones(64))
    except Exception as error:  # whatever a compiler raises is the finding
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return Finding("torch.compile", why, "all runs, only slower", needed=False)
    right = bool((compiled == 3).all())
    return Finding(
        "torch.compile",
        "works" if right else "computes wrong numbers",
        "" if right else "do not compile here",
        needed=False,
    )
