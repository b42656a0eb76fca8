"""Algorithm 2 of arXiv 2410.08305 on tensors: named random streams, sketches, the blocks of a model that are trained,
where a round starts, the mean of the factors and the server's step.

It imports no other package of fedrac, and neither Flower, Ray nor Hydra.
"""
