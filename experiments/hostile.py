"""One of five clients sends what it found reversed and a hundred times larger; which means withstand it?

    python -m experiments.hostile OUTPUT_FOLDER partition.clients=5 cohort.size=5

The default experiment among five clients, seeds 1 to 3, with every `guard.mean`, with and without the attack; without
the last two words, each client of its hundred whose id is a multiple of five is hostile. The attack is a ClientApp
of its own: the server sees well-formed replies. Prints a table of test accuracies after the last round.
"""

import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import mean, stdev

from flwr.app import Context, Message, MessageType
from flwr.clientapp import ClientApp

from fedrac.experiment import compose
from fedrac.experiment.run import run
from fedrac.flower import client_app
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.protocol.messages import from_record, to_record

FACTOR = -100.0
SEEDS = (1, 2, 3)
GUARDS = {
    "plain mean": [],
    "trimmed mean": ["guard.mean=trimmed_mean"],
    "median": ["guard.mean=median"],
    "geometric median": ["guard.mean=geometric_median"],
    "Krum": ["guard.mean=krum"],
    "plain mean, clipped": ["guard.clip=1"],
    "plain mean, clipped at half of that": ["guard.clip=0.5"],
    "trimmed mean, clipped": ["guard.mean=trimmed_mean", "guard.clip=1"],
    "geometric median, clipped": ["guard.mean=geometric_median", "guard.clip=1"],
}


class Hostile(ClientApp):
    """fedrac's ClientApp, in which each client whose id is a multiple of ``every`` is hostile."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self._every = every

    def __call__(self, message: Message, context: Context) -> Message:
        reply = client_app.app(message, context)
        if message.metadata.message_type == MessageType.TRAIN and "reply" in reply.content:
            factors = {k: x.clone() for k, x in from_record(reply.content.array_records["factors"]).items()}
            for place, id_ in enumerate(reply.content.config_records["reply"]["clients"]):
                if id_ % self._every == 0:
                    for value in factors.values():
                        value[place] *= FACTOR
            reply.content.array_records["factors"] = to_record(factors)
        return reply


def accuracy(app: ClientApp, overrides: list[str], folder: Path) -> float:
    """In per cent, after the last round."""
    settings = compose.load([*overrides, f"output_dir={folder}", "evaluate.every=1000", "checkpoint.every=1000"])
    with redirect_stdout(StringIO()):
        summary = run(settings, InProcessGrid(app), folder)
    return 100 * summary["last"]["test/accuracy"]


def main(output: Path, overrides: list[str]) -> None:
    """One line a guard."""
    print("| | no attack | one in five hostile |\n|---|---|---|", flush=True)
    for name, settings in GUARDS.items():
        cells = []
        for kind, app in (("honest", client_app.app), ("attacked", Hostile(5))):
            label = f"{name.replace(', ', '-').replace(' ', '-')}-{kind}"
            found = [accuracy(app, [*overrides, *settings, f"seed={s}"], output / f"{label}-{s}") for s in SEEDS]
            cells.append(f"{mean(found):.1f} ± {stdev(found):.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2:])
