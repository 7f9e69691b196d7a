"""What the READMEs say can be done: each command is run or says why not, and each promise names a test that is there.

A command stands in a fenced block of `sh` or `python`, a file in one of any language. A comment on the line before a block may
hold, divided by semicolons:

- `not run: REASON`
- `without the installation`: of the virtual environment, which the tests are in already
- `with: WORD ...`: PLACEHOLDER=value replaces what stands for something of the reader's, key.path=value is appended to each training
- `needs: PATH`: a machine without it passes the block over
- `file: NAME`: the block is written to this file instead of being run

Each verb is started as a reader starts it where it stands first; after that, and for blocks of `python`, a fork does what a start would.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from programs import MODULES, forking_programs
from support import ROOT, environment, run

from mutual.__main__ import COMMANDS

READMES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("README.md") if not {".git", ".venv", "runs"} & set(path.parts))
READMES.append(Path("recipes/COMING_FROM.md"))
COMMAND = re.compile(r"^ {4,}(accelerate|bash|curl|import|mutual|pip|pytest|python3?|sbatch|tensorboard|torchrun) ", re.MULTILINE)
FENCED = re.compile(r"^(?:<!-- (?P<notes>.*?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 240
"""A block takes a minute at most on a quiet machine."""


@dataclass(frozen=True)
class Block:
    """A fenced block and what the comment before it says of it."""

    language: str
    code: str
    notes: dict[str, str]

    @property
    def program(self) -> str:
        """The code with what its notes put in."""
        code = re.sub(r"^.*pip install [^&]*&& ", "", self.code) if "without the installation" in self.notes else self.code
        appended = []
        for word in self.notes.get("with", "").split():
            name, _, value = word.partition("=")
            if name.isupper():
                code = re.sub(rf"\b{name}\b", value, code)
            else:
                appended.append(word)
        return re.sub(r"((?:-m mutual\.|mutual )train .*?)( +#.*)?$", rf"\1 {' '.join(appended)}", code, flags=re.MULTILINE)


def blocks(text: str) -> list[Block]:
    found = []
    for match in FENCED.finditer(text):
        notes = dict(re.match(r"\s*([^:]*)(?::\s*(.*))?$", note).groups(default="") for note in (match["notes"] or "").split(";") if note)
        found.append(Block(match["language"], match["code"], notes))
    return found


def runnable(readme: Path) -> list[Block]:
    """What a page says that can be run on this machine, and the files that it says are written before."""
    found = [block for block in blocks((ROOT / readme).read_text()) if block.language in ("sh", "python") or "file" in block.notes]
    return [block for block in found if "not run" not in block.notes and Path(block.notes.get("needs", ROOT)).exists()]


def first_here(readme: Path) -> set[str]:
    """The modules that shells of this page run and those of the pages before do not."""
    pages = [[block.program for block in runnable(page) if block.language == "sh"] for page in READMES[: READMES.index(readme) + 1]]
    *before, here = ({name for program in page for name in re.findall(r"accelerate|mutual\.[.\w]+", program)} for page in pages)
    return {MODULES[name][1] if name in MODULES else name for name in here.difference(*before)}


RUNNABLE = [path for path in READMES if any("file" not in block.notes for block in runnable(path))]


@pytest.fixture
def folder(tmp_path):
    """What a reader has: the recipes, the launch files and a folder of images, `photos`."""
    for name in ("recipes", "launch"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for index, part in enumerate(("train", "val")):
        for shade, name in ((40, "cat"), (200, "dog")):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (40, 40), (shade, number, index)).save(tmp_path / "photos" / part / name / f"{number}.png")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("readme", RUNNABLE, ids=str)
def test_the_commands_of_a_readme_run(readme, folder):
    """In the order of the text, in one folder: what a command has written is there for the next."""
    variables = {"HF_DATASETS_CACHE": str(folder / "cache")}
    with forking_programs(started=first_here(readme), timeout=SECONDS - 20) as programs:
        path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        for block in runnable(readme):
            if "file" in block.notes:
                (folder / block.notes["file"]).write_text(block.program)
            elif block.language == "python":
                (folder / "block.py").write_text(block.program)
                run("block", cwd=folder, timeout=SECONDS, **variables)
            else:
                shell = ["bash", "-euo", "pipefail", "-c", block.program]
                done = subprocess.run(
                    shell, cwd=folder, env=environment(PATH=path, **variables), capture_output=True, text=True, timeout=SECONDS
                )
                assert done.returncode == 0, f"{block.program}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_every_command_of_a_readme_stands_where_it_is_run_or_says_why_not(readme):
    text = (ROOT / readme).read_text()
    found = COMMAND.search(FENCED.sub("", text))
    assert not found, f"{found[0]!r}: put it into a fenced block of sh or python, or a synopsis into one of text"
    for block in blocks(text):
        known = {"not run", "without the installation", "with", "needs", "file"}
        assert block.notes.keys() <= known, f"a note before a block: {block.notes.keys() - known}; known are {', '.join(sorted(known))}"
        assert block.notes.get("not run", "a reason"), "say why it is not run"


@pytest.mark.parametrize("page", ["mutual/engine/README.md", "recipes/COMING_FROM.md"])
def test_every_promise_names_a_test_that_exists(page):
    file, named = "", []
    for path, name in re.findall(r"`(tests/[\w/]+\.py)?::(test_\w+)`", (ROOT / page).read_text()):
        file = path or file
        named.append(name)
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"
    assert len(named) > 15


def test_the_first_page_lists_every_command():
    (listed,) = (block.code for block in blocks((ROOT / "README.md").read_text()) if "python -m mutual.evaluate RUN [" in block.code)
    assert [module for module, _ in COMMANDS.values() if f"-m {module} " not in listed] == []


LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*READMES, Path("CHANGELOG.md"), Path(".github/CONTRIBUTING.md"), Path("recipes/REFERENCE.md")], ids=str)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    for target, anchor in LINK.findall(FENCED.sub("", (ROOT / page).read_text())):
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{target}#{anchor}: there are {sorted(anchors(file))}"
