"""mutual.data.bench loads the images of recipes in turn, each as a training does."""

import json

import pytest
import yaml
from shard_files import folder_and_shards
from support import tiny_document

from mutual.data.bench import main


@pytest.fixture
def recipes(tmp_path):
    folder_and_shards(tmp_path)
    forms = {
        "files": {"dataset": "image_folder"},
        "shards": {"dataset": "wds/shards/train-*.tar", "val": "shards/val-*.tar"},
        "memory": {"dataset": "digits"},
    }
    paths = []
    for name, data in forms.items():
        paths.append(tmp_path / f"{name}.yaml")
        document = tiny_document(name=name, data={"root": str(tmp_path), "image_size": 8, "batch_size": 4, **data})
        paths[-1].write_text(yaml.safe_dump(document))
    return list(map(str, paths))


def test_recipes_are_measured_beside_the_first(recipes, capsys):
    assert main([*recipes, "--images", "20", "--rounds", "2", "--json"]) == 0
    files, shards, memory = json.loads(capsys.readouterr().out)
    assert (files["ratio"], files["cpu_ratio"], files["read_ratio"]) == (1, 1, 1)
    assert shards["name"] == "shards"
    assert all(value > 0 for key, value in shards.items() if key != "name")
    assert memory["images_per_second"] > 0
    assert (memory["reads_per_second"], memory["read_ratio"]) == (None, None)
    assert main([recipes[2], recipes[0], "data.subset=8", "--images", "1", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["images/s", "memory", "files"]
    assert lines[1].split()[4:] == ["-", "-"]
    assert lines[2].split()[5] == "-"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["files.yaml", "files.yaml"], "recipes of one name (files, files)"),
        (["files.yaml", "data.root=nowhere"], "data: no folder nowhere/train"),
        (["nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_cannot_be_measured_is_one_line(recipes, capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    written = capsys.readouterr()
    assert message in written.err
    assert written.err.count("\n") == 1
    for wrong in ([*recipes, "--rounds", "0"], ["data.root=x"]):
        with pytest.raises(SystemExit) as caught:
            main(wrong)
        assert caught.value.code == 2
