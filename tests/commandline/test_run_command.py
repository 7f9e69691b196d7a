"""What a verb leaves on stderr and as its exit code: a line for what can be mended, whenever it comes."""

import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from support import ROOT, command, environment, run, tiny_document

from mutual.commandline import run_command
from mutual.engine.storage import BEST, BestRecord, RunFolder, sha256, write_file
from mutual.recipe import InputError, RunError, parse_recipe

VERBS = ["train", "evaluate", "predict", "export", "bench"]


def raised(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("no such thing"), 2, "no such thing"),
        (RunError("diverged"), 1, "diverged"),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), 1, "runs/x: No space left on device; free some space; go on"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device; free some space; go on with --resume"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), 1, "/x: Read-only file system; give a path on a disk that can be written"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "/x: Permission denied; allow this user to read and write there"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f/x"), 2, "f/x: Not a directory; a file stands in a folder's place"),
        (FileExistsError(errno.EEXIST, "File exists", "f"), 2, "f: File exists; a file stands in a folder's place"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "long"), 2, "long: File name too long; give a shorter name or path"),
        (OSError("image file is truncated"), 1, "image file is truncated; go on with --resume"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "f\n\x1b[2Jx"), 2, r"f\n\x1b[2Jx: Not a directory; a file stands"),
        (OSError(errno.ENOSPC, "No space left on device", "f\nx"), 1, r"f\nx: No space left on device; free some space"),
        (InputError("no \x1b[2J\u202esuch\x9b thing"), 2, r"no \x1b[2J\u202esuch\x9b thing"),
        (MemoryError(), 1, "out of memory; take a smaller data.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "CUDA out of memory; take a smaller data.batch_size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 1, "out of memory; take a smaller data.batch_size"),
        (KeyboardInterrupt(), 1, "interrupted at once; the last checkpoint, if there is one, stands; go on with --resume"),
    ],
)  # fmt: skip
def test_what_can_be_mended_is_a_line(capsys, error, code, line):
    assert run_command(raised(error), resumes=True) == code
    reported = capsys.readouterr().err
    assert reported.startswith(f"mutual: {line}")
    assert reported.count("\n") == 1
    run_command(raised(error))
    assert "--resume" not in capsys.readouterr().err, "only a training can be gone on with"


def test_a_place_that_the_command_line_names_is_the_users_to_mend(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "recipe.yaml", "output=/x"])
    for path, code in (("/x/name/last", 2), ("/xy", 1)):
        assert run_command(raised(PermissionError(errno.EACCES, "Permission denied", path))) == code
    capsys.readouterr()


def test_output_that_is_not_read_ends_a_verb_without_a_line():
    """As `| head` does; a pipe to something else that breaks is an error like others."""
    code = """
import os, sys
from mutual.commandline import print_main, run_command

def command():
    if "reader" in sys.argv:
        for _ in range(10**6):
            print_main("a line")
    raise BrokenPipeError(32, "Broken pipe")

sys.exit(run_command(command))
"""
    for word, reported in (("reader", ""), ("worker", "mutual: Broken pipe\n")):
        process = subprocess.Popen(
            [sys.executable, "-c", code, word], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        if word == "reader":
            process.stdout.close()
        assert process.wait(timeout=60) == 1
        assert process.stderr.read() == reported


def test_what_nobody_expected_keeps_its_traceback():
    with pytest.raises(KeyError):
        run_command(raised(KeyError("a bug")))


def test_a_warning_is_printed_once(capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def command():
        for number in range(3):
            with warnings.catch_warnings():  # which makes Python forget what it has shown
                warnings.simplefilter("always")
                warnings.warn("the disk is slow", stacklevel=1)
                warnings.warn(f"number {number}", stacklevel=1)

    assert run_command(command) == 0
    assert capsys.readouterr().err.splitlines() == [
        "mutual: warning: the disk is slow",
        *(f"mutual: warning: number {number}" for number in range(3)),
    ]


@pytest.mark.parametrize("command", VERBS)
def test_help_and_a_wrong_recipe_import_no_torch(command):
    words = {"train": ["no.yaml"], "bench": ["no.yaml"]}.get(command)
    code = f"""
import sys
from mutual.{command} import main
try:
    main(["--help"])
except SystemExit as error:
    assert error.code == 0
if {words!r}:
    assert main({words!r}) == 2
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), capture_output=True)


@pytest.mark.parametrize("name", ["train", "evaluate", "export"])
def test_an_interrupt_while_torch_is_imported_is_a_line(tmp_path, name):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_document()))
    folder = RunFolder(tmp_path / "run")
    folder.initialize(parse_recipe(tiny_document()), {})
    for peer in ("a", "b"):  # whole as far as it is looked at without torch
        write_file(folder.weights(BEST, peer), b"weights")
    folder.write_best(BestRecord(peer="a", metric="top1", peers={}, sha256={f"best/{peer}": [sha256(b"weights")] for peer in ("a", "b")}))
    process = subprocess.Popen(
        command(f"mutual.{name}", recipe if name == "train" else folder.path),
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    maps = Path(f"/proc/{process.pid}/maps")
    deadline = time.monotonic() + 60
    while "libtorch" not in maps.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, reported = process.communicate(timeout=60)
    lines = {"train": "mutual: interrupted at once; the last checkpoint, if there is one, stands; go on with --resume\n"}
    assert (process.returncode, reported) == (1, lines.get(name, "mutual: interrupted\n"))


@pytest.mark.parametrize(
    ("override", "reported"),
    [
        ("output=taken", "a file stands in a folder's place"),
        ("output=" + 300 * "x", "give a shorter name or path"),
        ("output=/proc/nothing", "check the path"),
    ],
)
def test_a_run_folder_that_cannot_be_made_is_a_line(tmp_path, override, reported):
    (tmp_path / "taken").write_text("the user's own")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny_document(output=str(tmp_path))))
    done = run("mutual.train", tmp_path / "recipe.yaml", override, cwd=tmp_path, expect=2, PYTHONPATH=f"{ROOT / 'tests'}{os.pathsep}{ROOT}")
    assert reported in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("mutual: ")]) == 1
    assert "Traceback" not in done.stderr
    assert (tmp_path / "taken").read_text() == "the user's own"
