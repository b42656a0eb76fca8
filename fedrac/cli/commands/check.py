"""``fedrac check DATA [KEY=VALUE ...]``: on a node, for its own people, what a run would learn of these data."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedrac.data import site_check, standard
from fedrac.data.own import load as load_own
from fedrac.data.site_check import Finding
from fedrac.experiment import compose
from fedrac.experiment.settings import Experiment, parse
from fedrac.loading import limits
from fedrac.loading.told import text_of
from fedrac.partition.partition import NODES
from fedrac.protocol import policy

_TITLES = {"learns": "a run would learn", "doubtful": "doubtful", "wrong": "does not fit"}


def main(argv: Sequence[str]) -> int:
    """Prints what would be sent and what does not fit. Returns 1 if something does not; nothing goes anywhere.

    Raises:
        ValueError: a setting is wrong, or the policy does not allow what it names.
    """
    parser = argparse.ArgumentParser(
        prog="fedrac check", description="What a run would learn of a node's data, and whether they fit it."
    )
    parser.add_argument("data", metavar="DATA", help="as in --node-config: a path, or my_module.load")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="of the run: experiment=nodes, data=table ..."
    )
    parser.add_argument("--policy", type=Path, help="the node's policy; by default the strict one")
    parser.add_argument("--tell-examples", type=int, metavar="N", help="as in --node-config")
    given = parser.parse_args(argv)
    rules = policy.read(given.policy.expanduser()) if given.policy else policy.STRICT
    place = given.data if "/" not in given.data and not Path(given.data).exists() else str(Path(given.data).absolute())
    experiment = parse(compose.load(given.overrides))
    print("the node allows", *rules.policy.lines(), sep="\n  ")
    with limits.within(rules.policy.limits(place)):
        found = _findings(experiment, place, given.tell_examples, rules.policy)
    for kind, title in _TITLES.items():
        if texts := [finding.text for finding in found if finding.kind == kind]:
            print(title, *texts, sep="\n  ")
    return int(any(finding.kind == "wrong" for finding in found))


def _findings(experiment: Experiment, place: str, tell: int | None, rules: policy.Policy) -> list[Finding]:
    """What is to be said of the data; of data that cannot be read the one reason why."""
    from fedrac.flower.host import Host

    raw = site_check.of_files(experiment.data, place)
    try:
        found = load_own(experiment.data, place)
        Host({**experiment.workload(), "partition": {"scheme": NODES}}, 0, 1, place, tell, rules.least_examples)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)  # with the cell: it does not leave the node
        return [*raw, Finding("wrong", f"a run could not use them; the server would be told: {text_of(error)}")]
    count = len(found.train) if tell is None else min(len(found.train), tell)
    told = [f"examples: {1 if rules.noise else count}", "digests of the weights that the node keeps or can build"]
    if experiment.data.get("standardize") == standard.AGREED:
        told.append(
            "of every column the sum, and that of the squares, over the rows of all nodes together, under masks"
        )
    return [*(Finding("learns", text) for text in told), *site_check.of_data(found), *raw]
