"""Programs for a shell that cost no start: `python -m mutual...` and `accelerate` run forked, as by `support.run`.

Whatever else they are called for starts the real one. A fork reads nothing from stdin, and is not reached by what kills the program;
what it has written is written by the program at its end.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from threading import Lock, Thread
from typing import Any

from forks import Job

MODULES = {"python": [], "python3": [], "accelerate": ["-m", "accelerate.commands.accelerate_cli"]}
"""By the name of a program what `python` is given in its place, before its arguments."""
PROGRAM = """#!{python} -IS
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    with server.makefile("rw") as stream:
        stream.write(json.dumps([{name!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]) + "\\n")
        stream.flush()
        code, *outputs = json.loads(stream.readline())
if code is None:
    os.execv({real!r}, [{real!r}, *sys.argv[1:]])
for number, text in enumerate(outputs, start=1):
    with open(number, "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.write(text)
sys.exit(code if code >= 0 else 128 - code)  # a shell's code of what a signal has ended
"""


class _Server(ThreadingUnixStreamServer):
    """Runs what the programs of its folder are called for."""

    def __init__(self, folder: Path, started: Collection[str], timeout: float) -> None:
        super().__init__(str(folder / "socket"), _Handler)
        self._folder, self._started, self._timeout = folder, set(started), timeout
        self._lock = Lock()
        for name in MODULES:
            program = folder / name
            real = str(Path(sys.executable).with_name(name))
            program.write_text(PROGRAM.format(python=sys.executable, address=self.server_address, name=name, real=real))
            program.chmod(0o755)

    def answer(self, name: str, arguments: list[str], cwd: str, variables: dict[str, str]) -> list[Any]:
        """Returns the exit code and what was written to stdout and stderr, or None alone: the real one is to be started."""
        flag, module, *words = [*MODULES[name], *arguments, "", ""]
        ours = flag == "-m" and module.partition(".")[0] in ("mutual", "accelerate")
        if not ours or self._is_started(module):
            return [None]
        with self._lock:  # it changes this process's environment for a moment
            prepare = partial(_set_interpreter, str(self._folder / "python"))
            job = Job(module, words[:-2], cwd=Path(cwd), variables=variables, prepare=prepare)
        return [job.wait(self._timeout), job.stdout, job.stderr]

    def _is_started(self, module: str) -> bool:
        with self._lock:
            is_first = module in self._started
            self._started.discard(module)
        return is_first


class _Handler(StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        answer = self.server.answer(*json.loads(self.rfile.readline()))
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def _set_interpreter(path: str) -> None:
    """What the fork starts in turn by `sys.executable` is forked, too."""
    sys.executable = path


@contextmanager
def forking_programs(*, started: Collection[str] = (), timeout: float = 240) -> Iterator[Path]:
    """Gives the folder to put first on a PATH; modules that are to be `started` are the real program's the first time."""
    with tempfile.TemporaryDirectory() as folder, _Server(Path(folder), started, timeout) as server:
        Thread(target=server.serve_forever, args=(0.1,)).start()
        try:
            yield Path(folder)
        finally:
            server.shutdown()
