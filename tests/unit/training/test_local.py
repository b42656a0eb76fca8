"""What training leaves behind; what it computes is in test_oracle.py."""

import pytest
import torch
from federation import Federation, predict
from torch import nn
from workloads import EXAMPLES, SIZES, Workload, make, mlp, shards, squared

from fedrac.algorithm.method import Method
from fedrac.training.optimizer import LocalSpec


def values(*shape):
    return torch.randn(EXAMPLES, *shape, generator=torch.Generator().manual_seed(0))


def test_losses_are_means_over_the_examples_a_client_saw():
    """With a step too small to matter: the mean loss of its data at the start of the round."""
    work = make(mlp)
    f = Federation(work, shards(), local=LocalSpec(lr=1e-12, batch_size=5, epochs=2))
    found = f.train(range(5))
    expected = [work.loss(predict(work, f.state.weights, rows), work.targets[rows]).mean() for rows in f.shards]
    torch.testing.assert_close(found.losses, torch.stack(expected).detach(), rtol=1e-9, atol=0)
    assert found.examples.tolist() == list(SIZES)


def test_model_keeps_its_modes_of_training():
    model = nn.Sequential(nn.Linear(6, 5), nn.Sequential(nn.Dropout(0.2), nn.BatchNorm1d(5)), nn.Linear(5, 3))
    f = Federation(Workload(model, values(6), values(3), squared), shards(), local=LocalSpec(lr=0.01))
    for training in (True, False):
        model.train(training)
        model[1].train(not training)
        modes = [m.training for m in model.modules()]
        f.train(range(5))
        assert [m.training for m in model.modules()] == modes
    broken = Federation(Workload(model, values(4), values(3), squared), shards(), layers={"2": 1})
    with pytest.raises(RuntimeError):
        broken.train(range(5))
    assert [m.training for m in model.modules()] == modes


class Watch(nn.Module):
    """Remembers the modes of a network while it computes."""

    def __init__(self, inside):
        super().__init__()
        self.inside, self.modes = inside, set()

    def forward(self, x):
        self.modes.add((self.training, *(m.training for m in self.inside)))
        return self.inside(x)


def test_batch_norm_uses_and_keeps_its_running_statistics():
    norm = nn.BatchNorm1d(5)
    norm.running_mean += 3.0
    norm.running_var *= 4.0
    model = Watch(nn.Sequential(nn.Linear(6, 5), norm, nn.Linear(5, 3)))
    work = Workload(model, values(6), values(3), squared, ("inside.1.*",))
    f = Federation(work, shards(), local=LocalSpec(lr=0.01, batch_size=5))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    together = f.train(range(5))
    assert model.modes == {(True, True, False, True)}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for client in range(5):
        for key, factor in f.train([client]).factors.items():
            torch.testing.assert_close(together.factors[key][client], factor[0])


def test_instance_norm_keeps_its_running_statistics():
    norm = nn.InstanceNorm1d(3, track_running_stats=True)
    model = nn.Sequential(nn.Linear(6, 6), nn.Unflatten(1, (3, 2)), norm, nn.Flatten())
    f = Federation(Workload(model, values(6), values(6), squared), shards(), local=LocalSpec(lr=0.01))
    f.train(range(5))
    assert not norm.running_mean.any()
    assert norm.num_batches_tracked == 0


def test_weights_need_no_gradient_of_their_own():
    """As a host has them: what is planned is trained, and the model's own weights are none of it."""
    local = LocalSpec(lr=0.05, batch_size=5)
    expected = Federation(make(mlp), shards(), local=local).train(range(5)).factors
    frozen = Federation(make(mlp), shards(), local=local)
    frozen.workload.model.requires_grad_(False)
    for key, factors in frozen.train(range(5)).factors.items():
        assert torch.equal(factors, expected[key])


def test_start_is_left_as_it_was():
    f = Federation(make(mlp), shards(), Method(train="both"), LocalSpec("adamw", lr=0.05, batch_size=5))
    start = f.start(1)
    before = {k: v.clone() for k, v in start.trained.items()}
    f.train(range(5), start)
    assert all(torch.equal(v, before[k]) for k, v in start.trained.items())


def test_losses_given_as_a_view_that_is_not_contiguous():
    def loss(outputs, targets):
        return torch.stack([squared(outputs, targets), targets.sum(1)], 1)[:, 0]

    plain = Federation(make(mlp), shards(), local=LocalSpec(lr=0.05)).train(range(5))
    work = make(mlp)
    other = Workload(work.model, work.inputs, work.targets, loss, work.full)
    found = Federation(other, shards(), local=LocalSpec(lr=0.05)).train(range(5))
    torch.testing.assert_close(found.losses, plain.losses)
