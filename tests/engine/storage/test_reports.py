"""Reports replace and remove reports, and nothing else."""

import os

import pytest
from support import tiny_document

from mutual.engine.storage import REPORT_MARK, RunFolder, is_report, write_report
from mutual.recipe import InputError, parse_recipe

OURS = f"<!doctype html><head>{REPORT_MARK.decode()}</head>"


def test_a_report_replaces_a_report(tmp_path):
    file = tmp_path / "new" / "report.html"
    write_report(file, OURS)
    write_report(file, f"{OURS}again")
    assert file.read_text() == f"{OURS}again"
    assert [path.name for path in file.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize("content", ["", "mine", f"{' ' * 3_000}{OURS}"])
def test_another_file_is_left_alone(tmp_path, content):
    file = tmp_path / "report.html"
    file.write_text(content)
    with pytest.raises(InputError, match=r"report.html is no report that mutual.report wrote.*give another file, --output FILE.html"):
        write_report(file, OURS)
    assert file.read_text() == content


def test_folders_links_and_pipes_are_left_alone(tmp_path):
    (tmp_path / "folder").mkdir()
    write_report(tmp_path / "target", OURS)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "link", "dangling", "pipe"):
        assert not is_report(tmp_path / name)
        with pytest.raises(InputError, match="give another file"):
            write_report(tmp_path / name, OURS)


@pytest.mark.parametrize(("content", "is_left"), [(OURS, False), ("mine", True)])
def test_overwrite_removes_a_report_and_no_other_file(tmp_path, content, is_left):
    recipe = parse_recipe(tiny_document(output=str(tmp_path)))
    folder = RunFolder.of(recipe)
    folder.initialize(recipe, {})
    (folder.path / "report.html").write_text(content)
    folder.clear()
    assert (folder.path / "report.html").exists() is is_left
    assert not (folder.path / "recipe.yaml").exists()
