"""Pages: findings and comparisons as HTML; numbers and texts in, text out."""

from mutual.engine.report.pages.page_of_comparison import Curves, comparison_page
from mutual.engine.report.pages.page_of_run import run_page
from mutual.engine.report.pages.verdicts import headline

__all__ = ["Curves", "comparison_page", "headline", "run_page"]
