"""The ClientApp: a host of clients. It answers which clients it serves, trains them, and tests them."""

from dataclasses import replace

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedrac.flower.node import answering, host_of
from fedrac.protocol.catch_up import follow, merged, replica_of
from fedrac.protocol.client_evaluation import encode_metrics
from fedrac.protocol.connected_clients import decode_question, encode_hosted
from fedrac.protocol.messages import decode_plan
from fedrac.protocol.replies import encode_reply

app = ClientApp()


@app.query()
@answering
def query(message: Message, context: Context) -> RecordDict:
    """Which clients does this node serve, how many examples has each, and which weights has it already?"""
    if not message.content:  # a sign of life is all that is wanted: `fedrac.protocol.resending`
        return RecordDict()
    host = host_of(decode_question(message.content), context)
    there = replica_of(host.initial, context)
    return encode_hosted(replace(host.hosted(), offers=tuple(there.offers()), initial=there.initial.digest))


@app.train()
@answering
def train(message: Message, context: Context) -> RecordDict:
    """Trains the clients that the server's plan names."""
    plan = decode_plan(message.content)
    host = host_of(plan.spec.workload, context)
    state, kept = follow(plan, host.blocks(plan), replica_of(host.initial, context))
    return encode_reply(plan.spec.round, *host.train(plan, state), kept)


@app.evaluate()
@answering
def evaluate(message: Message, context: Context) -> RecordDict:
    """Tests the global model on the data of the clients that the server names."""
    plan = decode_plan(message.content)
    host = host_of(plan.spec.workload, context)
    state, kept = follow(plan, host.blocks(plan), replica_of(host.initial, context))
    return encode_metrics(host.evaluate(merged(plan, host.blocks(plan), state), plan.clients), kept)
