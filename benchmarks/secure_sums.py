"""What secure aggregation costs: ``python -m benchmarks.secure_sums [CLIENTS ...] [--lost 0 0.3] [--neighbours 64]``.

One round in which clients of 3,648 numbers (the MLP 784-64-64-5 at rank 1), each on a node of its own, agree on masks,
send their words, and those who are left have them taken away. The messages are the real ones; nothing is trained.
Seconds are CPU time: of one client, and of the server, which works for all of them. Bytes are those that a round counts
besides the words; *message* is everything that Flower makes of a client's messages, serialised, words included.
"""

import argparse
import time
from collections.abc import Iterable

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.message_bytes import message_bytes
from fedrac.aggregation.guard import GuardSpec
from fedrac.aggregation.secure_grid import SecureSpec, grid_of
from fedrac.algorithm.streams import Stream
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.flower.node import answering
from fedrac.protocol import secure_client
from fedrac.protocol.messages import to_record
from fedrac.protocol.secure_messages import NAME
from fedrac.protocol.secure_server import SecureRound

NUMBERS = 3648
app = ClientApp()


@app.query(NAME)
@answering
def secure(message: Message, context: Context) -> RecordDict:
    """All steps but the words themselves."""
    return secure_client.answer(message.content.config_records[NAME], context.state)


class Clients:
    """So many nodes of one client each; counts what they compute and what crosses."""

    def __init__(self, count: int) -> None:
        self.grid = InProcessGrid(app, count)
        self.seconds, self.bytes = 0.0, 0

    def ask(self, messages: Iterable[Message]) -> list[Message]:
        """Sends and waits, as a round does."""
        sent, begin = list(messages), time.process_time()
        answers = list(self.grid.send_and_receive(sent))
        self.seconds += time.process_time() - begin
        self.bytes += sum(message_bytes(message.content) for message in [*sent, *answers])
        return answers

    def words(self, round_: SecureRound, clients: list[int], spec: SecureSpec) -> dict[int, torch.Tensor]:
        """What ``clients`` send: updates of random numbers under masks."""
        grid, found = grid_of(spec, GuardSpec(clip=1.0), len(clients), 2, NUMBERS), {}
        for client in clients:
            content = round_.content([client])
            row = 1e-3 * torch.randn(NUMBERS, dtype=torch.float64)
            begin = time.process_time()
            word = {client: grid.encode(row, 0.5, Stream(1, "grid", 1, client))}
            found |= secure_client.masked(1, content.config_records[NAME], word, self.grid._contexts[client + 1].state)
            self.seconds += time.process_time() - begin
            self.bytes += message_bytes(content)
            self.bytes += message_bytes(RecordDict({"words": to_record({"masked": found[client].unsqueeze(0)})}))
        return found


def measure(count: int, lost: float, spec: SecureSpec) -> str:
    """A row of the table."""
    clients, round_ = Clients(count), SecureRound(spec, 1, {client + 1: [client] for client in range(count)})
    left = Stream(1, "left", count).subset(count, round(count * (1 - lost))).tolist()
    begin = time.process_time()
    round_.agree({}, 1, clients.ask)
    words = clients.words(round_, left, spec)
    round_.unmask(words, clients.ask)
    server = time.process_time() - begin - clients.seconds
    holders = min(spec.neighbours + 1, count)
    own = next(iter(words.values())).numel() * next(iter(words.values())).element_size()
    cells = [count, f"{lost:.0%}", holders, f"{own:,}", f"{round_.up / count:,.0f}", f"{round_.down / count:,.0f}",
             f"{clients.bytes / count:,.0f}", f"{clients.seconds / count:.3f}", f"{server:.1f}"]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.secure_sums", description="Cost of secure sums.")
    parser.add_argument("clients", nargs="*", type=int, default=[10, 100, 1000], help="default: 10 100 1000")
    parser.add_argument("--lost", nargs="*", type=float, default=[0.0, 0.3], help="share of clients that drop out")
    parser.add_argument("--neighbours", type=int, default=SecureSpec().neighbours)
    given = parser.parse_args()
    print("| clients | lost | holders | words | up, besides | down, besides | message | s, client | s, server |")
    print("|" + "---|" * 9)
    for count in given.clients:
        for lost in given.lost:
            print(measure(count, lost, SecureSpec(True, neighbours=given.neighbours)), flush=True)


if __name__ == "__main__":
    main()
