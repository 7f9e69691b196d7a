"""What a release says of itself is the same everywhere."""

import re

from support import ROOT

import mutual


def test_the_version_is_the_same_in_the_package_the_changelog_and_the_citation():
    released = re.findall(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.findall(r"version = \{(.*?)\}", (ROOT / "README.md").read_text())
    assert released[0] == mutual.__version__
    assert cited == [mutual.__version__]
    assert released == sorted(released, key=lambda version: tuple(map(int, version.split("."))), reverse=True)
