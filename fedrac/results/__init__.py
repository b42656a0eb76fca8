"""What a run leaves in its ``output_dir``: records and checkpoints, and how runs are compared and drawn (`report`).

It may import `fedrac.flower` and what lies below it.
"""
