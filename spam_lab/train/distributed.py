"""Several processes that train one run: who they are, what they agree on, and how they end.

It owns the process group (`World`), and promises that every rank is told the same by every call,
that no call waits for a lost peer longer than the timeout, and that whatever goes wrong between
ranks is one exception, `PeerLost`. One process is a world too (`SOLO`): it agrees with itself at no
cost, and nothing of torch.distributed is imported for it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TIMEOUT_SECONDS = 300.0
"""How long a rank waits for another: longer than a checkpoint takes to be written, or a kernel to
be compiled, which other ranks wait for."""

_LOST = re.compile(
    r"gloo|nccl|connection (was )?(closed|reset|refused)|broken pipe|timed out|tcpstore", re.I
)
"""What torch's errors say where the other side is the cause: they have no type of their own."""


class PeerLost(RuntimeError):
    """Ranks can no longer reach each other. The group is over: leave the process, join another."""


class World:
    """The processes that train a run together, seen from one of them; this class is one alone.

    Attributes:
        rank: which of them this is, from 0.
        size: how many they are.
        local_rank: which of those on this machine, and so which of its GPUs.
        device: "cpu" or "cuda", what they joined for; None where each run says so itself.
    """

    device: str | None = None

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank

    @property
    def is_main(self) -> bool:
        """Whether this rank writes: metrics, checkpoints, states."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank."""
        return flag

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the ranks' tensors, which have one shape and dtype."""
        return tensor

    def from_main(self, value: Any) -> Any:
        """Rank 0's value, a small plain one; other ranks' arguments are ignored."""
        return value

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def guard(self) -> AbstractContextManager[None]:
        """What the ranks do in step: whoever leaves the block by an exception ends the world.

        An exception that another rank caused becomes PeerLost.
        """
        return contextlib.nullcontext()

    def together(self, what: str) -> AbstractContextManager[None]:
        """What every rank does on its own: all leave the block, or all raise and go on in step.

        Raises:
            RuntimeError: where it was another rank that failed; `what` names what failed.
        """
        return contextlib.nullcontext()

    def require(self) -> None:
        """Raise PeerLost once the ranks are out of step."""

    def close(self) -> None:
        """Leave the group. Harmless twice."""


SOLO = World()
"""One process, which is what a run is unless somebody says otherwise."""


class Group(World):
    """A world of several ranks, over torch.distributed's default process group."""

    def __init__(self, rank: int, size: int, local_rank: int, device: str) -> None:
        super().__init__(rank, size, local_rank)
        self.device = device
        self._broken = ""
        self._open = True

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank. On the CPU: no GPU is waited for."""
        import torch
        from torch import distributed

        votes = torch.tensor([int(flag)])
        with self.guard():
            distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
        return bool(votes.item())

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of the ranks' tensors, the same to the bit on every rank."""
        from torch import distributed

        summed = tensor.detach().clone().contiguous()
        with self.guard():
            distributed.all_reduce(summed)
        return summed

    def from_main(self, value: Any) -> Any:
        """Rank 0's value; it travels pickled, between processes that trust each other."""
        from torch import distributed

        box = [value]
        with self.guard():
            distributed.broadcast_object_list(box, src=0, device=_cpu())
        return box[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.any(False)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """End the world where the block raises."""
        self.require()
        try:
            yield
        except PeerLost:
            raise  # an inner block has said so already
        except BaseException as error:
            told = f"{type(error).__name__}: {_first_line(error)}"
            if not isinstance(error, RuntimeError) or not is_peers_fault(error):
                self._broken = f"rank {self.rank} of {self.size} failed ({told})"
                raise
            self._broken = f"rank {self.rank} of {self.size} lost a peer: {_first_line(error)}"
            raise PeerLost(self._broken) from error

    @contextlib.contextmanager
    def together(self, what: str) -> Iterator[None]:
        """Let all ranks fail where one does."""
        try:
            yield
        except Exception:
            self.any(True)
            raise
        if self.any(False):
            raise RuntimeError(f"another rank could not {what}: its own log says why")

    def require(self) -> None:
        """Raise PeerLost once the ranks are out of step, or the group was left."""
        if self._broken or not self._open:
            raise PeerLost(self._broken or f"rank {self.rank} has left the group")

    def close(self) -> None:
        """Leave the group, unless it is broken: then only the end of the process closes it.

        What hangs in a broken group can make leaving it hang as well.
        """
        from torch import distributed

        if self._open and not self._broken and distributed.is_initialized():
            distributed.destroy_process_group()
        self._open = False


def join(
    rank: int,
    size: int,
    local_rank: int,
    address: str,
    port: int,
    device: str,
    timeout: float = TIMEOUT_SECONDS,
) -> World:
    """Meet the other ranks and form a world: gloo on a CPU; nccl, and gloo beside it, on GPUs.

    Args:
        rank: of this process, from 0.
        size: how many processes come; 1 is `SOLO`, and meets nobody.
        local_rank: of this process on its machine; on GPUs, which one it takes.
        address: a name of rank 0's machine that all ranks can reach.
        port: a free one there.
        device: where the ranks compute, as in `train.device`.
        timeout: seconds that a rank waits for another before it counts as lost.

    Raises:
        PeerLost: if not all come in time.
        RuntimeError: for a GPU that is not there.
    """
    if size == 1:
        return SOLO
    import torch
    from torch import distributed
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from spam_lab.train.device import choose_device

    kind = choose_device(device).type
    limit = timedelta(seconds=timeout)
    if kind == "cuda":
        torch.cuda.set_device(local_rank)
        torch.cuda.init()  # type: ignore[no-untyped-call]
    try:
        store = TCPStore(address, port, size, is_master=rank == 0, timeout=limit)
        distributed.init_process_group(
            # Flags go by gloo where the work goes by nccl: a flag must not wait for the GPU.
            "gloo" if kind == "cpu" else f"cpu:gloo,{kind}:nccl",
            store=store,
            rank=rank,
            world_size=size,
            timeout=limit,
        )
        world = Group(rank, size, local_rank, kind)
        world.barrier()  # gloo connects lazily; whoever cannot be reached is missed here, not later
    except PeerLost:
        raise
    except RuntimeError as error:  # torch's DistError among them
        reason = f"rank {rank} of {size} could not meet the others at {address}:{port}"
        raise PeerLost(f"{reason}: {_first_line(error)}") from error
    return world


def is_peers_fault(error: RuntimeError) -> bool:
    """Whether an error came from another rank rather than from this one's own work."""
    import torch
    from torch.distributed import DistError

    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, DistError | PeerLost) or bool(_LOST.search(str(error)))


def _first_line(error: BaseException) -> str:
    """The error in one line, without the place in torch's C++ sources."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"^\[\S+\.cc:\d+\] |\. This is typically caused by .*$", "", lines[0])


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")
