"""Flower's ``--trusted-entities``: whose apps a SuperNode runs."""

import base64
import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from flwr.supercore.fab import Fab
from flwr.supercore.primitives import asymmetric_ed25519 as ed25519
from flwr.supernode.cli.flower_supernode import _try_obtain_trusted_entities, _validate_public_keys_ed25519
from flwr.supernode.start_client_internal import _verify_fab

APP = b"what `flwr build` made"


def signed(key: object, app: bytes = APP, name: str = "auditor") -> dict[str, str]:
    when = 1_700_000_000
    message = ed25519.create_message_to_sign(hashlib.sha256(app).digest(), when)
    signature = base64.urlsafe_b64encode(ed25519.sign_message(key, message)).rstrip(b"=").decode()
    return {"valid_license": "yes", name: json.dumps({"signature": signature, "signed_at": when})}


def verified(app: bytes, verifications: dict[str, str], trusted: dict[str, str]) -> bool:
    return _verify_fab(Fab(hashlib.sha256(app).hexdigest(), app, verifications), trusted)


def test_only_signed_apps_are_run(tmp_path: Path) -> None:
    """As the file of a SuperNode names them; one byte more, another key or another name, and the app is not run."""
    key, public = ed25519.generate_key_pair()
    other, _ = ed25519.generate_key_pair()
    line = public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    (tmp_path / "trusted.yaml").write_text(f"auditor: {line}\n")
    trusted = _try_obtain_trusted_entities(tmp_path / "trusted.yaml")
    assert trusted is not None
    _validate_public_keys_ed25519(trusted)
    assert verified(APP, signed(key), trusted)
    assert not verified(APP + b" ", signed(key), trusted)
    assert not verified(APP, signed(other), trusted)
    assert not verified(APP, signed(key, name="somebody"), trusted)
    assert not verified(APP, {}, trusted)
