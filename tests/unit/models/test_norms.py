"""GroupNorm in the place of BatchNorm."""

import pytest
import torch
from torch import nn

from fedrac import models
from fedrac.models.norms import frozen, group_norm_for_batch_norm, note


class Net(nn.Module):
    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels)
        self.inner = nn.Sequential(nn.BatchNorm2d(channels, affine=False), nn.GroupNorm(1, channels))
        self.last, self.head = nn.BatchNorm1d(channels), nn.Linear(channels, 2)

    def forward(self, x):
        x = self.inner(self.norm(self.conv(x)))
        return self.head(self.last(x.mean((-1, -2))))


def test_scale_and_shift_are_kept_and_rows_stay_apart():
    torch.manual_seed(0)
    model = Net()
    nn.init.normal_(model.norm.weight)
    nn.init.normal_(model.norm.bias)
    weight, bias, names = model.norm.weight, model.norm.bias, [name for name, _ in model.named_parameters()]
    assert frozen(model) == ["norm", "inner.0", "last"]
    group_norm_for_batch_norm(model)
    assert [name for name, _ in model.named_parameters()] == names and frozen(model) == [] and note(model) == ""
    assert model.norm.weight is weight and model.norm.bias is bias and model.inner[0].weight is None
    x = torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(model.train()(x), torch.cat([model(row[None]) for row in x]))
    assert model(x).std(0).min() > 1e-3  # it still tells examples apart


@pytest.mark.parametrize("channels, groups", [(1, 1), (3, 1), (8, 4), (16, 8), (64, 32), (96, 32), (512, 32), (7, 1)])
def test_groups_have_two_channels_at_least(channels, groups):
    assert group_norm_for_batch_norm(nn.BatchNorm2d(channels)).num_groups == groups
    assert group_norm_for_batch_norm(nn.BatchNorm1d(channels)).num_groups == 1


def test_a_setting_of_the_model():
    spec = {"_target_": f"{__name__}.Net", "channels": 8}
    kept, changed = (models.build({**spec, "group_norm": on}, 1) for on in (False, True))
    assert isinstance(kept.norm, nn.BatchNorm2d) and isinstance(changed.norm, nn.GroupNorm)
    assert torch.equal(kept.conv.weight, changed.conv.weight)
    assert "3 layers (norm, a BatchNorm2d, ...) stay as they are; model.group_norm=true" in note(kept)


def test_only_what_keeps_statistics_is_named():
    without = nn.Sequential(nn.LayerNorm(3), nn.InstanceNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False))
    assert note(without) == ""
    assert frozen(nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True))) == ["0"]
