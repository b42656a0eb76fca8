"""Puts trained factors with a cohort axis into a model.

Every client of a cohort shares the frozen weights W and the frozen sketch; only the trained factor differs. So the
clients' mini-batches are laid one after another in the batch dimension, all of them share the products with W, and
only the update ``s B A`` knows which rows belong to whom. A module that is no plain layer is called with each client's
own weights on its own rows. The rest of the network works per sample and never learns that clients share a batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from fedrac.algorithm.blocks import Block
from fedrac.training import layer_updates
from fedrac.training.dropout import ClientDropout
from fedrac.training.layer_updates import Factors
from fedrac.training.layout import Layout
from fedrac.training.linear_update import AddUpdate
from fedrac.training.per_client import Units
from fedrac.training.way import NotTogether, Way


class CohortAdapter:
    """Adds each client's update to the outputs of a model's layers.

    Args:
        model: its own weights stay as they are and get no gradient.
        blocks: the trained parameters, as `fedrac.algorithm.blocks.find_blocks` returns them.
        way: which modules read them, and how.
        dropout: what draws for the clients, where the model drops anything.

    The factors are set before each forward pass with `use`. A forward pass inside `attached` takes inputs of
    the layout's rows.
    """

    def __init__(
        self, model: nn.Module, blocks: Sequence[Block], way: Way, dropout: ClientDropout | None = None
    ) -> None:
        self.model = model
        self.blocks = tuple(blocks)
        self.units = Units(model, blocks, way.units, dropout)
        self._by_layer: dict[str, dict[str, Block]] = {}
        for block in self.blocks:
            for path, attribute in block.owners:
                if path in way.layers:
                    self._by_layer.setdefault(path, {})[attribute] = block
        self._factors: Mapping[str, Tensor] = {}
        self._of_block: dict[str, Factors] = {}
        self._layout = Layout(1, 1)

    def use(self, factors: Mapping[str, Tensor], layout: Layout) -> None:
        """Sets the factors, by `Block.key`, of the next forward passes, and whose their rows are."""
        self._factors, self._layout = factors, layout
        self._of_block.clear()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While this is open, the model's layers add the updates."""
        handles = [
            self.model.get_submodule(path).register_forward_hook(self._hook(path, blocks))
            for path, blocks in self._by_layer.items()
        ]
        if self.units.paths:  # factors move in place: their weights are made anew for every pass
            handles.append(self.model.register_forward_pre_hook(self._begin))
        try:
            with self.units.attached():
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, model: nn.Module, args: Any) -> None:
        self.units.use(self._factors, self._layout)

    def _hook(self, path: str, blocks: Mapping[str, Block]) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            if has_torch_function((out,)):  # the model's calls are watched for dropout; those of an update need not be
                added: Tensor = handle_torch_function(hook, (out,), layer, args, out)
                return added
            for attribute, block in ordered:
                out = self._add(path, layer, attribute, block, args, out)
            return out

        ordered = sorted(blocks.items(), reverse=True)  # the weight first: it needs the layer's own output
        return hook

    def _of(self, block: Block, dtype: torch.dtype) -> Factors:
        if (found := self._of_block.get(block.name)) is None:
            found = Factors(*(self._factors.get(block.key(x)) for x in "ABDZ"))
            self._of_block[block.name] = found
        return found.to(dtype)

    def _add(
        self, path: str, layer: nn.Module, attribute: str, block: Block, args: tuple[Any, ...], out: Tensor
    ) -> Tensor:
        """``out`` with the update of one block."""
        factors = self._of(block, out.dtype)
        if attribute == "bias":
            assert factors.D is not None
            self._check_rows(path, out)
            channel = 1 if isinstance(layer, nn.Conv2d) else -1
            return out + layer_updates.bias(factors.D, out, max(len(out), self._layout.rows), channel, self._layout)
        x = self._input(path, args)
        if isinstance(layer, nn.Embedding):
            return out + block.scale * layer_updates.embedding(layer, x, factors, self._layout)
        x = x.to(out.dtype)  # they differ under autocast
        if isinstance(layer, nn.Linear):
            out = out if out.shape[0] == x.shape[0] else out.expand(x.shape[0], *out.shape[1:]).clone()
            added: Tensor = AddUpdate.apply(  # type: ignore[no-untyped-call]
                out.detach(), x, *factors.pair(), block.scale, self._layout, layer.weight.to(out.dtype), factors.before
            )
            return added
        assert isinstance(layer, nn.Conv2d)
        return out + block.scale * layer_updates.conv2d(layer, x, out, factors, self._layout)

    def _input(self, path: str, args: tuple[Any, ...]) -> Tensor:
        """The layer's input; one that all rows share (position ids, say) is repeated for every row."""
        if not args:
            raise NotTogether(f"layer {path!r} is called with keyword arguments only")
        x: Tensor = args[0]
        self._check_rows(path, x)
        return x.expand(self._layout.rows, *x.shape[1:]) if x.shape[0] == 1 else x

    def _check_rows(self, path: str, x: Tensor) -> None:
        if x.shape[0] != 1 and x.shape[0] % self._layout.rows:
            raise NotTogether(
                f"layer {path!r} saw {len(x)} rows for a batch of {self._layout.rows}: the batch must be the first "
                "dimension of every adapted layer's input"
            )
