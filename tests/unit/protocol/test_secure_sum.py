"""Sums of which the server sees no summand: what it learns, who may be lost, and who is refused."""

import re
from itertools import combinations

import numpy as np
import pytest
import torch
from flwr.app import Message
from masked_sums import Federation, plain, random_words
from scipy import stats

from fedrac.aggregation.secure_grid import SecureSpec
from fedrac.protocol import masking
from fedrac.protocol.masking import BOX, Secrets
from fedrac.protocol.round_report import CohortFailure
from fedrac.protocol.secure_messages import NAME
from fedrac.protocol.secure_server import graph

TEN = [[client] for client in range(10)]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("clients", [TEN, [[0, 3, 5], [1, 2], [4, 6, 7, 8, 9]], [list(range(10))]])
def test_the_sum_is_that_of_the_plain_words(clients: list[list[int]], dtype: torch.dtype) -> None:
    words = random_words(range(10), dtype=dtype)
    assert torch.equal(Federation(clients).total(words), plain(words))


@pytest.mark.parametrize("lost", [(2,), (0, 4, 9), (0, 1, 2, 3)])
def test_clients_that_are_lost_after_they_shared(lost: tuple[int, ...]) -> None:
    words = {client: word for client, word in random_words(range(10)).items() if client not in lost}
    assert torch.equal(Federation(TEN).total(words), plain(words))


@pytest.mark.parametrize("step", ["keys", "shares", "unmask"])
def test_nodes_that_fall_silent_at_any_step(step: str) -> None:
    federation = Federation(TEN, tamper=lambda at, answers: answers[3:] if at == step else answers)
    federation.agree()
    words = random_words(federation.round.clients)
    total = federation.round.unmask(federation.send(words), federation.ask)
    assert torch.equal(total, plain(words))
    assert len(words) == (10 if step == "unmask" else 7)
    assert [str(refusal) for _, refusal in federation.round.refused] == [
        f"client {client}: no reply in time" for client in (() if step == "unmask" else (0, 1, 2))
    ]


def test_a_sparse_graph_with_losses() -> None:
    lost = (3, 17, 18, 30)
    words = {c: word for c, word in random_words(range(40)).items() if c not in lost}
    federation = Federation(
        [list(range(start, start + 8)) for start in range(0, 40, 8)], SecureSpec(True, neighbours=12)
    )
    assert torch.equal(federation.total(words), plain(words))
    held = graph(list(range(40)), 12, 1, 7)
    assert {len(holders) for holders in held.values()} == {13}
    assert all(client in held[other] for client, holders in held.items() for other in holders)


def test_fewer_survivors_than_the_threshold_end_the_round() -> None:
    words = {client: word for client, word in random_words(range(10)).items() if client < 5}
    with pytest.raises(CohortFailure, match=r"round 7: 5 of the 10 .* client 0 are left, .*=0.5 needs 6"):
        Federation(TEN).total(words)
    silent = Federation(TEN, tamper=lambda at, answers: answers[:5] if at == "unmask" else answers)
    with pytest.raises(CohortFailure, match="5 good shares of the mask of client 0, and 6 are needed"):
        silent.total(random_words(range(10)))
    early = Federation(TEN, tamper=lambda at, answers: answers[:5] if at == "shares" else answers)
    with pytest.raises(CohortFailure, match=r"5 of the 10 clients .*client 5: no reply in time"):
        early.agree()


def test_what_the_server_sees_of_a_client_looks_like_noise() -> None:
    """Updates of zero, and what is left if all masks but one are known, are uniform by chi-square on their bytes."""
    length = 20_000
    federation = Federation([[0], [1], [2]])
    federation.agree()
    seen = federation.send({client: torch.zeros(length, dtype=torch.int32) for client in range(3)})
    for words in (seen[0], seen[1], seen[0] + seen[1], seen[0] - seen[2]):
        counts = np.bincount(words.numpy().view(np.uint8), minlength=256)
        assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4
    # The whole of it is that of two other updates: their sum is all that differs.
    assert torch.equal(federation.round.unmask(seen, federation.ask), torch.zeros(length, dtype=torch.int32))


def test_masks_are_new_in_every_round() -> None:
    words = random_words(range(3))
    first, second = (Federation([[0], [1], [2]]) for _ in range(2))
    assert torch.equal(first.total(words), second.total(words))
    assert not torch.equal(first.seen[0], second.seen[0])


# --- hostile clients ------------------------------------------------------------------------------------------------


def changed(client: int, step: str, field: str, value: object) -> object:
    """Tampers with a field of the answer of one client, which is on a node of its own."""

    def tamper(at: str, answers: list[Message]) -> list[Message]:
        if at == step:
            record = answers[client].content.config_records[NAME]
            record[field] = value(record[field]) if callable(value) else value  # type: ignore[assignment]
        return answers

    return tamper


SMALL_ORDER = bytes(32)


@pytest.mark.parametrize(
    ("step", "field", "value", "reason"),
    [
        ("keys", "keys", lambda keys: [SMALL_ORDER, keys[1]], "not a public key of X25519"),
        ("keys", "keys", lambda keys: [keys[0], b"short"], "not a public key of X25519"),
        ("keys", "keys", lambda keys: [keys[0], keys[0]], "a public key is there twice"),
        ("keys", "keys_of", [5], "field keys is of other clients"),
        ("shares", "boxes", lambda boxes: [boxes[0][:-1], *boxes[1:]], f"expected 9 of {BOX} bytes"),
        ("shares", "boxes_counts", [8], "field boxes has 9 entries of 1 clients, expected 8"),
        ("shares", "commitments", lambda them: ["text"] * len(them), "field commitments must be a list of bytes"),
    ],
)
def test_who_sends_no_keys_or_shares_is_left_out(step: str, field: str, value: object, reason: str) -> None:
    federation = Federation(TEN, tamper=changed(4, step, field, value))
    federation.agree()
    [(node, refusal)] = federation.round.refused
    assert (node, refusal.clients) == (5, [4]) and reason in refusal.reason
    words = random_words([client for client in range(10) if client != 4])
    assert torch.equal(federation.round.unmask(federation.send(words), federation.ask), plain(words))


def test_a_wrong_share_does_not_count() -> None:
    """One client gives noise for shares: those of the others are enough, and the sum is right."""
    federation = Federation(TEN, tamper=changed(4, "unmask", "shares", lambda shares: [bytes(16)] * len(shares)))
    words = random_words(range(8))  # 8 and 9 drop out
    assert torch.equal(federation.total(words), plain(words))


@pytest.mark.parametrize("lost", [False, True])
def test_who_shares_noise_ends_the_round_by_name(lost: bool) -> None:
    """Boxes that nobody can open: what client 4 has masked cannot be unmasked, nor its pairwise masks if it is lost."""
    federation = Federation(TEN, tamper=changed(4, "shares", "boxes", lambda boxes: [bytes(BOX)] * len(boxes)))
    words = {client: word for client, word in random_words(range(10)).items() if not (lost and client == 4)}
    what = "0 good shares of the key" if lost else "1 good shares of the mask"
    with pytest.raises(CohortFailure, match=f"{what} of client 4, and 6 are needed. .* the weights as they are"):
        federation.total(words)


@pytest.mark.parametrize("lost", [False, True])
def test_who_shares_another_secret_ends_the_round_by_name(lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    split, calls = masking.split, []

    def lie(seed: bytes, least: int, holders: int) -> list[bytes]:
        calls.append(seed)
        return split(bytes(16) if len(calls) in (9, 10) else seed, least, holders)  # both secrets of client 4

    monkeypatch.setattr(masking, "split", lie)
    words = {client: word for client, word in random_words(range(10)).items() if not (lost and client == 4)}
    with pytest.raises(CohortFailure, match=r"client 4.* shared what is not (the seed|its key)"):
        Federation(TEN).total(words)


def test_a_share_of_somebody_else_is_refused() -> None:
    federation = Federation(
        [[client] for client in range(20)],
        SecureSpec(True, neighbours=4),
        tamper=changed(4, "unmask", "owners", lambda owners: [99, *owners[1:]]),
    )
    words = random_words(range(20))
    assert torch.equal(federation.total(words), plain(words))


# --- a server that asks for more ------------------------------------------------------------------------------------


def asked(step: str, **fields: object) -> object:
    """Changes what the server asks at one step."""

    def tamper(at: str, questions: list[Message]) -> list[Message]:
        for question in questions if at == step else ():
            record = question.content.config_records[NAME]
            for field, value in fields.items():
                record[field] = value(record[field]) if callable(value) else value  # type: ignore[assignment]
        return questions

    return tamper


@pytest.mark.parametrize(
    ("step", "fields", "reason"),
    [
        ("shares", {"least": [5]}, "5 of 10 clients would bring back .* more than half"),
        ("shares", {"keys": lambda keys: [keys[0], keys[0], *keys[2:]]}, "a public key is there twice"),
        ("shares", {"keys": lambda keys: [*keys[2:], bytes(32), bytes(range(32))]}, "are not those that it gave"),
        ("shares", {"holders": list(range(1, 11))}, "would share with others than have keys"),
        ("shares", {"round": 8}, "asked for what follows round 8, keys; here was round 7, keys"),
    ],
)
def test_a_client_does_not_share_as_it_should_not(step: str, fields: dict[str, object], reason: str) -> None:
    federation = Federation(TEN, ask=asked(step, **fields))
    federation.agree()
    assert len(federation.round.refused) == 10
    assert all(re.search(reason, refusal.reason) for _, refusal in federation.round.refused)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"survivors": [0, 1, 2, 3], "dropped": [4, 5, 6, 7, 8, 9]}, "4 of the 10 clients around client 0 are left"),
        ({"dropped": [0]}, "a client cannot both have dropped out and not"),
    ],
)
def test_a_client_tells_no_share_that_it_should_not(
    fields: dict[str, object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    federation = Federation(TEN, ask=asked("unmask", **fields))
    words = random_words(range(10))
    if fields["dropped"] == []:  # only client 0 is told that it is lost
        federation._before = (
            lambda at, them: [
                *list(asked("unmask", **fields)(at, them[:1])),  # type: ignore[operator]
                *them[1:],
            ]
        )
        assert torch.equal(federation.total(words), plain(words))
    else:
        with pytest.raises(CohortFailure, match="0 good shares of the mask of client 0"):
            federation.total(words)
    assert reason in caplog.text


def test_a_client_answers_each_step_once() -> None:
    federation = Federation([[0], [1], [2]])
    words = random_words(range(3))
    federation.agree()
    federation.send(words)
    with pytest.raises(ValueError, match="here was round 7, mask"):
        federation.send({client: word + 1 for client, word in words.items()})
    federation.round.unmask(federation.seen, federation.ask)
    with pytest.raises(CohortFailure, match="0 good shares"):
        federation.round.unmask({0: federation.seen[0], 1: federation.seen[1]}, federation.ask)


# --- primitives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [bytes(16), bytes(range(16)), b"\xff" * 16])
def test_shares_bring_back_a_seed_from_as_many_as_are_needed(seed: bytes) -> None:
    shares = masking.split(seed, 4, 9)
    for places in combinations(range(9), 4):
        assert masking.combine({place: shares[place] for place in reversed(places)}) == seed
    for places in combinations(range(9), 3):
        assert masking.combine({place: shares[place] for place in places}) != seed
    assert not set(shares) & set(masking.split(seed, 4, 9))  # drawn anew


def test_fewer_shares_fit_any_seed() -> None:
    """Whatever a fourth share says, three and it are those of some seed, of another one for each: three say nothing."""
    shares = dict(enumerate(masking.split(bytes(16), 4, 4)[:3]))
    found = {masking.combine(shares | {3: number.to_bytes(masking.SHARE, "big")}) for number in range(300)}
    assert len(found) == 300
    assert pow(3, masking.PRIME - 1, masking.PRIME) == 1  # it is a prime, by Fermat's test


def test_made_up_shares_bring_back_something_else() -> None:
    for made_up in (b"\xff" * masking.SHARE, (masking.PRIME - 1).to_bytes(masking.SHARE, "big")):
        assert len(masking.combine({0: made_up, 1: made_up})) == masking.SEED


def test_a_box_opens_for_whom_it_is_and_on_its_way_alone() -> None:
    alice, bob, eve = (Secrets.of(masking.new_secret()) for _ in range(3))
    box = masking.seal(alice.channel, bob.public[1], (7, 1, 2), b"shares")
    assert masking.unseal(bob.channel, alice.public[1], (7, 1, 2), box) == b"shares"
    for key, ways, text in (  # another receiver, round, direction, text
        (eve, (7, 1, 2), box),
        (bob, (8, 1, 2), box),
        (bob, (7, 2, 1), box),
        (bob, (7, 1, 2), box[::-1]),
    ):
        assert masking.unseal(key.channel, alice.public[1], ways, text) is None


def test_pairwise_masks_cancel() -> None:
    keys = {client: masking.mask_key(bytes([client]) * 16) for client in range(4)}
    public = {client: key.public_key().public_bytes_raw() for client, key in keys.items()}
    total = sum(
        masking.pairwise(key, client, {c: k for c, k in public.items() if c != client}, 10, torch.int16)
        for client, key in keys.items()
    )
    assert torch.equal(total, torch.zeros(10, dtype=torch.int16))
