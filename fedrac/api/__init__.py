"""The front door for Python, which ``import fedrac`` opens: `fit` on a live model and live data, `run` as the command
does, `load` and `table` for what runs have left.

It may import everything but `fedrac.theory` and `fedrac.cli`; nothing but `fedrac.cli` imports it.
"""
