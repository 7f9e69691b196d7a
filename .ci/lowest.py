"""Prints for pip the lowest version of each package that pyproject.toml allows, so that the tests can run on these.

Every dependency has to say one: a bound that is not written is one that nobody tests.
"""

import sys
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it there

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = [texts for name, texts in project["optional-dependencies"].items() if name != "dev"]  # of tools the newest serve
lowest, unbounded = set(), set()
for requirement in map(Requirement, chain(project["dependencies"], *extras)):
    versions = [each.version for each in requirement.specifier if each.operator == ">="]
    lowest |= {f"{requirement.name}=={version}" for version in versions}
    unbounded |= set() if versions else {requirement.name}
if unbounded:
    sys.exit(f"pyproject.toml: say the lowest version (>=) of {', '.join(sorted(unbounded))}")
print("\n".join(sorted(lowest)))  # noqa: T201
