"""Exchange: which rank holds which peer, and what travels between ranks."""

from mutual.group.exchange.exchange import Exchange, Pending
from mutual.group.exchange.placement import Placement, asks_costs, parallel, replicated
from mutual.group.exchange.transfer_plan import Routes, needs_of_scorers, scores

__all__ = [
    "Exchange",
    "Pending",
    "Placement",
    "Routes",
    "asks_costs",
    "needs_of_scorers",
    "parallel",
    "replicated",
    "scores",
]
