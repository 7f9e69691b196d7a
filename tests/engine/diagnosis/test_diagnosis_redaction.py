"""Texts that are pasted name neither the user nor the machine."""

import errno
import os
import socket
from pathlib import Path

import pytest

from mutual.engine.diagnosis import redaction as module
from mutual.engine.diagnosis.redaction import redact, redact_error


@pytest.fixture(autouse=True)
def alice(monkeypatch):
    monkeypatch.setattr(module.getpass, "getuser", lambda: "alice")
    monkeypatch.setattr(socket, "gethostname", lambda: "lab-7.example.org")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/alice"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/alice/runs", "~/runs"),
        ("/home/alice", "~"),
        ("/home/alice2/runs", "/home/alice2/runs"),
        ("/data/alice/runs", "/data/USER/runs"),
        ("malice", "malice"),
        ("no route to lab-7.example.org:29500", "no route to HOST:29500"),
        ("no route to lab-7", "no route to HOST"),
        ("connect to 10.0.0.7:29500 failed", "connect to ADDRESS:29500 failed"),
        ("connect to [fe80::1:2%eth0]:29500", "connect to ADDRESS:29500"),
        ("addr=::ffff:10.0.0.7", "addr=::ffff:ADDRESS"),
        ("peer fe80:0:0:0:1:2:3:4 is gone", "peer ADDRESS is gone"),
        ("at 12:30:22 torch 2.6.0", "at 12:30:22 torch 2.6.0"),
        ("http://alice:secret@proxy:80", "http://SECRETproxy:80"),
        ("token hf_abcdefghijk", "token SECRET"),
        ("two\nlines", "two\\nlines"),
    ],
)
def test_names_addresses_and_tokens_are_replaced(text, shown):
    assert redact(text) == shown


def test_a_short_name_is_left_in_other_words(monkeypatch):
    monkeypatch.setattr(module.getpass, "getuser", lambda: "me")
    assert redact("me and you") == "me and you"


def test_a_user_without_a_name_is_none(monkeypatch):
    def fail():
        raise KeyError("uid not found")

    monkeypatch.setattr(module.getpass, "getuser", fail)
    assert redact("alice") == "alice"


def test_of_a_file_only_what_was_wrong_is_shown():
    error = OSError(errno.EACCES, os.strerror(errno.EACCES), "/secret/place")
    assert redact_error(error) == "Permission denied"
    assert redact_error(RuntimeError("first at 10.0.0.7\nsecond")) == "first at ADDRESS"
