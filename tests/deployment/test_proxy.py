"""The proxy before a real SuperLink: the fleet passes, who controls shows a token, the rest is not there."""

import base64
import json
import os
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployed import ROOT, Federation, free_port, make, wait_for

from fedrac.results import node_bindings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed"),
    pytest.mark.xdist_group("flower"),
]


def configured(folder: Path, port: int, inside: int) -> Path:
    """``docker/nginx.conf``, with this machine's ports and folders in the place of the container's."""
    text = (ROOT / "docker" / "nginx.conf").read_text()
    own = folder / "proxy"
    own.mkdir()
    for old, new in (
        ("superlink-inside:9092", f"127.0.0.1:{inside}"),
        ("listen 9092", f"listen 127.0.0.1:{port}"),
        ("/tmp/", f"{own}/"),
        ("/tls/", f"{folder / 'superlink'}/"),
    ):
        assert old in text
        text = text.replace(old, new)
    root = "user root;\n" if os.getuid() == 0 else ""  # else its workers would not read what is root's
    (own / "nginx.conf").write_text(root + text)
    return own / "nginx.conf"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, app: Path, data: Path) -> Iterator[Federation]:
    """With one node, which was registered, and connects, through the proxy."""
    port, inside = free_port(), free_port()
    folder = tmp_path_factory.mktemp("proxy") / "federation"
    make(folder, nodes=2, PORT=str(port))
    found = Federation(folder, app, inside)
    try:
        found.start_superlink()
        found.start_serverapp()
        found.start("proxy", f"nginx -e /dev/stderr -c {configured(folder, port, inside)} -g 'daemon off;'")
        found.port = port
        wait_for(found.answers, 60)
        found.register(0)
        found.start_node(0, data / "node-0")
        yield found
    finally:
        found.stop()


def status(federation: Federation, path: str, token: str | None = None) -> int:
    """What a POST of nothing is answered with."""
    trusted = ssl.create_default_context(cafile=str(federation.folder / "ca" / "ca.crt"))
    request = urllib.request.Request(f"https://127.0.0.1:{federation.port}{path}", b"", method="POST")
    if token is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"operator:{token}".encode()).decode())
    try:
        with urllib.request.urlopen(request, context=trusted) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def token(federation: Federation) -> str:
    return (federation.folder / "flower" / "control.token").read_text().strip()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/control/register-node",
        "//v1/control/list-runs",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/..%2fcontrol/list-runs",
        "/v1/%63ontrol/list-runs",
    ],
)
def test_who_shows_no_token_controls_nothing(federation: Federation, path: str) -> None:
    assert status(federation, path) == 401
    assert status(federation, path, "0" * 48) == 401


@pytest.mark.parametrize("path", ["/v1/runtime/acquire-task", "/v1/runtime/responses", "/docs", "/openapi.json", "/"])
def test_what_is_for_nobody_outside_is_not_there(federation: Federation, path: str) -> None:
    assert status(federation, path) == status(federation, path, token(federation)) == 404


def test_the_fleet_is_let_through_to_the_superlink(federation: Federation) -> None:
    """It refuses by itself who shows no key."""
    assert status(federation, "/v1/fleet/pull-messages") not in (404, 502, 503)


def test_with_the_token_of_its_folder_flwr_works(federation: Federation) -> None:
    """The node that it registered comes online; without the token ``flwr`` is turned away."""
    wait_for(lambda: "online" in federation.flwr("supernode", "list", "docker").lower(), 120, pause=2)
    config = federation.folder / "flower" / "config.toml"
    with_token = config.read_text()
    try:
        config.write_text(with_token.replace(f"operator:{token(federation)}@", ""))
        key = str(federation.folder / "public" / "node-1.pub")
        assert "Error" in federation.flwr("supernode", "register", key, "docker", check=False)
    finally:
        config.write_text(with_token)
    listed = json.loads(federation.flwr("supernode", "list", "docker", "--format", "json"))
    assert len(listed["nodes"]) == 1


def test_a_run_through_the_proxy(federation: Federation, data: Path) -> None:
    """The app, the weights and the factors of two nodes cross it; the record names their keys."""
    output = federation.folder / "outputs" / "run"
    federation.register(1)
    federation.start_node(1, data / "node-1")
    overrides = f"data.path={data / 'server'} pretrain=none rounds=2 cohort.size=2 output_dir={output}"
    federation.run(overrides)
    federation.finish(output)
    assert len(set(node_bindings.read(output).values())) == 2
