"""Puts trained factors with a cohort axis into a model.

Every client of a cohort shares the frozen weights W and the frozen sketch; only the trained factor differs. So the
clients' mini-batches are laid one after another in the batch dimension, all of them share the products with W, and
only the update ``s B A`` knows which rows belong to whom. The rest of the network works per sample and never learns
that several clients share a batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import handle_torch_function, has_torch_function

from fedrac.algorithm.blocks import ADAPTABLE, Block
from fedrac.training import layer_updates
from fedrac.training.layer_updates import Factors
from fedrac.training.linear_update import AddUpdate


class MixedRows(ValueError):
    """The model does not keep the rows of its batch apart, so a cohort of several clients cannot share one."""


class CohortAdapter:
    """Adds each client's update to the outputs of a model's layers.

    Args:
        model: its own weights stay as they are and get no gradient.
        blocks: the trained parameters, as `fedrac.algorithm.blocks.find_blocks` returns them.

    The factors are set before each forward pass with `use`. A forward pass inside `attached` takes inputs of
    ``clients * rows_per_client`` rows, those of the first client first.

    Raises:
        ValueError: a module with a parameter that is trained in full contains other trained layers.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[Block]) -> None:
        self.model = model
        self.blocks = tuple(blocks)
        self._by_layer: dict[str, dict[str, Block]] = {}
        for block in self.blocks:
            for path, attribute in block.owners:
                self._by_layer.setdefault(path, {})[attribute] = block
        for path, own in self._by_layer.items():
            inside = [p for p in self._by_layer if p != path and (not path or p.startswith(f"{path}."))]
            if inside and not isinstance(model.get_submodule(path), ADAPTABLE):
                raise ValueError(
                    f"parameter {next(iter(own.values())).name!r} is trained in full, but its module {path!r} contains "
                    f"another trained layer, {inside[0]!r}: move it to a module of its own, or freeze it"
                )
        self._factors: Mapping[str, Tensor] = {}
        self._of_block: dict[str, Factors] = {}
        self._clients = self._rows = 1
        self._seen: set[str] = set()
        self._inside = False

    def use(self, factors: Mapping[str, Tensor], clients: int, rows: int) -> None:
        """Sets the factors, by `Block.key`, of the next forward passes; ``rows`` is that of the whole cohort."""
        self._factors, self._clients, self._rows = factors, clients, rows
        self._of_block.clear()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While this is open, the model's layers add the updates."""
        self._seen.clear()
        handles = [
            self.model.get_submodule(path).register_forward_hook(self._hook(path, blocks), with_kwargs=True)
            for path, blocks in self._by_layer.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def check_all_used(self) -> None:
        """After a forward pass: every adapted weight must have been used by a layer that was called.

        Raises:
            ValueError: a layer's weight is read by other means than its forward (as ``nn.MultiheadAttention`` does
                with its ``out_proj``), so its update would be ignored without a word.
        """
        for block in self.blocks:
            paths = [path for path, _ in block.owners]
            if self._seen.isdisjoint(paths):
                raise ValueError(
                    f"layer {paths[0]!r} is adapted, but the model never calls it (something reads its weight "
                    f"directly): freeze it, e.g. with 'adapt.layers={{*: 1, {paths[0]}: frozen}}'"
                )

    def _hook(self, path: str, blocks: Mapping[str, Block]) -> Any:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor | None:
            if self._inside:
                return None
            self._seen.add(path)
            if not isinstance(layer, ADAPTABLE):
                if kwargs:
                    raise ValueError(
                        f"module {path!r} has parameters that are trained in full and is called with the keyword "
                        f"{next(iter(kwargs))!r}: pass its inputs by position, or freeze it"
                    )
                return self._per_client(path, layer, blocks, args)
            if has_torch_function((out,)):  # the model's calls are watched for dropout; those of an update need not be
                return handle_torch_function(hook, (out,), layer, args, kwargs, out)
            for attribute, block in ordered:
                out = self._add(path, layer, attribute, block, args, out)
            return out

        ordered = sorted(blocks.items(), reverse=True)  # the weight first: it needs the layer's own output
        return hook

    def _of(self, block: Block, dtype: torch.dtype) -> Factors:
        if (found := self._of_block.get(block.name)) is None:
            found = Factors(*(self._factors.get(block.key(x)) for x in "ABD"))
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
            return out + layer_updates.bias(factors.D, out, max(len(out), self._rows), channel)
        x = self._input(path, args)
        if isinstance(layer, nn.Embedding):
            return out + block.scale * layer_updates.embedding(layer, x, factors, self._clients)
        x = x.to(out.dtype)  # they differ under autocast
        if isinstance(layer, nn.Linear):
            out = out if out.shape[0] == x.shape[0] else out.expand(x.shape[0], *out.shape[1:]).clone()
            out, w = (out.detach(), layer.weight.to(out.dtype)) if _is_plain(layer) else (out, None)
            added: Tensor = AddUpdate.apply(  # type: ignore[no-untyped-call]
                out, x, *factors.pair(), block.scale, self._clients, w
            )
            return added
        assert isinstance(layer, nn.Conv2d)
        return out + block.scale * layer_updates.conv2d(layer, x, out, factors, self._clients)

    def _input(self, path: str, args: tuple[Any, ...]) -> Tensor:
        """The layer's input; one that all rows share (position ids, say) is repeated for every row."""
        if not args:
            raise ValueError(f"layer {path!r} is called with keyword arguments only; pass its input by position")
        x: Tensor = args[0]
        self._check_rows(path, x)
        return x.expand(self._rows, *x.shape[1:]) if x.shape[0] == 1 else x

    def _check_rows(self, path: str, x: Tensor) -> None:
        if x.shape[0] != 1 and x.shape[0] % self._rows:
            raise MixedRows(
                f"layer {path!r} saw {len(x)} rows for a batch of {self._rows}: the batch must be the first dimension "
                "of every adapted layer's input"
            )

    def _per_client(self, path: str, layer: nn.Module, blocks: Mapping[str, Block], args: tuple[Any, ...]) -> Tensor:
        """Any other module (a norm, say) whose parameters are trained in full: called with each client's own."""
        own = {}
        for attribute, block in blocks.items():
            parameter = layer.get_parameter(attribute)
            own[attribute] = parameter + self._factors[block.key("D")].to(parameter.dtype)
        stacked = [self._input(path, (x,)).reshape(self._clients, -1, *x.shape[1:]) for x in args]
        self._inside = True
        try:
            out: Tensor = torch.vmap(lambda p, *a: functional_call(layer, p, a))(own, *stacked)
        finally:
            self._inside = False
        return out.flatten(0, 1)


def _is_plain(layer: nn.Linear) -> bool:
    """Whether ``x W^T`` and a bias is all that it does: nothing overrides its forward or changes its output."""
    return type(layer) is nn.Linear and "forward" not in vars(layer) and len(layer._forward_hooks) == 1
