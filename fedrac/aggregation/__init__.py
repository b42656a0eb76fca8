"""What may stand in the place of the plain mean: clipping, robust means, and noise for differential privacy.

It may import `fedrac.algorithm`.
"""
