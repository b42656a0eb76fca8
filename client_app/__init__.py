"""The Flower ClientApp: a host of clients; see `fedrac.client`."""

from fedrac.client import app

__all__ = ["app"]
