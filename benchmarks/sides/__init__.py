"""Who does the work: each module has a class `Side` that runs rounds of a workload.

``Side(workload, device).run(rounds)`` goes on where the last call stopped and returns the times (`time.monotonic`) at
the start of the first of these rounds and at the end of each; ``weights()`` are those after the last round.
"""
