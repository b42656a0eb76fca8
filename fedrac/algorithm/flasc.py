"""FLASC (arXiv 2406.05233): both factors are trained densely, and sent sparsely, both ways."""

from dataclasses import dataclass

from fedrac.algorithm.method import Average, Method, Sides, Train
from fedrac.algorithm.sparse import Densities


@dataclass(frozen=True)
class Flasc(Method):
    """FedAvg-LoRA whose clients are sent the largest entries of the factors, and send the largest ones of their update.

    The server keeps the whole factors P. A round starts from the largest entries of P, a share of ``download_density``,
    with zeros in the place of the others, and a client trains all of them. Of how far it went it sends the largest
    entries, a share of ``upload_density``, and the server steps from P by the mean over all clients, where what a
    client did not send is zero. Large is what is large in magnitude among the factors of all layers together.

    A parameter that is trained in full is sent whole, both ways.

    Attributes:
        download_density, upload_density: which share of the entries is sent, in (0, 1].
    """

    train: Train = "both"
    side: Sides = "right"
    fresh: bool = False
    merge: bool = False
    average: Average = "factors"
    download_density: float = 0.25
    upload_density: float = 0.25

    @property
    def densities(self) -> Densities:
        """As of `Method`."""
        return Densities(self.download_density, self.upload_density)
