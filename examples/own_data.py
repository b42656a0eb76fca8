"""Data and a model of one's own: tensors, then tables, then a folder that a run leaves.

    python examples/own_data.py [FOLDER]

Three hospitals measure the same eight quantities of their patients, in unequal numbers and mixtures. No hospital
shows its patients to the others; the model that they train together is tested on patients of a fourth one.
"""

import sys
import tempfile

import pandas as pd
import torch
from torch import Tensor, nn

import fedrac


class Screening(nn.Module):
    """Any module will do: inputs (rows, 8) to logits (rows, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.ReLU())
        self.head = nn.Linear(32, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.body(inputs))
        return outputs


def patients(number: int, mean: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Measurements (number, 8), and who is ill (number,)."""
    inputs = mean + torch.randn(number, 8, generator=generator)
    return inputs, (inputs[:, 0] * inputs[:, 1] + inputs[:, 2] > 0).long()


def table(inputs: Tensor, labels: Tensor) -> pd.DataFrame:
    """The same as a table; the last column is what is predicted."""
    return pd.DataFrame(inputs.numpy(), columns=[f"m{i}" for i in range(8)]).assign(ill=labels.numpy())


def main(folder: str) -> None:
    generator = torch.Generator().manual_seed(0)
    hospitals = [patients(number, mean, generator) for number, mean in ((200, -0.3), (80, 0.0), (400, 0.3))]
    test = patients(500, 0.0, generator)
    torch.manual_seed(0)
    net = Screening()

    # One pair of tensors for each client. Nothing is written to disk; `net` stays as it is.
    run = fedrac.fit(net, hospitals, test, rank=2, rounds=20, overrides=["local.lr=1e-2", "adapt.full=['*.bias']"])
    print(run.history[["round", "train/loss", "test/loss", "test/accuracy"]].dropna(subset="test/loss"))
    print(f"{(run.model(test[0]).argmax(dim=1) == test[1]).float().mean():.1%} of the test patients are told right")

    # One table for each client. With a folder, the run leaves there what every run leaves.
    frames = [table(*hospital) for hospital in hospitals]
    settings = {"method": "fedavg", "rounds": 20, "overrides": ["local.lr=1e-3"], "output_dir": folder}
    fedrac.fit(net, frames, table(*test), target="ill", **settings)

    # ... where it can be read later. The model's weights are there; its architecture comes from you.
    read = fedrac.load(folder, model=Screening())
    accuracy, sent = read.summary["last"]["test/accuracy"], read.summary["upload_bytes"]
    print(f"{read.summary['method']}: {accuracy:.1%}, {sent:,} bytes")
    torch.save(read.model.state_dict(), f"{folder}/screening.pt")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as place:
            main(f"{place}/run")
