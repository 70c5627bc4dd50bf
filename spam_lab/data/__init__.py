"""The data room: a text corpus becomes batches of token ids.

`batches` is the contract: `open_training_data` and `open_validation_data`. Behind it are the
embedded corpus (`packed`) and streams of C4, SlimPajama or local mirrors (`stream`). It promises
the same batches from the same config on any machine, and exact continuation from a saved position.
"""

from spam_lab.data.batches import TrainingData, open_training_data, open_validation_data
from spam_lab.data.errors import DataError
from spam_lab.data.rows import IGNORED, Batch

__all__ = [
    "IGNORED",
    "Batch",
    "DataError",
    "TrainingData",
    "open_training_data",
    "open_validation_data",
]
