"""The ClientApp: a host of clients. It answers which clients it serves, trains them, and tests them."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedrac.client_evaluation import decode_evaluation
from fedrac.host import answering, host_of
from fedrac.messages import decode_plan
from fedrac.population import decode_question, encode_hosted
from fedrac.replies import encode_reply

app = ClientApp()


@app.query()
@answering
def query(message: Message, context: Context) -> RecordDict:
    """Which clients does this node serve, and how many examples has each?"""
    return encode_hosted(host_of(decode_question(message.content), context).hosted())


@app.train()
@answering
def train(message: Message, context: Context) -> RecordDict:
    """Trains the clients that the server's plan names."""
    plan = decode_plan(message.content)
    return encode_reply(plan.spec.round, *host_of(plan.spec.workload, context).train(plan))


@app.evaluate()
@answering
def evaluate(message: Message, context: Context) -> RecordDict:
    """Tests the global model on the data of the clients that the server names."""
    asked = decode_evaluation(message.content)
    sums = host_of(asked.workload, context).evaluate(asked.weights, asked.clients)
    return RecordDict({"metrics": MetricRecord({**sums})})
