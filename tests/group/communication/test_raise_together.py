"""What one process fails at is raised on all of them, the same, and none is left waiting."""

import errno
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from mutual.group import Communicator
from mutual.recipe import Fault, InputError, RecipeError


@dataclass
class Threads:
    """Stands for a Communicator of two processes that are threads; who waits for one that does not come fails."""

    rank: int
    meeting: threading.Barrier
    values: list

    def all_gather_json(self, value):
        self.values[self.rank] = json.dumps(value)
        self.meeting.wait(timeout=5)
        return [json.loads(each) for each in self.values]


def outcomes(*makes):
    """What two processes return or raise."""
    meeting, values = threading.Barrier(2), [None, None]

    def outcome(rank):
        try:
            with Communicator.raise_together(Threads(rank, meeting, values)):
                return makes[rank]()
        except (InputError, OSError, threading.BrokenBarrierError) as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(outcome, range(2)))


def raising(error):
    def make():
        raise error

    return make


def test_without_an_error_each_goes_on_with_its_own():
    assert outcomes(lambda: {"a": 1}, lambda: [2]) == [{"a": 1}, [2]]


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize(
    "error",
    [
        InputError("runs/x holds a run"),
        RecipeError([Fault("peers.a", "no model", "override peers.a=x"), Fault("seed", "negative")], source="recipe.yaml"),
        OSError(errno.EIO, "Input/output error", "runs/x/\udcff"),
        PermissionError(errno.EACCES, "Permission denied", b"runs/x"),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("image file is truncated"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_one_fails_at_is_raised_on_all(error, failing):
    makes = [lambda: 1, lambda: 1]
    makes[failing] = raising(error)
    found = outcomes(*makes)
    assert found[failing] is error
    other = found[1 - failing]
    assert type(other) is type(error), other
    if isinstance(error, OSError):
        path = error.filename.decode() if isinstance(error.filename, bytes) else error.filename
        assert (other.errno, other.strerror, other.filename) == (error.errno, error.strerror, path)
    if not isinstance(error, PermissionError):  # whose path is bytes here
        assert str(other) == str(error)


def test_the_first_of_several_faults_is_raised_on_all():
    first, second = InputError("first"), OSError(errno.EIO, "second")
    found = outcomes(raising(first), raising(second))
    assert found[0] is first
    assert type(found[1]) is InputError
    assert str(found[1]) == "first"
    assert found[1].__cause__ is second
