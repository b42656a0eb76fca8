"""Who does the work: each module has a class `Side` that runs rounds of a workload.

``Side(workload, device).run(rounds)`` returns the times (`time.monotonic`) at the start of the first of these rounds
and at the end of each. ``round`` is the last finished round; a later call goes on with the next one. ``threads`` is set
from outside, ``weights()`` are those after the last round.
"""
