"""Diagnosis: what this machine, its devices, its disks and its ranks are, and what to set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mutual.lazy import lazy_attributes

if TYPE_CHECKING:
    from mutual.engine.diagnosis.diagnosis import diagnose
    from mutual.engine.diagnosis.text import diagnosis_text

__all__ = [
    "diagnose",
    "diagnosis_text",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "mutual.engine.diagnosis.diagnosis": ("diagnose",),
        "mutual.engine.diagnosis.text": ("diagnosis_text",),
    },
)
