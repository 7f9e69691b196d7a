"""The colour of each member: the same in all charts of a page."""

from __future__ import annotations

from collections.abc import Sequence

from mutual.engine.report.findings import MemberFindings
from mutual.recipe import ENSEMBLE

_COLOURS = 8


def member_styles(members: Sequence[MemberFindings]) -> dict[str, str]:
    """Returns by member the CSS classes of its lines: its own colour, and dashes where colours come again; the ensemble, last, is grey."""
    peers = [member.name for member in members if member.name != ENSEMBLE]
    return styles_of(peers) | {member.name: "ensemble" for member in members if member.name == ENSEMBLE}


def styles_of(names: Sequence[str]) -> dict[str, str]:
    """Returns by name the CSS classes of its lines."""
    return {
        each: f"c{index % _COLOURS}" + (f" dash{min(2, index // _COLOURS)}" if index >= _COLOURS else "")
        for index, each in enumerate(names)
    }
