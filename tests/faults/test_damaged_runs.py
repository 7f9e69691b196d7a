"""Every file of a run folder truncated, flipped, emptied, deleted or swapped, under every verb: the right answer, or one line."""

import hashlib
import json
import shutil

import pytest
import yaml
from PIL import Image
from support import tiny_document

from mutual import compare, evaluate, export, predict, train

pytestmark = [pytest.mark.faults, pytest.mark.slow]

DOCUMENT = tiny_document(
    data={"dataset": "digits", "subset": 60, "batch_size": 20, "eval_batch_size": 400},
    peers={name: {"model": "small_cnn", "args": {"widths": [width, 8], "strides": [2, 2]}} for name, width in (("a", 4), ("b", 6))},
    optimizer={"name": "adam", "lr": 0.01},
    train={"epochs": 3, "progress": False, "ema": 0.9},
    checkpoint={"every_steps": 2, "keep": 3},
)


def weights(folder):
    """What a finished run is judged by."""
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*/*.safetensors")}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return found, (folder / "best" / "best.json").read_text(), [line["eval"] for line in lines]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished run, `cut`, which has an epoch to go, and an image."""
    place = tmp_path_factory.mktemp("damage")
    (place / "r.yaml").write_text(yaml.safe_dump(DOCUMENT))
    assert train.main([str(place / "r.yaml"), f"output={place}"]) == 0
    shutil.copytree(place / "tiny", place / "cut" / "tiny")
    newest = sorted((place / "cut" / "tiny" / "checkpoints").iterdir())[-1]
    shutil.rmtree(newest)
    Image.new("L", (8, 8), 99).save(place / "image.png")
    return place


def resumed(folder, place):
    code = train.main([str(place / "r.yaml"), f"output={folder.parent}", "--resume"])
    return code, weights(folder) if code == 0 else None


def exported(folder, place):
    output = folder.parent / "exported"
    code = export.main([str(folder), "--peer", "a", "--output", str(output)])
    return code, (output / "a.safetensors").read_bytes() if code == 0 else None


VERBS = {
    "evaluate": lambda folder, _: (evaluate.main([str(folder), "--json"]), None),
    "predict": lambda folder, place: (predict.main([str(folder), str(place / "image.png"), "--peer", "b", "--json"]), None),
    "export": exported,
    "resume": resumed,
    "compare": lambda folder, _: (compare.main([str(folder), "--json"]), None),
}


def truncated(path, _):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path, _):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def emptied(path, _):
    path.write_bytes(b"")


def deleted(path, _):
    path.unlink()


def swapped(path, files):
    """With the next file of the folder."""
    other = next((other for other in files if other.parent == path.parent and other > path), files[0])
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def made_a_folder(path, _):
    path.unlink()
    path.mkdir()


DAMAGES = [truncated, flipped, emptied, deleted, swapped, made_a_folder]


def answer(command, folder, place, capsys):
    capsys.readouterr()
    code, result = VERBS[command](folder, place)
    out, err = capsys.readouterr()
    return code, (result, out.replace(str(folder), "") if command in ("evaluate", "predict", "compare") else None), err


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.parametrize("command", VERBS)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_gives_the_right_answer_or_a_line(place, tmp_path, capsys, command, damage):
    source = place / "cut" / "tiny" if command == "resume" else place / "tiny"
    shutil.copytree(source, tmp_path / "whole" / "tiny")
    code, expected, _ = answer(command, tmp_path / "whole" / "tiny", place, capsys)
    assert code == 0
    files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    if command != "resume":
        files = [file for file in files if file.parts[0] != "checkpoints"]
    reported = 0
    for number, file in enumerate(files):
        folder = shutil.copytree(source, tmp_path / str(number) / "tiny")
        damage(folder / file, [folder / each for each in files])
        code, found, err = answer(command, folder, place, capsys)
        if code == 0 and "is determined again" in err:  # best weights that are lost are told of, and the run goes on without them
            assert file.parts[0] == "best", f"{damage.__name__} {file}: {err}"
            reported += 1
        elif code == 0:
            assert found == expected, f"{damage.__name__} {file}: another answer, and nobody was told"
        else:
            lines = err.splitlines()
            assert code in (1, 2), file
            assert lines, f"{damage.__name__} {file}: nothing was told"
            assert all(line.startswith("mutual: ") for line in lines), f"{damage.__name__} {file}: {err}"
            assert "Traceback" not in err
            reported += 1
    assert reported, "some damage was noticed"
    assert len(files) >= 7
