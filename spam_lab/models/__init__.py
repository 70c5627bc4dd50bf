"""The models room: transformers' causal language models from a typed config.

It owns how a model is built and initialised (`build`), what its parameters are for (`kinds`) and
how its loss is taken (`loss`). It promises the same weights from the same config and seed, and that
a new architecture needs a YAML, not code.
"""

from spam_lab.models.build import build_model, parameter_count
from spam_lab.models.kinds import KINDS, module_kind, named_kinds
from spam_lab.models.loss import token_losses

__all__ = [
    "KINDS",
    "build_model",
    "module_kind",
    "named_kinds",
    "parameter_count",
    "token_losses",
]
