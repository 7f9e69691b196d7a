"""What the main process gets of peers that others hold, and what all know of all."""

import pytest

from mutual.engine.training.peer_collector import PeerCollector
from mutual.group.exchange import Placement


class Post:
    """Stands for a process that sends and receives bytes."""

    def __init__(self, rank, sent=()):
        self.rank, self.is_main, self.sent = rank, rank == 0, list(sent)

    def send(self, content, *, to):
        self.sent.append((to, content))

    def receive(self, *, source):
        return b"from %d" % source

    def all_gather_json(self, value):
        return [{"a": 1}, {"b": 2}, {"b": 2}]


APART = Placement(3, {"a": (0,), "b": (1, 2)}, {"a": (0,), "b": (1, 2)}, is_replicated=False)
TOGETHER = Placement(2, {"a": (0, 1)}, {"a": (0, 1)}, is_replicated=True)


def test_the_first_rank_of_a_peer_sends_and_the_main_process_receives():
    posts = [Post(rank) for rank in range(3)]
    collectors = [PeerCollector(post, APART) for post in posts]
    assert [collector.comm.is_main for collector in collectors] == [True, False, False]
    assert [collector.collect_to_main("b", lambda: b"made") for collector in collectors[1:]] == [None, None]
    assert [post.sent for post in posts] == [[], [(0, b"made")], []]
    assert collectors[0].collect_to_main("b", lambda: pytest.fail("it is not held here")) == b"from 1"


@pytest.mark.parametrize(("placement", "size"), [(APART, 3), (TOGETHER, 2)])
def test_what_the_main_process_holds_does_not_travel(placement, size):
    posts = [Post(rank) for rank in range(size)]
    found = [PeerCollector(post, placement).collect_to_main("a", lambda: b"made") for post in posts]
    assert found == [b"made"] + [None] * (size - 1)
    assert not any(post.sent for post in posts)


def test_all_know_what_each_knows():
    assert PeerCollector(Post(0), APART).all_gather_dict({"a": 1}) == {"a": 1, "b": 2}
    assert PeerCollector(Post(0), TOGETHER).all_gather_dict({"a": 3}) == {"a": 3}, "nothing travels"
