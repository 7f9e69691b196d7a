"""A disk that is full, at each write in turn: the training ends with the system's error, and goes on where there is space again."""

from functools import partial

import pytest
import yaml
from attacks import fill_disk, record
from support import digests, run, tiny_document

pytestmark = [pytest.mark.faults, pytest.mark.slow]

RECIPE = tiny_document(
    data={
        "dataset": "digits",
        "image_size": 8,
        "batch_size": 16,
        "eval_batch_size": 71,
        "subset": 80,
        "val": 0.2,
        "augment": [{"name": "random_crop", "padding": 1}],
    },
    peers={"a": {"model": "support:tiny", "args": {"norm": True}}, "b": {"model": "support:tiny", "args": {"dropout": 0.2}}},
    checkpoint={"every_steps": 6, "keep": 2},
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The recipe's file, what the run that nobody disturbed gives, and how many files it writes."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    run("mutual.train", folder / "recipe.yaml", f"output={folder}", prepare=partial(record, folder / "tiny", folder / "log"))
    writes = [line for line in (folder / "log").read_text().splitlines() if line.startswith("write")]
    return folder / "recipe.yaml", digests(folder / "tiny"), len(writes)


def test_a_full_disk_at_each_write(whole, tmp_path):
    """The same process goes on when there is space again: nothing that the failed training held stands in its way."""
    recipe, expected, num_writes = whole
    assert num_writes > 30
    for number in range(1, num_writes + 1):
        output = tmp_path / str(number)
        done = run("disk_full", number, recipe, f"output={output}")
        assert done.stdout.count("No space left on device") == 1, (number, done.stdout)
        assert digests(output / "tiny") == expected, number


@pytest.mark.parametrize("number", [1, 2])
def test_a_checkpoint_that_finds_no_space_ends_all_ranks_with_a_line(tmp_path, number):
    """It is written behind the training of rank 0: that it failed is said at the next one, or at the end."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    arguments = ("mutual.train", tmp_path / "recipe.yaml", f"output={tmp_path}")
    attack = partial(fill_disk, number, "checkpoints/step_/manifest.json")
    done = run(*arguments, processes=2, expect=1, prepare=attack)
    lines = [line for line in done.stderr.splitlines() if line.startswith("mutual: ")]
    assert len(lines) == 1, done.stderr
    assert "No space left on device" in lines[0]
    assert "Traceback" not in done.stderr
    assert len(list(tmp_path.glob("tiny/checkpoints/step_*"))) == number - 1
    assert not list(tmp_path.rglob(".unfinished*"))
    run(*arguments, "--resume", processes=2)
