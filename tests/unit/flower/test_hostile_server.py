"""Made-up messages to a node: none has an effect outside its folder, names a foreign module, or is answered by data."""

import copy
import json
import logging
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import runs
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from runs import start, strategy

from fedrac.algorithm.adapt import AdaptSpec
from fedrac.algorithm.server import ServerSpec
from fedrac.flower import client_app, node
from fedrac.flower.in_process_grid import InProcessGrid
from fedrac.protocol.connected_clients import encode_question
from fedrac.protocol.secure_messages import KIND, NAME, encode

MESSAGES = 10_000 if os.environ.get("FEDRAC_THOROUGH") else 2_000  # ten milliseconds each
NAMES = [f"Ms-Galloway-{n}" for n in range(20)]
NUMBERS = [f"0.{731246 + 1013 * n}" for n in range(20)]
POLICY = "least_examples: 5\nmost_messages: 1000000\nmost_rounds: 1000000\nfolders: [{0}]\n"
TABLE = {
    "_target_": "fedrac.data.table.table", "path": None, "target": "ill", "features": ["a", "b"],
    "classes": ["no", "yes"], "standardize": False,
}  # fmt: skip
MODEL = {"_target_": "fedrac.models.mlp", "inputs": 2, "hidden": [2], "outputs": 2}


PLACES = {"data": "data", "state": "state", "policy": "policy.yaml"}


class Watch:
    """What this process opens, imports and runs, while it is told to watch: an audit hook cannot be taken away."""

    def __init__(self) -> None:
        self.on = False
        self.opened: set[str] = set()
        self.written: set[str] = set()
        self.imported: set[str] = set()
        self.ran: list[str] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(arguments[0], str):
            writes = isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
            (self.written if writes else self.opened).add(arguments[0])
        elif event == "import":
            self.imported.add(arguments[0].partition(".")[0])
        elif event in ("os.remove", "os.rename", "os.mkdir", "shutil.rmtree"):
            self.written.add(str(arguments[0]))
        elif event in ("subprocess.Popen", "os.system", "os.exec", "os.spawn", "socket.connect", "pickle.find_class"):
            self.ran.append(f"{event} {arguments[:1]}")

    @contextmanager
    def watching(self) -> Iterator[None]:
        self.on = True
        try:
            yield
        finally:
            self.on = False


def foreign(draw: random.Random, outside: Path) -> Any:
    """A value that names a function or a file, or what Hydra would take for one."""
    path = str(outside / "patients.csv")
    target = draw.choice([
        "trapped.load", "builtins.open", "os.system", "pathlib.Path.write_text", "fedrac.data.mnist.np.load",
        "fedrac.data.idx.write", "torch.load", "pandas.eval", "fedrac.data.table.parts", "fedrac.data.table.table",
    ])  # fmt: skip
    nested = {"_target_": target, draw.choice(["path", "file", "cmd", "self", "x"]): path}
    return draw.choice([
        path, f"{outside}/../outside/patients.csv", "/etc/passwd", "~/.ssh", str(outside), nested, [nested], nested,
        {"x": [nested]}, target, target, "${oc.env:HOME}", "${oc.create:{_target_:trapped.load}}", {"_args_": [path]},
    ])  # fmt: skip


def odd(draw: random.Random) -> Any:
    """A value that is not what is meant there, or might be."""
    return draw.choice([
        -1, 0, 1, 3, 70, 1e308, float("nan"), 2**70, True, None, "", "x", "name", ["name"], ["name", "a"], [], {},
        "layers.0.weight", "right", "full", "both", "haar", [0.1], "\0", "regression", "open", "float64",
        "patients.csv", ["no"],
    ])  # fmt: skip


def leaves(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of everything inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, item in inner for found in ((*place, key), *leaves(item, (*place, key)))]


def changed(text: str, draw: random.Random, outside: Path) -> str:
    """JSON with a value replaced, added or left out: mostly by one that names what it must not."""
    root = json.loads(text)
    work = root.get("workload", root)
    names, kind = draw.random() < 0.8, draw.random()
    holder = draw.choice([work["data"], work["model"]]) if names else root
    *place, last = draw.choice(leaves(holder))
    for key in place:
        holder = holder[key]
    value = foreign(draw, outside) if names else odd(draw)
    if kind < 0.7 or isinstance(holder, list):
        holder[last] = value
    elif kind < 0.8:
        del holder[last]
    else:
        added = "_target_ _partial_ _args_ _recursive_ _convert_ path test_path metrics scheme policy"
        holder[draw.choice(added.split())] = value
    return json.dumps(root)


def crafted(content: RecordDict, draw: random.Random, outside: Path) -> RecordDict:
    """A message with one thing changed. Flower's own checks of types are left out."""
    content = copy.deepcopy(content)
    record = next(name for name in ("question", NAME, "plan") if name in content)
    field, kind = "spec" if record == "plan" else "workload", draw.random()
    if kind < 0.75 or record != "plan":
        content[record].__dict__["_data"][field] = changed(str(content[record][field]), draw, outside)
    elif kind < 0.8:
        clients = draw.choice([[1], [0, 0], [], [-1], ["x"], [10**18], "x", None, [0.5]])
        content["plan"].__dict__["_data"]["clients"] = clients
    elif kind < 0.9:
        values = content["update"].__dict__["_data"]
        values[draw.choice(list(values))] = odd(draw)
    else:
        _spoil(content, draw.choice(["steps", "weights", "factors", "sketches"]), draw)
    return content


def _spoil(content: RecordDict, name: str, draw: random.Random) -> None:
    """Other arrays, or one with a byte that differs."""
    arrays = content[name].__dict__["_data"]
    if not arrays or draw.random() < 0.5:
        content[name] = draw.choice([ArrayRecord(), ConfigRecord({"x": 1})])
        return
    key = draw.choice(list(arrays))
    data = bytearray(arrays[key].data)
    data[draw.randrange(len(data))] = draw.randrange(256)
    arrays[key] = Array(arrays[key].dtype, arrays[key].shape, arrays[key].stype, bytes(data))


def texts(content: RecordDict) -> str:
    """All that an answer says in words and numbers, but for the arrays."""
    return repr([dict(record) for record in (*content.config_records.values(), *content.metric_records.values())])


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The node's folder, the working directory, and one outside it with other patients and a module."""
    site, outside = tmp_path / "site", tmp_path / "outside"
    for folder in (site / "data", outside):
        folder.mkdir(parents=True)
    rows = [f"{number},{n % 3},{NAMES[n]},{('no', 'yes')[n % 2]}" for n, number in enumerate(NUMBERS)]
    (site / "data" / "train.csv").write_text("\n".join(["a,b,name,ill", *rows]))
    (outside / "patients.csv").write_text("a,b,ill\n" + "0.5,1,no\n0.25,1,yes\n" * 9)
    (outside / "trapped.py").write_text("def load(*_, **__):\n    raise SystemExit('the trap')\n")
    (site / "policy.yaml").write_text(POLICY.format(site / "data"))
    monkeypatch.syspath_prepend(outside)
    monkeypatch.setenv("FEDRAC_CACHE", str(site / "cache"))
    monkeypatch.chdir(outside)
    node.forget()
    return site, outside


def honest(site: Path) -> list[tuple[str, RecordDict]]:
    """A question, a training, a test, and a wish for keys, as a server sends them."""
    work = {**runs.workload(data=TABLE, partition={"scheme": "nodes"}, model=MODEL), "dtype": "float32"}
    grid = InProcessGrid(client_app.app, [{"partition-id": 0, "data": str(site / "data")}])
    server = strategy(work, adapt=AdaptSpec({"*": 1}), server=ServerSpec(1))
    (plan,) = server.configure_train(1, start(work), ConfigRecord(), grid)
    return [
        (MessageType.QUERY, encode_question(work)),
        (MessageType.TRAIN, plan.content),
        (MessageType.EVALUATE, plan.content),
        (KIND, encode(step="keys", round=1, clients=[0], workload=json.dumps(work))),
    ]


def _try(site: Path, outside: Path, count: int, watch: Watch) -> tuple[int, int]:
    """How many messages were answered, and how many refused."""
    draw, sent = random.Random(18), honest(site)
    config = {name: str(site / place) for name, place in PLACES.items()}
    answered = refused = 0
    for number in range(count + len(sent)):
        kind, content = sent[number % len(sent)]
        if number >= len(sent):  # the first ones are as they should be
            content = crafted(content, draw, outside)
        context = Context(number, 1, {"partition-id": 0, **config}, RecordDict(), {})  # each is the first of its run
        message = Message(RecordDict(), 1, kind)
        message.metadata.__dict__["_message_id"] = "1"
        message.__dict__["_content"] = content
        if number < len(sent):
            answer = client_app.app(message, context).content
            assert "error" not in answer
        else:
            with watch.watching():
                answer = client_app.app(message, context).content
        said = texts(answer)
        assert not any(cell in said for cell in (*NAMES, *NUMBERS)), said
        assert "0.25" not in said or "error" not in answer, said
        refused += "error" in answer
        answered += "error" not in answer
    return answered, refused


@pytest.fixture
def quiet() -> Iterator[None]:
    """Without ten thousand tracebacks."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_hostile_messages_have_no_effect(folders: tuple[Path, Path], quiet: None) -> None:
    site, outside = folders
    watch, before = Watch(), {path: path.stat().st_mtime_ns for path in outside.rglob("*")}
    answered, refused = _try(site, outside, MESSAGES, watch)
    assert refused > MESSAGES / 2 and answered > MESSAGES / 20  # both ways are taken
    assert "trapped" not in sys.modules and "trapped" not in watch.imported
    assert not watch.ran, watch.ran[:5]
    foreign = {path for path in watch.written if not Path(path).absolute().is_relative_to(site)}
    assert not foreign, foreign
    read = {path for path in watch.opened if Path(path).absolute().is_relative_to(outside) or "passwd" in path}
    assert not read, read
    assert {path: path.stat().st_mtime_ns for path in outside.rglob("*")} == before
