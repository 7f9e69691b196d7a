"""Report: a run, or a comparison, as one HTML file that people can look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.engine.report.findings import (
    EdgeFinding,
    Findings,
    ImageFinding,
    MemberFindings,
    PairFindings,
    Reliability,
)
from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.engine.report.analysis import MAX_IMAGES, analyse_run

__all__ = [
    "MAX_IMAGES",
    "EdgeFinding",
    "Findings",
    "ImageFinding",
    "MemberFindings",
    "PairFindings",
    "Reliability",
    "analyse_run",
]

__getattr__, __dir__ = lazy_attributes(__name__, {"mutual.engine.report.analysis": ("MAX_IMAGES", "analyse_run")})
