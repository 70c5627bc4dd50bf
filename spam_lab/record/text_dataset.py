"""The text that a run read, as MLflow's dataset: a name, a digest and where it comes from.

It promises that runs over the same text, cut in the same way, share one dataset, however large
their batches are. The text itself is not opened: the digest is that of its description.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spam_lab.files import dump_json

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_TEXT = ("source", "hub_name", "hub_subset", "files", "validation_files")
_CUT = ("tokenizer", "layout", "sequence_length")
_NO_DATA = ("name", "model", "batch_size")
_DIGITS = 8


@dataclass(frozen=True)
class TextDataset:
    """A dataset as MLflow keeps it; `source` and `profile` are JSON."""

    name: str
    digest: str
    source_type: str
    source: str
    profile: str

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> TextDataset:
        """The dataset of a config's group `data`."""
        text = {key: data.get(key) for key in _TEXT}
        cut = {key: data.get(key) for key in _CUT}
        source_type, source = _source(text)
        digest = hashlib.sha256(dump_json([text, cut]).encode()).hexdigest()[:_DIGITS]
        return cls(str(data["name"]), digest, source_type, dump_json(source), dump_json(cut))

    @classmethod
    def of_task(cls, task: Mapping[str, Any]) -> TextDataset:
        """The dataset of the config of a task other than pre-training, whose keys describe it."""
        described = {key: value for key, value in task.items() if key not in _NO_DATA}
        name = str(task.get("dataset", task["name"]))
        digest = hashlib.sha256(dump_json(described).encode()).hexdigest()[:_DIGITS]
        source = {"uri": task["path"]} if task.get("path") else {"name": name}
        source_type = "local" if task.get("path") else "code"
        return cls(name, digest, source_type, dump_json(source), dump_json(described))

    def as_input(self) -> DatasetInput:
        """For MLflow's `log_inputs`, as what was trained on."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            self.name, self.digest, self.source_type, self.source, profile=self.profile
        )
        return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def _source(text: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Type and content of the source, by MLflow's names."""
    if text["files"]:
        return "local", {"uri": text["files"]}
    if text["hub_name"]:
        return "hugging_face", {"path": text["hub_name"], "config_name": text["hub_subset"]}
    return "code", {"tags": {"mlflow.source.name": "spam_lab/data/embedded"}}
