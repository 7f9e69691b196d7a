"""3,000 updates with checkpoints, evaluations and tracking need no more memory and open files than 500."""

import json
from pathlib import Path

import pytest
import yaml
from support import run, tiny_document

UPDATES, EARLY, SPAN = 3000, 500, 100
pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory and open files are read from /proc, which is Linux'"),
]


def test_memory_and_open_files_stay_flat(tmp_path):
    """The most in a span of updates, early and at the end: 2 MB more are 800 bytes an update."""
    document = tiny_document(
        data={"dataset": "digits", "image_size": 8, "batch_size": 2, "eval_batch_size": 71, "subset": 200},
        peers={"a": {"model": "process_models:measured", "args": {"log": str(tmp_path / "log")}}, "b": {"model": "support:tiny"}},
        train={"epochs": UPDATES // 100, "progress": False},
        checkpoint={"every_steps": 100, "keep": 3},
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    run("mutual.train", tmp_path / "recipe.yaml", f"output={tmp_path}")
    measured = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(measured) >= UPDATES, "there may be trials before the first update"
    early, late = measured[EARLY - SPAN : EARLY], measured[-SPAN:]
    files, more_files = (max(each["files"] for each in span) for span in (early, late))
    assert more_files <= files, f"{files} open files after {EARLY} updates, {more_files} after {UPDATES}"
    memory, more_memory = (max(each["bytes"] for each in span) for span in (early, late))
    print(f"{memory / 1e6:.1f} MB after {EARLY} updates, {more_memory / 1e6:.1f} after {UPDATES}; {more_files} open files")  # noqa: T201
    assert more_memory - memory < 2e6, f"{memory:,} bytes after {EARLY} updates, {more_memory:,} after {UPDATES}"
