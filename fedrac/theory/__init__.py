"""Step sizes, rates and floors of convex problems, from the closed forms of the theory.

It may import everything but `fedrac.cli`.
"""
