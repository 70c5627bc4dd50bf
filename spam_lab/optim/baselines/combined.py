"""One optimizer made of several: each parameter belongs to a member, told by its kind and shape.

This module owns the routing and one view over all members. It promises that `param_groups` holds
the very groups that the members read, so that a learning rate set there reaches them, and that one
state dict holds the state of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from spam_lab.optim.base import Group, LabOptimizer

Route = Callable[[str, Tensor], str]
"""`(kind, parameter) -> member`: who updates the parameter."""


class Combined(LabOptimizer):
    """Several optimizers behind one interface.

    Every group carries its "member" beside its "kind". A group whose parameters go to several
    members becomes several groups, in the order of the members. A group's missing options are the
    defaults of its member.

    Args:
        groups: groups with a "kind", and parameters as (name, parameter).
        members: optimizers without parameters, made by `empty`.
        route: names the member of a parameter.

    Raises:
        RuntimeError: for sparse gradients and complex parameters.
        KeyError: for a group without a "kind", or a route to no member.
    """

    def __init__(self, groups: Any, members: Mapping[str, Optimizer], route: Route) -> None:
        self.members = members
        self.route = route
        super().__init__(groups, {})
        self._share()

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters, now or in mid-training; each goes to the member that `route` names."""
        parts: dict[str, list[Any]] = {name: [] for name in self.members}
        for entry in param_group["params"]:
            param = entry[1] if isinstance(entry, tuple) else entry
            parts[self.route(param_group["kind"], param)].append(entry)
        for name, params in parts.items():
            if params:
                own = {**self.members[name].defaults, **param_group}
                super().add_param_group({**own, "params": params, "member": name})
        self._share()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict`, hyperparameters included, as torch's optimizers do."""
        super().load_state_dict(state_dict)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy needs; torch's own leaves out what a subclass adds."""
        return {**super().__getstate__(), "members": self.members, "route": self.route}

    def update_all(self) -> None:
        """One step of every member."""
        for member in self.members.values():
            member.step()

    def _share(self) -> None:
        """Let the members read and write this optimizer's own groups and states."""
        for name, member in self.members.items():
            member.state = self.state
            member.param_groups = [g for g in self.param_groups if g["member"] == name]


def empty(optimizer: Callable[..., Optimizer], lr_ratio: float = 1.0, **options: Any) -> Optimizer:
    """A member of `Combined`, without parameters yet.

    Args:
        optimizer: its class.
        lr_ratio: its learning rate over the schedule's, kept in its groups.
        **options: its other arguments.
    """
    # torch refuses an empty list of parameters, but not an empty group.
    member = optimizer([{"params": []}], **options)
    member.param_groups.clear()
    member.defaults["lr_ratio"] = lr_ratio
    return member
