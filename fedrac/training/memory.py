"""How many tokens can go through a model together: as many as memory allows."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from fedrac.loading import machine
from fedrac.training.low_bits import LowBits
from fedrac.training.passes import MOST

_SHARE = {"cuda": 4}  # activations take this part of a device's memory at most
_SHARE_OF_MACHINE = 64  # a machine may run a host on every core, and has other things to do


class Kept(saved_tensors_hooks):
    """Counts the bytes that a pass keeps for its way back, while it is entered.

    Attributes:
        bytes: found so far, the model's own weights left out.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(self._pack, lambda x: x)
        self.bytes = 0
        own = (x for x in model.state_dict().values() if not isinstance(x, LowBits))
        self._seen = {x.untyped_storage().data_ptr() for x in own}

    def __enter__(self) -> "Kept":  # type: ignore[override]
        super().__enter__()
        return self

    def _pack(self, x: Tensor) -> Any:
        if isinstance(x, LowBits):  # the model's own, whose values are made anew on the way back
            return x
        storage = x.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return x


def most_tokens(kept: float, device: torch.device) -> int:
    """Tokens (rows, of what has no length) of one pass.

    It follows from the size of the memory, not from what is free of it: a run takes the same steps whenever it is made.

    Args:
        kept: bytes that a pass keeps for each token.
    """
    return min(max(int(_budget(device) / max(kept, 1.0)), 1), MOST)


def _budget(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // _SHARE["cuda"]
    return machine.memory() // _SHARE_OF_MACHINE
