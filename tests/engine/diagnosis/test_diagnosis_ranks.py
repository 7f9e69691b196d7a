"""Processes meet in a store; whoever does not come is missing, and nobody waits for ever."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.distributed import HashStore

from mutual.engine.diagnosis import rendezvous as module
from mutual.engine.diagnosis.ranks import Links, differences, host_numbers, measure_links, rank_names, shared_devices
from mutual.engine.diagnosis.rendezvous import Rendezvous, run_with_timeout
from mutual.group import Communicator


def test_each_process_receives_the_values_of_all():
    store = HashStore()
    with ThreadPoolExecutor(3) as pool:
        processes = [Rendezvous(rank, 3, store) for rank in range(3)]
        received = list(pool.map(lambda each: each.exchange("facts", {"rank": each.rank}, timeout=20), processes))
    assert received == [{rank: {"rank": rank} for rank in range(3)}] * 3


def test_who_does_not_come_in_time_is_missing():
    begun = time.monotonic()
    assert Rendezvous(2, 4, HashStore()).exchange("facts", "here", timeout=0.1) == {2: "here"}
    assert time.monotonic() - begun < 5


def test_who_waits_for_one_does_not_wait_for_others():
    store = HashStore()
    store.set("verdict/0", '"broken"')
    assert Rendezvous(1, 3, store).exchange("verdict", None, timeout=20, ranks={0}) == {0: "broken"}


def test_without_a_store_a_process_receives_its_own_value():
    assert Rendezvous(0, 1).exchange("facts", (1, 2), timeout=0) == {0: [1, 2]}


def test_a_launch_of_one_process_needs_no_store(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(module, "launch_store", lambda *arguments, **named: pytest.fail("it was asked for"))
    rendezvous = Rendezvous.of_launch(1)
    assert (rendezvous.rank, rendezvous.size, rendezvous.store) == (0, 1, None)


@pytest.mark.parametrize(("rank", "agent", "keeps"), [("0", "True", False), ("0", "", True), ("1", "", False)])
def test_process_0_keeps_the_store_where_no_launcher_does(monkeypatch, rank, agent, keeps):
    calls = []
    monkeypatch.setattr(module, "keep_launch_store", lambda timeout: calls.append("keep"))
    monkeypatch.setattr(module, "launch_store", lambda name, timeout: calls.append("connect"))
    for name, value in (("RANK", rank), ("WORLD_SIZE", "2"), ("TORCHELASTIC_USE_AGENT_STORE", agent)):
        monkeypatch.setenv(name, value)
    Rendezvous.of_launch(3)
    assert calls == (["keep", "connect"] if keeps else ["connect"])


def test_a_timeout_changes_nothing_of_what_the_function_gives_or_raises():
    assert run_with_timeout(20, lambda: 7) == 7
    with pytest.raises(KeyError, match="x"):
        run_with_timeout(20, lambda: {}["x"])
    with pytest.raises(TimeoutError, match="its own"):
        run_with_timeout(20, lambda: (_ for _ in ()).throw(TimeoutError("its own")))


def test_what_does_not_end_is_left_behind_after_its_timeout():
    ended = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        run_with_timeout(0.05, ended.wait)
    ended.set()


def test_machines_are_numbered_by_their_lowest_rank():
    assert host_numbers({0: "z", 1: "a", 2: "z", 5: "b"}) == {0: 0, 1: 1, 2: 0, 5: 2}


def test_differences_name_the_values_and_their_ranks():
    values = {
        0: {"torch": "2.6", "x": 1},
        1: {"torch": "2.7", "x": 1},
        2: {"torch": "2.6", "x": 1, "new": None},
        3: {"torch": "2.6", "x": 1, "new": "1"},
    }
    assert list(differences(values)) == ["torch is 2.6 on ranks 0, 2, 3 and 2.7 on rank 1", "new is None on ranks 0, 1, 2 and 1 on rank 3"]


def test_ranks_share_a_device_on_the_same_machine_only():
    places = {0: ("a", "GPU-1"), 1: ("a", "GPU-1"), 2: ("b", "GPU-1"), 3: ("a", None), 4: ("a", None), 5: ("a", "GPU-2")}
    assert shared_devices(places) == ((0, 1),)


def test_many_ranks_are_cut_short():
    assert rank_names([3]) == "rank 3"
    assert rank_names(range(10)) == "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


def test_links_of_one_process_are_right(monkeypatch):
    links = measure_links(Communicator(0, 1, torch.device("cpu")))
    assert isinstance(links, Links)
    assert links.is_right
    assert (links.bytes_per_second, links.latency_seconds >= 0) == (0, True)
