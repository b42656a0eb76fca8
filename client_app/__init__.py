"""The Flower ClientApp: a host of clients; see `fedrac.flower.client_app`."""

from fedrac.flower.client_app import app

__all__ = ["app"]
