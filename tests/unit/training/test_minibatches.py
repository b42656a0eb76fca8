import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrac.algorithm.streams import Stream
from fedrac.training.minibatches import Minibatches, chunks
from fedrac.training.optimizer import LocalSpec
from fedrac.training.setup import Shard


def cohort(sizes, spec):
    """Shards of these sizes with rows 100 c, 100 c + 1, ..., in the order of one chunk."""
    order = sorted(range(len(sizes)), key=lambda c: (-spec.steps(sizes[c]), -sizes[c]))
    return [Shard(c, 100 * c + torch.arange(sizes[c])) for c in order]


def per_client(shards, spec, seed=0, round_=1):
    """What each client sees: by id, the list of its mini-batches."""
    orders = Minibatches(shards, spec, seed, round_, 16384)
    seen = {s.client: [] for s in shards}
    step = 0
    for batch in orders.batches():
        assert batch.first == step
        assert batch.index.shape == batch.weight.shape == batch.real.shape
        for index, weight, real in zip(batch.index, batch.weight, batch.real, strict=True):
            step += 1
            for c in range(batch.clients):
                count = int(real[c].sum())
                assert real[c].tolist() == [True] * count + [False] * (len(index[c]) - count)
                assert weight[c, :count].tolist() == [1 / count] * count
                assert not weight[c, count:].any()
                assert index[c, count:].tolist() == [int(index[c, count - 1])] * (len(index[c]) - count)
                seen[shards[c].client].append(index[c, :count].tolist())
    return orders, seen


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=6)
sampled = st.sampled_from(["rr", "replacement", "full"])


@given(SIZES, st.integers(1, 12), st.integers(1, 3), sampled)
@settings(max_examples=60, deadline=None)
def test_every_client_gets_its_own_epochs(sizes, batch_size, epochs, sampling):
    spec = LocalSpec(batch_size=batch_size, epochs=epochs, sampling=sampling)
    shards = cohort(sizes, spec)
    orders, seen = per_client(shards, spec)
    for place, shard in enumerate(shards):
        size, batches, rows = len(shard.index), seen[shard.client], shard.index.tolist()
        assert len(batches) == spec.steps(size)
        assert int(orders.examples_seen[place]) == sum(map(len, batches))
        flat = [row for batch in batches for row in batch]
        if sampling == "full":
            assert batches == [rows] * epochs
        elif sampling == "rr":
            per_epoch = -(-size // batch_size)
            for e in range(epochs):
                epoch = batches[e * per_epoch : (e + 1) * per_epoch]
                assert sorted(row for batch in epoch for row in batch) == rows
                assert [len(b) for b in epoch[:-1]] == [batch_size] * (per_epoch - 1)
        else:
            assert set(flat) <= set(rows)
            assert {len(b) for b in batches} == {min(size, batch_size)}


@given(SIZES, st.integers(1, 12), sampled, st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_client_sees_the_same_alone_and_in_a_cohort(sizes, batch_size, sampling, seed):
    spec = LocalSpec(batch_size=batch_size, epochs=2, sampling=sampling)
    shards = cohort(sizes, spec)
    _, together = per_client(shards, spec, seed)
    for shard in shards:
        assert per_client([shard], spec, seed)[1][shard.client] == together[shard.client]


def test_orders_are_those_of_the_clients_stream():
    spec, shard = LocalSpec(batch_size=4, epochs=2), Shard(6, torch.arange(600, 610))
    _, seen = per_client([shard], spec, seed=3, round_=8)
    stream = Stream(3, "order", 8, 6)
    expected = [600 + int(i) for _ in range(2) for i in stream.permutation(10)]
    assert [row for batch in seen[6] for row in batch] == expected


@pytest.mark.parametrize("sampling", ["rr", "replacement"])
def test_orders_change_with_epoch_round_client_and_seed(sampling):
    spec, shard = LocalSpec(batch_size=20, epochs=2, sampling=sampling), Shard(6, torch.arange(20))
    epochs = per_client([shard], spec)[1][6]
    others = [per_client([shard], spec, seed=1)[1][6][0], per_client([shard], spec, round_=2)[1][6][0]]
    others.append(per_client([Shard(7, shard.index)], spec)[1][7][0])
    assert len({tuple(batch) for batch in [*epochs, *others]}) == 5


def test_replacement_repeats_examples():
    _, seen = per_client([Shard(0, torch.arange(50))], LocalSpec(batch_size=50, sampling="replacement"))
    assert len(set(seen[0][0])) < 45


@given(SIZES, st.integers(1, 12), sampled, st.integers(1, 100))
@settings(max_examples=80, deadline=None)
def test_chunks_keep_within_the_most_rows(sizes, batch_size, sampling, most):
    spec = LocalSpec(batch_size=batch_size, sampling=sampling)
    cut = chunks(sizes, spec, most)
    assert sorted(place for chunk in cut for place in chunk) == list(range(len(sizes)))
    steps = [spec.steps(sizes[place]) for chunk in cut for place in chunk]
    assert steps == sorted(steps, reverse=True)
    for chunk in cut:
        for batch in Minibatches([Shard(p, torch.arange(sizes[p])) for p in chunk], spec, 0, 1, most).batches():
            assert batch.index.numel() <= most or (len(chunk) == 1 and len(batch.index) == 1)
    if most >= len(sizes) * max(spec.rows_per_step(s) for s in sizes):
        assert len(cut) == 1
