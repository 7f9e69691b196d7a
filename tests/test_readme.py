"""The README names tests for its promises: each is there."""

import re

from support import ROOT


def test_every_promise_names_a_test_that_exists():
    file, named = "", []
    for path, name in re.findall(r"`(tests/[\w/]+\.py)?::(test_\w+)`", (ROOT / "README.md").read_text()):
        file = path or file
        named.append(name)
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{name}"
    assert len(named) > 15
