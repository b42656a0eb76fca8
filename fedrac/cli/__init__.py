"""The ``fedrac`` command, its sub-commands (`commands`) and sweeps (`sweep`).

It may import everything; nothing imports it but ``python -m fedrac``.
"""
