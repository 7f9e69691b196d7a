"""A group's forward: what it asks of the exchange between ranks, whoever reads it."""

import pytest
from support import build, tiny_document

from mutual.data import to_inputs
from mutual.group import MicroBatchContext


class Handle:
    """An exchange under way that brings nothing, and counts who waits for it."""

    def __init__(self, brings):
        self.brings, self.waits = brings, 0

    def wait(self):
        self.waits += 1
        return self.brings


class Exchange:
    """What stands for the exchange: gives `handle` and keeps what was sent."""

    def __init__(self, brings=None):
        self.handle, self.sent = Handle(brings or {}), []

    def start(self, outputs, *, size):
        self.sent.append((sorted(outputs), size))
        return self.handle


def forward(group, data):
    group.train()
    window = next(data.train_windows(0, start=0, world_size=1, rank=0, accumulate=1))
    images, labels = to_inputs(window.batches[0], data.info)
    return group.forward(images, labels, MicroBatchContext(num_valid=len(labels), seed=0, global_batch_size=17))


@pytest.mark.parametrize("objectives", [[{"loss": "cross_entropy"}], [{"loss": "cross_entropy"}, {"loss": "dml"}]])
def test_an_exchange_is_waited_for_though_no_edge_reads_what_it_brings(objectives):
    """What is sent must not be freed before it has gone: gloo keeps it for itself, nccl need not."""
    _, data, group, _ = build(tiny_document(objectives=objectives))
    group.exchange = Exchange()
    forward(group, data)
    assert group.exchange.sent == [(["a", "b"], 17)]
    assert group.exchange.handle.waits == 1
