"""Report: a run, or a comparison, as one HTML file that people can look at."""

from mutual.engine.report.findings import (
    EdgeFinding,
    Findings,
    ImageFinding,
    MemberFindings,
    PairFindings,
    Reliability,
)

__all__ = ["EdgeFinding", "Findings", "ImageFinding", "MemberFindings", "PairFindings", "Reliability"]
