"""``python -m fedrac.flower``: one run in Flower's simulation."""

import sys

from fedrac.flower.superlink import main

if __name__ == "__main__":
    sys.exit(main())
