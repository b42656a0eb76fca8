"""A node's process that stays: Flower starts one for every message, which would load PyTorch, model and data anew.

`front` runs in Flower's process and imports Flower alone; it hands the message over, starts the worker if there is
none, and another one if it died, or if run, code or the node's configuration have changed. The worker
(``python -m fedrac.flower.worker``) ends when it is idle, and with the process that started Flower's.
"""
