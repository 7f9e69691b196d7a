"""Report: a run, or a comparison, as one HTML file that people can look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.engine.report.findings import (
        EdgeFinding,
        Findings,
        ImageFinding,
        MemberFindings,
        PairFindings,
        Reliability,
    )
    from mutual.engine.report.page import run_page

__all__ = ["EdgeFinding", "Findings", "ImageFinding", "MemberFindings", "PairFindings", "Reliability", "run_page"]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.engine.report.findings": ("EdgeFinding", "Findings", "ImageFinding", "MemberFindings", "PairFindings", "Reliability"),
        "mutual.engine.report.page": ("run_page",),
    },
)
