"""The ClientApp that Flower's runtimes load: it computes in a process that stays.

In a simulation that is the process of the simulation itself; in a deployment, where Flower starts a process for every
message, the node's worker (`fedrac.flower.worker`).
"""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedrac.flower.worker import channel, front
from fedrac.protocol import processes


class NodeApp(ClientApp):
    """`fedrac.flower.client_app`, wherever it computes."""

    def __call__(self, message: Message, context: Context) -> Message:
        """The answer to a message of any kind."""
        if processes.simulated() or not channel.available() or front.idle_seconds(context) <= 0:
            from fedrac.flower import client_app

            return client_app.app(message, context)
        return front.ask(message, context)


app = NodeApp()
