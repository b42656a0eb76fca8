"""What is seen of a run while it goes on: progress in a terminal, ``status.json``, a log for programs, trackers.

It may import `fedrac.results` and what lies below it.
"""
