"""Which client holds which training examples: the schemes that divide them, and the partition that they make.

It may import `fedrac.data` and what lies below it.
"""
