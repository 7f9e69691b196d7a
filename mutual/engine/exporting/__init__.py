"""Exporting: a trained peer as files to ship, reloaded and compared with the model before they are kept, and a card that describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.engine.exporting.formats import export_model
    from mutual.engine.exporting.latency import latency_table
    from mutual.engine.exporting.options import ExportOptions, parse_temperature
    from mutual.engine.exporting.run_export import RunExport, export_run

__all__ = ["ExportOptions", "RunExport", "export_model", "export_run", "latency_table", "parse_temperature"]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.engine.exporting.run_export": ("RunExport", "export_run"),
        "mutual.engine.exporting.formats": ("export_model",),
        "mutual.engine.exporting.latency": ("latency_table",),
        "mutual.engine.exporting.options": ("ExportOptions", "parse_temperature"),
    },
)
