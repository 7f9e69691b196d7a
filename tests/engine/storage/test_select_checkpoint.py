"""Which files of a checkpoint each rank reads, what is sent, and who compares the checksums; two threads stand for two ranks."""

import json
import queue
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from mutual.engine.storage import CheckpointStore, select_checkpoint
from mutual.engine.storage.files import MARK
from mutual.recipe import InputError

FILES = {name: name.encode() * 50 for name in ("training.pt", "a.pt", "a.safetensors", "b.pt", "b.safetensors", "b.average.safetensors")}
OF_B = {name for name in FILES if name.startswith("b.")}
APART = {"a": (0,), "b": (1,)}
TOGETHER = {"a": (0, 1), "b": (0, 1)}


class Ranks:
    """What threads exchange in the place of processes."""

    def __init__(self, size):
        self.barrier, self.values = threading.Barrier(size, timeout=20), [None] * size
        self.sent = queue.Queue()
        self.num_sent = 0


class Rank:
    """The communicator of one thread."""

    def __init__(self, ranks, rank):
        self.ranks, self.rank, self.size, self.is_main = ranks, rank, len(ranks.values), rank == 0

    def all_gather_json(self, value):
        self.ranks.values[self.rank] = json.dumps(value)
        self.ranks.barrier.wait()
        values = [json.loads(each) for each in self.ranks.values]
        self.ranks.barrier.wait()
        return values

    def broadcast_bytes(self, content):
        assert (content is not None) == self.is_main
        return self.all_gather_json(content.decode() if content is not None else None)[0].encode()

    def send(self, content, *, to):
        assert (self.rank, to) == (0, 1)
        self.ranks.num_sent += 1
        self.ranks.sent.put(content)

    def receive(self, *, source):
        return self.ranks.sent.get(timeout=20)

    @contextmanager
    def raise_together(self):
        error = None
        try:
            yield
        except (InputError, OSError) as raised:
            error = raised
        for message in self.all_gather_json(None if error is None else str(error)):
            if message is not None:
                raise InputError(message)


@pytest.fixture
def disk(tmp_path):
    """The folder of a run with two checkpoints."""
    root = tmp_path / "shared"
    root.mkdir()
    (root / MARK).touch()
    store = CheckpointStore(root, keep=2)
    for step in (1, 2):
        store.save(step, {name: content + b"%d" % step for name, content in FILES.items()})
    return root


@pytest.fixture
def opened(monkeypatch):
    """The names of the checkpoints' files that each rank has opened, by its number."""
    opened = {0: set(), 1: set()}
    original = Path.open

    def open_(self, *arguments, **options):
        if self.name in FILES:
            opened[int(threading.current_thread().name[-1])].add(self.name)
        return original(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_)
    monkeypatch.setattr(Path, "read_bytes", lambda self: open_(self, "rb").read())
    return opened


def select(roots, holders):
    """What each rank obtains, and how many files were sent from one to the other."""
    ranks, results = Ranks(len(roots)), {}

    def run(rank):
        try:
            results[rank] = select_checkpoint(CheckpointStore(roots[rank], keep=2), Rank(ranks, rank), holders)
        except InputError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,), name=f"rank {rank}") for rank in range(len(roots))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, ranks.num_sent


def contents(step, names):
    return {name: FILES[name] + b"%d" % step for name in names}


def test_a_rank_reads_the_files_of_its_peers(disk, opened):
    """The main process reads all, to compare their checksums, and keeps those of its own peers."""
    results, num_sent = select([disk, disk], APART)
    assert results == {0: contents(2, FILES.keys() - OF_B), 1: contents(2, {"training.pt"} | OF_B)}
    assert num_sent == 0
    assert opened == {0: set(FILES), 1: OF_B}


def test_what_all_ranks_need_is_read_once(disk, opened):
    results, num_sent = select([disk, disk], TOGETHER)
    assert results == {0: contents(2, FILES), 1: contents(2, FILES)}
    assert num_sent == 0
    assert opened[1] == set()


def test_a_rank_without_the_disk_is_sent_the_files_of_its_peers(disk, tmp_path):
    results, num_sent = select([disk, tmp_path / "nothing"], APART)
    assert results[1] == contents(2, {"training.pt"} | OF_B)
    assert num_sent == len(OF_B)


def test_a_file_that_is_damaged_on_one_ranks_disk_is_sent(disk, tmp_path):
    other = shutil.copytree(disk, tmp_path / "other")
    (other / "checkpoints" / "step_00000002" / "b.pt").write_bytes(b"altered")
    results, num_sent = select([disk, other], APART)
    assert results[1] == contents(2, {"training.pt"} | OF_B)
    assert num_sent == 1


@pytest.mark.filterwarnings("ignore:.*taking the checkpoint before it")
@pytest.mark.parametrize("name", ["training.pt", "a.pt", "b.safetensors"])
def test_a_damaged_file_of_any_peer_makes_all_ranks_take_the_checkpoint_before(disk, name):
    """Of a peer that the main process does not hold, too."""
    (disk / "checkpoints" / "step_00000002" / name).write_bytes(b"altered")
    results, _ = select([disk, disk], APART)
    assert results == {0: contents(1, FILES.keys() - OF_B), 1: contents(1, {"training.pt"} | OF_B)}


def test_a_rank_that_holds_another_checkpoint_is_an_error_on_all(disk, tmp_path):
    other = shutil.copytree(disk, tmp_path / "other")
    manifest = other / "checkpoints" / "step_00000002" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    results, _ = select([disk, other], APART)
    assert all("is not what rank 0" in str(error) for error in results.values())


def test_without_a_checkpoint_there_is_none(tmp_path):
    assert select([tmp_path, tmp_path], APART)[0] == {0: None, 1: None}


def test_one_process_reads_all(disk, opened):
    results, _ = select([disk], {"a": (0,), "b": (0,)})
    assert results == {0: contents(2, FILES)}
    assert opened[0] == set(FILES)
