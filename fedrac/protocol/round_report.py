"""What became of a round."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fedrac.protocol.client_evaluation import ClientMetrics
from fedrac.protocol.replies import Refusal


class CohortFailure(RuntimeError):
    """A round that must not count, e.g. with too few good replies; the weights are those before it."""


class Divergence(CohortFailure):
    """The round's numbers are not finite: the steps are too large. It is what such a run comes to, not a mishap."""


@dataclass
class RoundReport:
    """What happened in one round; `FedRacLora.start` hands it to ``on_round``.

    Attributes:
        round: from 1.
        cohort: ids of the clients that were asked, ascending.
        eta: the server's step of this round.
        train_loss: mean over the clients that answered, of each one's mean training loss.
        upload_bytes, download_bytes: payload of the arrays that crossed, summed over clients; of a host that simulates
            clients, what each would be sent if it were a node of its own (docs/protocol.md).
        refused: clients that did not count, with reasons.
        seconds: wall time of the round.
        guard: ``guard/...`` and ``privacy/...`` numbers, where updates are clipped or noise is added.
        metrics: ``test/...`` (server) and ``clients/...`` metrics, on rounds with an evaluation.
        clients: how many answered well.
        late: clients of the cohort whose answer came after ``system.deadline``, in simulated time.
        simulated_seconds: how long the round lasted in simulated time; None: nothing is simulated.
        tested: what each client found that tested the round's result; None: nobody did.
    """

    round: int
    cohort: Sequence[int]
    eta: float
    train_loss: float = float("nan")
    upload_bytes: int = 0
    download_bytes: int = 0
    refused: Sequence[Refusal] = ()
    seconds: float = 0.0
    guard: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    clients: int = 0
    late: Sequence[int] = ()
    simulated_seconds: float | None = None
    tested: ClientMetrics | None = None
