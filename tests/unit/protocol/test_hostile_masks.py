"""Made-up messages of secure aggregation to a node: it answers what it may, and tells no second secret of a client."""

import copy
import random
from typing import Any

import pytest
from flwr.app import Message, RecordDict
from masked_sums import Federation, random_words

from fedrac.protocol import masking
from fedrac.protocol.masking import Secrets
from fedrac.protocol.secure_client import Memory
from fedrac.protocol.secure_messages import NAME, lists

TRIES = 300  # a step
STEPS = {"keys": None, "shares": "keys", "unmask": "mask"}  # and where a node is before


def states() -> tuple[Federation, dict[str, RecordDict], dict[str, RecordDict]]:
    """Of a node with clients 0 and 1: what it remembers before each step, and what it is asked then."""
    before: dict[str, RecordDict] = {}
    asked: dict[str, RecordDict] = {}

    def note(step: str, questions: list[Message]) -> list[Message]:
        before[step] = copy.deepcopy(federation.grid._contexts[1].state)
        asked[step] = copy.deepcopy(questions[0].content)
        return questions

    federation = Federation([[0, 1], [2], [3], [4]], ask=note)
    federation.total({client: word for client, word in random_words(range(5), 8).items() if client != 4})
    return federation, before, asked


def spoilt(record: Any, draw: random.Random) -> None:
    """Changes one field; Flower's own checks of types are left out."""
    values = record.__dict__["_data"]
    name = draw.choice([name for name in values if name != "step"])
    value = values[name]
    odd = [
        -1,
        2**70,
        None,
        "x",
        b"x",
        [],
        [0],
        [0, 0],
        [b""],
        ["a"],
        0.5,
        [2**40],
        {"x": 1},
        bytes(32),
        [bytes(32)] * 10,
    ]
    if isinstance(value, list) and value and draw.random() < 0.7:
        place, value = draw.randrange(len(value)), list(value)
        value[place] = draw.choice([*odd, value[draw.randrange(len(value))], value[place]])
        if draw.random() < 0.3:
            del value[draw.randrange(len(value))]
        values[name] = value
    else:
        values[name] = draw.choice(odd)


@pytest.mark.parametrize("step", STEPS)
def test_no_message_gets_more_than_it_may(step: str) -> None:
    federation, before, asked = states()
    draw, refused = random.Random(18), 0
    for _ in range(TRIES):
        content = copy.deepcopy(asked[step])
        spoilt(content.config_records[NAME], draw)
        federation.grid._contexts[1].state = copy.deepcopy(before[step])
        message = Message(RecordDict(), 1, "query.secure")
        message.__dict__["_content"] = content
        (answer,) = federation.grid.send_and_receive([message])
        assert not answer.has_error()
        if "error" in answer.content.config_records:
            refused += 1
        elif step == "unmask":
            _one_secret_each(answer.content, content)
    assert refused > TRIES / 3 or step == "keys"


def _one_secret_each(answer: RecordDict, asked: RecordDict) -> None:
    """Of each owner one share to a client, and only while more than half of five are left."""
    record = answer.config_records[NAME]
    owners = lists(record, "owners", int)
    assert all(len(set(held)) == len(held) for held in owners.values())
    question = asked.config_records[NAME]
    survivors, dropped = set(question["survivors"]), set(question["dropped"])  # type: ignore[arg-type]
    assert not survivors & dropped and (len(survivors & set(range(5))) >= 3 or not owners)
    assert all(set(held) <= survivors | dropped for held in owners.values())


def test_what_a_node_remembers_is_all_that_it_needs_and_goes_when_it_is_done() -> None:
    federation, before, _ = states()
    memory = Memory.recall(before["unmask"], 7, "mask")
    assert sorted(memory.parties) == [0, 1]
    done = str(federation.grid._contexts[1].state.config_records[NAME]["memory"])
    assert not any(party.secret in done or party.own in done for party in memory.parties.values())


def test_keys_say_nothing_of_the_secret_they_follow_from() -> None:
    first, second = (Secrets.of(masking.new_secret()) for _ in range(2))
    assert len({*first.public, *second.public, first.key_seed, first.own_seed, second.key_seed, second.own_seed}) == 8
