"""Report: a run, or a comparison, as one HTML file that people can look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.engine.report.findings import (
    EdgeFinding,
    Findings,
    ImageFinding,
    MemberFindings,
    PairFindings,
    ReliabilityDiagram,
)
from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.engine.report.analysis import MAX_IMAGES, analyse_run
    from mutual.engine.report.pages import comparison_page, run_page
    from mutual.engine.report.report_of_comparison import report_comparison
    from mutual.engine.report.report_of_run import report_run

__all__ = [
    "MAX_IMAGES",
    "EdgeFinding",
    "Findings",
    "ImageFinding",
    "MemberFindings",
    "PairFindings",
    "ReliabilityDiagram",
    "analyse_run",
    "comparison_page",
    "report_comparison",
    "report_run",
    "run_page",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.engine.report.analysis": ("MAX_IMAGES", "analyse_run"),
        "mutual.engine.report.pages": ("comparison_page", "run_page"),
        "mutual.engine.report.report_of_comparison": ("report_comparison",),
        "mutual.engine.report.report_of_run": ("report_run",),
    },
)
