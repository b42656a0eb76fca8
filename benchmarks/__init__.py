"""Speed and memory of fedrac, side by side with other ways of doing the same work: ``make bench``."""
