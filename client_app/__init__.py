"""The Flower ClientApp: a host of clients; see `fedrac.flower.node_app`."""

from fedrac.flower.node_app import app

__all__ = ["app"]
