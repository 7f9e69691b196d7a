"""What stands for `python` and `accelerate` in the shells of the READMEs does as they do."""

import os
import signal
import subprocess

import programs
import pytest
from programs import forking_programs
from support import ROOT, environment

from mutual import __version__


@pytest.fixture
def forks(monkeypatch):
    """The modules that were forked, in their order."""
    modules = []

    class Recorded(programs.Job):
        def __init__(self, module, *arguments, **options):
            modules.append(module)
            super().__init__(module, *arguments, **options)

    monkeypatch.setattr(programs, "Job", Recorded)
    return modules


@pytest.fixture
def shell(tmp_path):
    def run(script, *, started=(), expect=0, **variables):
        with forking_programs(started=started) as folder:
            variables = environment(PATH=f"{folder}:{os.environ['PATH']}", **variables)
            done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120)
        assert done.returncode == expect, done.stderr
        return done

    return run


def test_a_fork_has_the_arguments_the_folder_and_the_streams_of_the_program(shell, forks, tmp_path):
    script = "mkdir 'a place'; cd 'a place'; python -m mutual.predict 'no run' 7.png 2> said; code=$?; pwd; exit $code"
    assert shell(script, expect=2).stdout == f"{tmp_path}/a place\n"
    assert (tmp_path / "a place" / "said").read_text().startswith("mutual: no run is no run folder")
    assert forks == ["mutual.predict"]


def test_a_fork_has_the_environment_of_the_program(shell, forks):
    wide, narrow = (shell("python -m mutual.predict --help", COLUMNS=columns).stdout.splitlines() for columns in ("200", "60"))
    assert max(map(len, wide)) > 60
    assert max(map(len, narrow)) <= 60
    assert forks == ["mutual.predict"] * 2


def test_a_fork_that_a_signal_ends_is_a_program_that_it_ends(shell, forks, tmp_path):
    (tmp_path / "dying.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    shell(f"python3 -m mutual.train {ROOT}/recipes/dml_pplcnet.yaml peers.a.model=dying:net", expect=128 + signal.SIGKILL)
    assert forks == ["mutual.train"]


def test_what_a_fork_starts_by_its_interpreter_is_forked(shell, forks):
    shell("accelerate launch -m mutual.train --help")
    assert forks == ["accelerate.commands.accelerate_cli", "mutual.train"]


def test_everything_else_is_started(shell, forks):
    script = (
        "echo 'print(input.__name__)' | python -; python -m this > /dev/null; python -c 'import sys; print(sys.argv); sys.exit(7)' 'a b'"
    )
    done = shell(script, expect=7)
    assert done.stdout == "input\n['-c', 'a b']\n"
    assert forks == []


def test_a_module_is_started_the_first_time_where_that_is_asked_for(shell, forks):
    done = shell("for time in 1 2; do python -m mutual --version; done", started=["mutual"])
    first, second = done.stdout.splitlines()
    assert first == second == f"mutual {__version__}"
    assert forks == ["mutual"]
