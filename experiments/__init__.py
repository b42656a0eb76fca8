"""What the paper shows, and comparisons that it does not have: sweeps in ``*.sh``, their tables in ``*.py``.

The sweeps are ordinary commands; the modules only read the recorded runs. ``python -m experiments RUNS DOCS`` writes
``results.md`` with its figures from whatever runs there are.
"""
