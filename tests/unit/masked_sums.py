"""Nodes that answer nothing but what secure aggregation asks, and a server that sums their words."""

from collections.abc import Callable, Iterable, Mapping

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from fedrac.aggregation.secure_grid import SecureSpec
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.node import answering
from fedrac.protocol import secure_client
from fedrac.protocol.secure_messages import NAME
from fedrac.protocol.secure_server import SecureRound

Tamper = Callable[[str, list[Message]], Iterable[Message]]


class Federation:
    """Clients 0, 1, ... on nodes of one or more, and one sum over them.

    Args:
        clients: of each node.
        spec: of the sum.
        tamper: gets the step and the answers to it, before the server does.
        ask: gets the step and the questions, before the nodes do.
    """

    def __init__(
        self,
        clients: list[list[int]],
        spec: SecureSpec | None = None,
        tamper: Tamper = lambda step, answers: answers,
        ask: Tamper = lambda step, questions: questions,
    ) -> None:
        app = ClientApp()

        @app.query(NAME)
        @answering
        def secure(message: Message, context: Context) -> object:
            return secure_client.answer(message.content.config_records[NAME], context.state)

        self.hosts = dict(enumerate(clients, start=1))
        self.grid = InProcessGrid(app, len(clients))
        self.round = SecureRound(spec or SecureSpec(True), 7, self.hosts)
        self._tamper, self._before = tamper, ask
        self.seen: dict[int, Tensor] = {}

    def ask(self, messages: Iterable[Message]) -> list[Message]:
        sent = list(messages)
        step = str(sent[0].content.config_records[NAME]["step"])
        return list(self._tamper(step, list(self.grid.send_and_receive(self._before(step, sent)))))

    def agree(self) -> None:
        self.round.agree({}, 1, self.ask)

    def send(self, words: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """What the server sees of each client that sends words."""
        for node, clients in self.round.hosts.items():
            boxes = self.round.content(clients).config_records[NAME]
            mine = {client: words[client] for client in clients if client in words}
            self.seen |= secure_client.masked(7, boxes, mine, self.grid._contexts[node].state)
        return self.seen

    def total(self, words: Mapping[int, Tensor]) -> Tensor:
        """The sum that the server comes to; clients without words drop out after they have shared."""
        self.agree()
        return self.round.unmask(self.send(words), self.ask)


def random_words(clients: Iterable[int], length: int = 50, dtype: torch.dtype = torch.int32) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {c: torch.randint(-99, 100, (length,), generator=generator, dtype=dtype) for c in clients}


def plain(words: Mapping[int, Tensor]) -> Tensor:
    return torch.stack(list(words.values())).sum(0, dtype=next(iter(words.values())).dtype)
