"""A cohort of clients trained in lockstep as one batched program, and a model tested on examples.

Each client gets what it would get alone. It may import `fedrac.algorithm`, `fedrac.data` and `fedrac.loading`, and
neither Flower, Ray nor Hydra.
"""
