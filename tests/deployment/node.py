"""The SuperNode of these tests: signs of life every 10 seconds, not 30; a killed one is missed after 20, not 60."""

from flwr.supercore import heartbeat
from flwr.supernode import fleet_http_connection

from fedrac.flower import supernode

if __name__ == "__main__":
    for module in (heartbeat, fleet_http_connection):
        module.HEARTBEAT_DEFAULT_INTERVAL = 10
    supernode.main()
