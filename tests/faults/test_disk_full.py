"""A disk that is full, at each write in turn: the training ends with the system's error, and goes on where there is space again."""

from functools import partial

import pytest
import yaml
from attacks import record
from support import digests, run, tiny_document

pytestmark = [pytest.mark.faults, pytest.mark.slow]

RECIPE = tiny_document(
    data={
        "dataset": "digits",
        "image_size": 8,
        "batch_size": 16,
        "eval_batch_size": 71,
        "subset": 80,
        "augment": [{"name": "random_crop", "padding": 1}],
    },
    peers={"a": {"model": "support:tiny", "args": {"norm": True}}, "b": {"model": "support:tiny", "args": {"dropout": 0.2}}},
    checkpoint={"every_steps": 3, "keep": 2},
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
