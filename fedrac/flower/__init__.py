"""Fedrac on Flower: the server's strategy and its loop of rounds, the grids that reach the nodes, the node's ClientApp
and the host of clients behind it, and a SuperLink of one's own (``python -m fedrac.flower``).

It may import `fedrac.protocol`, `fedrac.models` and what lies below them.
"""
