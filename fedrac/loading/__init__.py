"""How what a setting names becomes an object (`target`), and how what was computed once is kept on disk (`cache`).

It imports no other package of fedrac.
"""
