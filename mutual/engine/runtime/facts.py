"""What this process runs on: the processor's name, and the versions of packages."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def processor_name(root: Path = Path("/")) -> str:
    """Returns the name of the CPU's model, or of its architecture where /proc has none, as on ARM; `root` is where `/proc` is."""
    try:
        cpuinfo = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        cpuinfo = ""
    found = re.search(r"^model name[ \t]*:[ \t]*(\S.*)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def installed_version(package: str) -> str | None:
    """Returns the version of a package, or None where it is not installed; mutual itself may run from its folder."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
