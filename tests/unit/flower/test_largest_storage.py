"""In a round, nothing as large as a weight is made but the weights themselves."""

from collections import Counter

import pytest
import torch
from command import TINY
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from fedrac.experiment import compose
from fedrac.experiment.run import in_process, run
from fedrac.flower import node

WIDE = 1024
LARGE = ("data.features=4", "model.inputs=4", f"model.hidden=[{WIDE},{WIDE}]", "rank=2", "rounds=3", "evaluate.every=1")


class Made(TorchDispatchMode):
    """Counts by function what takes memory of its own that is as large as the weight; views do not."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {_place(x) for x in tree_iter((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if (
                isinstance(x, torch.Tensor)
                and x.untyped_storage().nbytes() >= 4 * WIDE * WIDE
                and _place(x) not in given
            ):
                self.found[str(func)] += 1
        return out


def _place(x):
    return x.untyped_storage().data_ptr() if isinstance(x, torch.Tensor) else None


class Rounds:
    """Looks at the rounds after the first one, which finds out how the model is trained."""

    def __init__(self) -> None:
        self.mode, self.found = Made(), []

    def begin(self, *_):
        pass

    def round(self, *_):
        if self.found:
            self.mode.__exit__(None, None, None)
        self.found.append(self.mode.found)
        self.mode = Made()
        if len(self.found) < 3:
            self.mode.__enter__()

    def end(self, *_):
        pass


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_round_makes_the_merged_weight_and_nothing_else_of_its_size(side, tmp_path):
    node.forget()
    settings = compose.load([*TINY, *LARGE, f"method.side={side}", f"output_dir={tmp_path}"])
    rounds = Rounds()
    run(settings, in_process(settings), tmp_path, rounds)
    assert [sum(found.values()) for found in rounds.found] == [0, 1, 1], rounds.found
