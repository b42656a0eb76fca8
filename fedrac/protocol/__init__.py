"""What crosses the network between server and nodes, what of it is refused, and what a node has already.

It may import `fedrac.algorithm`, `fedrac.aggregation`, `fedrac.partition`, `fedrac.training` and what lies below them,
and of Flower the messages.
"""
