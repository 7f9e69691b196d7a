"""Exchange: which rank holds which peer, and what travels between ranks."""

from mutual.group.exchange.exchange import ExchangeHandle, OutputExchange
from mutual.group.exchange.placement import Placement, needs_costs, parallel, replicated
from mutual.group.exchange.transfer_plan import TransferPlan, is_scoring_rank, scoring_requirements

__all__ = [
    "ExchangeHandle",
    "OutputExchange",
    "Placement",
    "TransferPlan",
    "is_scoring_rank",
    "needs_costs",
    "parallel",
    "replicated",
    "scoring_requirements",
]
