"""One write at a time behind the training, whose error nobody misses."""

import signal
import threading
import time

import pytest

from mutual.engine.storage import BackgroundWriter


def fail():
    raise OSError("the disk is full")


def test_a_write_runs_in_a_thread_that_the_process_waits_for():
    writer, threads = BackgroundWriter(), []
    writer.wait()
    for _ in range(2):
        writer.start(lambda: threads.append(threading.current_thread()))
        writer.wait()
    assert len({*threads, threading.main_thread()}) == 3
    assert not any(thread.daemon for thread in threads)


def test_who_waits_for_it_gets_its_error_once():
    writer = BackgroundWriter()
    writer.start(fail)
    with pytest.raises(OSError, match="the disk is full"):
        writer.wait()
    writer.wait()
    writer.close()


def test_two_writes_at_once_are_a_mistake():
    writer, go_on = BackgroundWriter(), threading.Event()
    writer.start(go_on.wait)
    with pytest.raises(AssertionError, match="one write at a time"):
        writer.start(go_on.wait)
    go_on.set()
    writer.wait()


def test_an_error_for_which_nobody_waits_is_a_warning():
    writer = BackgroundWriter()
    writer.start(fail)
    with pytest.warns(UserWarning, match=r"the last checkpoint was not written \(OSError: the disk is full\)"):
        writer.close()


def test_a_write_that_is_given_up_ends_at_its_next_check(recwarn):
    writer, begun, checks = BackgroundWriter(), threading.Event(), []

    def write():
        while True:
            writer.check()
            checks.append(1)
            begun.set()

    writer.start(write)
    begun.wait()
    writer.cancel()
    writer.close()
    assert checks
    assert not recwarn.list, "whoever gave it up knows"


def test_ctrl_c_gives_up_a_write_that_is_waited_for_at_the_end():
    """Nothing of it goes on behind the one who closes."""
    writer, ended = BackgroundWriter(), threading.Event()

    def write():
        try:
            while True:
                writer.check()
                time.sleep(0.01)
        finally:
            ended.set()

    writer.start(write)
    threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        writer.close()
    assert ended.is_set()
