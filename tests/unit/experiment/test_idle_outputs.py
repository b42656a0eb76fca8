"""A model with more outputs than there are classes is told of: the data go with it, but is it meant?"""

from pathlib import Path

import pytest
from command import TINY

from fedrac.experiment import compose, run


@pytest.mark.parametrize(("outputs", "told"), [(5, False), (7, True)])
def test_more_outputs_than_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture, outputs: int, told: bool) -> None:
    own = [each for each in TINY if each.startswith(("cohort", "local", "rounds", "partition.c", "pretrain"))]
    settings = compose.load([*own, f"model.outputs={outputs}", f"output_dir={tmp_path / 'out'}"])
    run.run(settings, run.in_process(settings), tmp_path / "out")
    assert (f"the model has {outputs} outputs, the data have 5 classes" in caplog.text) == told
