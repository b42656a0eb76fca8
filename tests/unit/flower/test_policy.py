"""What a node with a policy answers: it refuses what its operator does not allow, and no answer quotes its data."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from runs import start, strategy

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.method import Method
from fedrac.algorithm.server import ServerSpec
from fedrac.flower import client_app, node
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.protocol import code_digest
from fedrac.protocol.connected_clients import encode_question
from fedrac.protocol.messages import from_record
from fedrac.protocol.policy import OPEN

RUNS = itertools.count(100)
SECRET = "Ms-Galloway-b-1961"
ROWS = "".join(f"{n / 7},{n % 3},{('no', 'yes')[n % 2]}\n" for n in range(24))
TABLE = {
    "_target_": "fedrac.data.table.table", "path": "/the/servers/own", "target": "ill", "features": ["a", "b"],
    "classes": ["no", "yes"], "standardize": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDRAC_CACHE", str(tmp_path / "cache"))
    node.forget()


def workload(**changes: Any) -> dict[str, Any]:
    model = {"_target_": "fedrac.models.mlp", "inputs": 2, "hidden": [3], "outputs": 2}
    return {**runs.workload(data=TABLE, partition={"scheme": "nodes"}, model=model), **changes}


class Site:
    """A node with data and a policy of its own, each message answered by a new process, and what it answered."""

    def __init__(self, folder: Path, policy: str | None = "least_examples: 5", rows: str = ROWS, **config: Any) -> None:
        self.data = folder / "data"
        self.data.mkdir(exist_ok=True)
        (self.data / "train.csv").write_text("a,b,ill\n" + rows)
        node_config: dict[str, Any] = {"partition-id": 0, "data": str(self.data), "state": str(folder / "state")}
        if policy == OPEN:
            node_config["policy"] = OPEN
        elif policy is not None:
            (folder / "policy.yaml").write_text(policy)
            node_config["policy"] = str(folder / "policy.yaml")
        self.context = Context(5, 1, {**node_config, **config}, RecordDict(), {})

    def answer(self, content: RecordDict, kind: str = MessageType.QUERY) -> RecordDict:
        # A grid identifies this process; its own nodes are not used.
        message = Message(content, 1, kind)
        message.metadata.__dict__["_message_id"] = "1"
        return client_app.app(message, self.context).content

    def query(self, run: int | None = None, **changes: Any) -> str:
        """The reason of a refusal; empty if the node serves. What is changed is another run's, unless told."""
        if (number := run or (next(RUNS) if changes else 5)) != self.context.run_id:
            self.context.run_id, self.context.state = number, RecordDict()  # as Flower does
        return reason(self.answer(encode_question({**workload(**changes), "code": code_digest.digest()})))

    def round(
        self, number: int = 1, kind: str = MessageType.TRAIN, clients: list[int] | None = None, **of: Any
    ) -> RecordDict:
        """What the node answers to an honest server's message; it is the only client."""
        work = of.pop("work", workload())
        grid = InProcessGrid(client_app.app, [{"partition-id": 0, "data": str(self.data)}])
        server = strategy(work, **{"adapt": AdaptSpec({"*": 1}), "server": ServerSpec(1), **of})
        (message,) = server.configure_train(1, start(work), ConfigRecord(), grid)
        if clients is not None:
            message.content["plan"]["clients"] = clients
        return self.answer(message.content, kind)


@pytest.fixture(autouse=True)
def _identified() -> None:
    InProcessGrid(client_app.app)


def reason(content: RecordDict) -> str:
    return str(content.config_records["error"]["reason"]) if "error" in content.config_records else ""


# --- errors ----------------------------------------------------------------------------------------------------------

DIRTY: dict[str, tuple[str, dict[str, Any], str]] = {
    "a cell": (f"{SECRET},1,no\n", {}, "column 'a', data row 25 of the first file: no number"),
    "a label": (f"1,1,{SECRET}\n", {}, "column 'ill': not one of data.classes"),
    "another column": (f"1,{SECRET},no\n", {"features": ["a", "b"]}, "column 'b', data row 25"),
    "no such column": (f"{SECRET},1,no\n", {"features": ["age"]}, "no column 'age'"),
    "a target of text": (f"1,1,{SECRET}\n", {"task": "regression"}, "column 'ill', data row 1 "),
    "another task": ("1,1,no\n", {"task": SECRET[::-1]}, "raised in fedrac.data.tasks: see the log there"),
    "too many fields": (f"1,1,no,{SECRET},x\n", {}, "cannot be read: check that its content is what its name says"),
    "a wrong argument": ("1,1,no\n", {"age": 1}, "was given"),
}


@pytest.mark.parametrize("row, change, expected", DIRTY.values(), ids=DIRTY)
def test_an_answer_quotes_no_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, row: str, change: dict[str, Any], expected: str
) -> None:
    """The node's own people see all of it, the server the column and the row."""
    told = Site(tmp_path, rows=ROWS + row).query(data={**TABLE, **change})
    assert told.startswith("ValueError: ") and expected in told and SECRET not in told
    assert not any(value in told for value in ROWS.replace("\n", ",").split(",") if len(value) > 3)
    if SECRET in row and "column 'a'" in expected:
        assert SECRET in caplog.text


def test_the_owner_of_the_process_sees_the_cell(tmp_path: Path) -> None:
    told = Site(tmp_path, OPEN, ROWS + f"{SECRET},1,no\n").query()
    assert f"holds {SECRET!r}, no number" in told


@pytest.mark.parametrize("loader", ["fedrac.data.mnist.idx", "fedrac.data.text.text", "fedrac.data.glue.glue"])
def test_a_file_of_another_form_is_not_told(tmp_path: Path, loader: str) -> None:
    site = Site(tmp_path, rows=f"{SECRET}\n")
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (site.data / name).write_text(SECRET)
    told = site.query(data={"_target_": loader, "path": None, "classes": [1], "text": "x", "target": "y"})
    assert told and SECRET not in told and SECRET[:2] not in told and SECRET.encode()[:4].hex(" ") not in told


def test_what_a_library_raises_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clinic.py").write_text(f"def load():\n    return float({SECRET!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    told = Site(tmp_path, data="clinic.load").query()
    assert told == "ValueError: raised in fedrac.loading.target: see the log there"


def test_classes_that_are_there_are_not_told(tmp_path: Path) -> None:
    model = {"_target_": "fedrac.models.mlp", "inputs": 2, "hidden": [3], "outputs": 1}
    assert (
        Site(tmp_path).query(model=model).startswith("ValueError: the model does not fit the data: check model.inputs")
    )


# --- what may be named ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["least_examples: 5", None], ids=["a policy", "the strict one"])
def test_a_node_imports_and_opens_what_it_allows(tmp_path: Path, policy: str | None) -> None:
    site = Site(tmp_path, policy)
    assert site.query() == ""
    assert "model._target_='torch.nn.Linear' may not be named, by models of the policy here" in site.query(
        model={"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}
    )
    for change in ({"features": {"_target_": "builtins.open", "file": "/etc/passwd"}}, {"_recursive_": False}):
        assert "by functions of the policy here" in site.query(data={**TABLE, **change})
    assert "by loaders of the policy" in site.query(
        data={**TABLE, "_target_": "pandas.read_csv", "path": "/etc/passwd"}
    )


def test_without_data_no_path_is_opened(tmp_path: Path) -> None:
    """In a deployment; a policy's folders allow some."""
    (tmp_path / "rows.csv").write_text("a,b,ill\n" + ROWS)
    spec = {"data": {**TABLE, "path": str(tmp_path / "rows.csv")}, "partition": {"scheme": "iid", "clients": 2}}
    shared = {"num-partitions": 1}
    strict = Site(tmp_path, None, **shared)
    del strict.context.node_config["data"]
    assert "lies in no folder that may be read, by folders of the policy here (the default)" in strict.query(**spec)
    allowed = Site(tmp_path, f"least_examples: 2\nfolders: [{tmp_path}]", **shared)
    del allowed.context.node_config["data"]
    assert allowed.query(**spec) == ""
    assert "(line 2 there)" in allowed.query(**{**spec, "data": {**TABLE, "path": "/etc/passwd"}})


def test_nothing_in_a_message_widens_it(tmp_path: Path) -> None:
    site = Site(tmp_path, None)
    site.context.run_config.update({"policy": OPEN})
    spec = {**workload(policy=OPEN, state="memory"), "data": {**TABLE, "policy": OPEN, "_target_": "hospital.load"}}
    assert "by loaders of the policy here" in reason(site.answer(encode_question(spec)))


# --- training --------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "first layer in full": ("", {"adapt": AdaptSpec({"*": "full"})}, "layers.0.weight of the first layer"),
    "first layer's full rank": ("", {"method": Method(train="both"), "adapt": AdaptSpec({"*": 2})}, "first layer"),
    "full": ("full: ['*.bias']\nfull_first: true", {"adapt": AdaptSpec({"*": "full"})}, "by full of the policy"),
    "rank": ("most_rank: 1", {"adapt": AdaptSpec({"*.1": 2, "*.0": 1})}, "of rank 2 may not be trained, by most_rank"),
    "frozen": ("train: ['layers.1.*']", {}, "layers.0.weight may not be trained, by train of the policy here (line 1"),
    "cohort": ("least_cohort: 2", {}, "a round of 1 clients is not taken part in, by least_cohort"),
    "examples": ("least_examples: 25", {}, "no client here has enough examples, by least_examples"),
    "another client": ("", {"clients": [1]}, "are not those that are served here"),
    "twice": ("", {"clients": [0, 0]}, "are not those that are served here"),
}  # fmt: skip


@pytest.mark.parametrize("policy, of, expected", REFUSED.values(), ids=REFUSED)
def test_a_round_that_is_not_taken_part_in(tmp_path: Path, policy: str, of: dict[str, Any], expected: str) -> None:
    work = workload(model={"_target_": "fedrac.models.mlp", "inputs": 2, "hidden": [5], "outputs": 4})
    told = reason(Site(tmp_path, policy).round(work=work, **of))
    assert expected in told
    assert reason(Site(tmp_path, OPEN).round(work=work, **of)) == "" or "clients" in of


def test_without_tests(tmp_path: Path) -> None:
    assert reason(Site(tmp_path).round(kind=MessageType.EVALUATE)) == ""
    told = reason(Site(tmp_path, "evaluate: false").round(kind=MessageType.EVALUATE))
    assert "the model is not tested here, by evaluate of the policy here (line 1 there)" in told


COUNTED = "most_rounds: 2\nmost_messages: 4"


def test_rounds_and_messages_are_counted_across_restarts(tmp_path: Path) -> None:
    """Of each run for itself."""
    assert [reason(Site(tmp_path, COUNTED).round()) for _ in range(2)] == ["", ""]
    assert "the run has had its 2 rounds, by most_rounds" in reason(Site(tmp_path, COUNTED).round())
    assert Site(tmp_path, COUNTED).query() == ""
    told = Site(tmp_path, COUNTED).query()
    assert "the run has had its 4 messages, by most_messages of the policy here (line 2 there)" in told
    assert Site(tmp_path, COUNTED).query(6) == ""


def test_what_flower_keeps_counts_where_the_folder_is_lost(tmp_path: Path) -> None:
    """Or cannot be written."""
    site = Site(tmp_path, COUNTED)
    for _ in range(2):
        assert reason(site.round()) == ""
        (tmp_path / "state" / "ledger.json").unlink()
    assert "by most_rounds" in reason(site.round())


def test_a_run_keeps_to_one_description(tmp_path: Path) -> None:
    """By asking for one class after another, say, a server could learn of every row."""
    assert Site(tmp_path).query() == ""
    told = Site(tmp_path).query(5, data={**TABLE, "target": "b", "classes": [0, 1, 2]})
    assert told == "ValueError: the run described its data, model or partition otherwise before"
    assert reason(Site(tmp_path).round()) == ""
    told = Site(tmp_path).query(6, data={**TABLE, "target": "b", "features": ["a"], "classes": [0, 1]})
    assert told == "ValueError: column 'b': not one of data.classes=[0, 1]"


def test_it_says_at_the_start_of_a_run_what_it_allows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    site = Site(tmp_path)
    site.query()
    said = capfd.readouterr().err
    assert "this node allows" in said and "loaders: fedrac's own" in said and "least_examples: 5" in said
    site.query()
    assert "this node allows" not in capfd.readouterr().err


# --- its own noise ---------------------------------------------------------------------------------------------------


def factors(content: RecordDict) -> torch.Tensor:
    return from_record(content.array_records["factors"])["factors"].double()


def test_clipping_is_to_the_length_of_the_update(tmp_path: Path) -> None:
    """As what it does to the weights: half the bound is half the update."""
    free = factors(Site(tmp_path).round())
    lengths = []
    for clip in (1e-3, 2e-3):
        bound = factors(Site(tmp_path, f"clip: {clip}").round())
        lengths.append(bound.norm())
        assert torch.nn.functional.cosine_similarity(bound, free) > 1 - 1e-9
    assert float(lengths[1] / lengths[0]) == pytest.approx(2, rel=1e-6)
    torch.testing.assert_close(factors(Site(tmp_path, "clip: 1e6").round()), free)


def test_updates_leave_under_masks_alone_where_that_is_wanted(tmp_path: Path) -> None:
    told = reason(Site(tmp_path, "least_examples: 5\nsecure: true").round())
    assert "updates leave this node under masks alone: set secure_aggregation=on, by secure of the policy" in told
    told = reason(Site(tmp_path, "least_examples: 5\nsecure: true").round(kind=MessageType.EVALUATE))
    assert "what tests find leaves here under masks alone: set secure_aggregation=on, by secure of the policy" in told


NOISY = "clip: 0.5\nnoise: 4\nevaluate: false\n"


def test_noise_is_new_each_time_and_paid_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Over all runs; losses and numbers of examples, which it does not hide, are not told."""
    answers = []
    for run in (5, 6):
        site = Site(tmp_path, NOISY)
        site.context.run_id = run
        answers.append(site.round())
    assert (factors(answers[0]) - factors(answers[1])).abs().min() > 0
    for answer in answers:
        assert answer.metric_records["metrics"]["losses"] == [0.0]
        assert answer.metric_records["metrics"]["examples"] == [1]
    (spent,) = json.loads((tmp_path / "state" / "ledger.json").read_text())["spent"]
    assert spent == {"cohort": 1, "population": 1, "multiplier": 2.0, "rounds": 2}
    assert caplog.text.count("this node has spent epsilon") == 2


def test_a_node_whose_privacy_is_spent_trains_no_more(tmp_path: Path) -> None:
    policy = NOISY + "most_epsilon: 4\n"
    told = [reason(Site(tmp_path, policy).round()) for _ in range(6)]
    done = told.index(next(filter(None, told)))
    assert 1 <= done < 6 and all("has spent its privacy, by most_epsilon" in text for text in told[done:])


def test_without_an_account_there_is_no_noisy_update(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    assert "cannot keep account of its noise" in reason(Site(tmp_path, NOISY).round())
    (tmp_path / "state").unlink()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ledger.json").write_text("{")
    assert "ledger is damaged" in reason(Site(tmp_path, NOISY).round())
