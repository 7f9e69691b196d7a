"""What a process runs on, from made-up texts of /proc."""

import platform

import pytest

from mutual.engine.runtime import installed_version, processor_name

CPUINFO = "processor\t: 0\nvendor_id\t: X\nmodel\t\t: 7\nmodel name\t: Some CPU @ 2.00GHz \n\nprocessor\t: 1\nmodel name\t: another\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (CPUINFO, "Some CPU @ 2.00GHz"),
        ("processor : 0\nBogoMIPS : 50.00\n", "of the system"),
        ("", "of the system"),
        (None, "of the system"),
    ],
)
def test_the_processors_name_is_that_of_its_model_and_else_what_the_system_says(tmp_path, monkeypatch, text, name):
    monkeypatch.setattr(platform, "processor", lambda: "of the system")
    if text is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text(text)
    assert processor_name(tmp_path) == name


def test_a_package_that_is_not_installed_has_no_version():
    assert installed_version("no-package-of-this-name") is None
    assert installed_version("torch")
