"""Thousands of damaged images of every format: each is pixels or one line, in bounded time and memory, and no process dies of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from damage import damaged_image, healthy_images
from support import environment

CI, LONG = 5_000, 200_000


@pytest.mark.slow
@pytest.mark.faults
def test_damaged_images_of_every_format_are_pixels_or_a_line(tmp_path, request):
    number = LONG if request.config.getoption("--faults-long") else CI
    place = tmp_path / "number"
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("decode_damaged.py"), "0", str(number), place],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=1800 if number == LONG else 300,
    )
    assert done.returncode == 0, f"exit code {done.returncode} at damaged image {place.read_text()}\n{done.stderr[-3000:]}"
    found = json.loads(done.stdout)
    sys.stdout.write(done.stdout)
    assert set(found["outcomes"]) == {"jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "pgm", "pbm"}
    for kind, outcomes in found["outcomes"].items():
        assert sum(outcomes.values()) >= number // 60, kind
        assert set(outcomes) == {"decoded", "refused"}, f"{kind}: damage that always or never shows is no attack"
    assert found["slowest"] < 30
    assert found["megabytes"] < 3000


def test_damage_depends_on_its_number_alone():
    sources = healthy_images()
    assert [damaged_image(sources, number) for number in range(60)] == [damaged_image(sources, number) for number in range(60)]
    assert len({damaged_image(sources, number) for number in range(600)}) > 550
