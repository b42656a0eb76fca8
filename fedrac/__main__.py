"""``python -m fedrac``: the command ``fedrac``."""

from fedrac.cli.main import main

if __name__ == "__main__":
    main()
