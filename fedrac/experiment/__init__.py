"""The settings of a run, checked; one run from start to end, the same in every runtime; and what is done with a
finished one: predictions, and its model for other tools (`export`).

It may import everything but `fedrac.theory`, `fedrac.api` and `fedrac.cli`.
"""
