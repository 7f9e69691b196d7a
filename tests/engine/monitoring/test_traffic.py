"""What the charts say of the bytes that ranks send."""

import pytest
import yaml
from support import run, tiny_document
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def charts(folder):
    accumulator = EventAccumulator(str(folder)).Reload()
    return {tag: {event.step: event.value for event in accumulator.Scalars(f"traffic/{tag}")} for tag in ("gradients_mb", "exchange_mb")}


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["replicated", "parallel"])
def test_a_resumed_run_charts_the_traffic_of_an_uninterrupted_one(tmp_path, placement):
    """The first interval after a resume was divided by all updates from the first on."""
    train = {"epochs": 2, "progress": False, "log_every": 1}
    document = tiny_document(train=train, placement=placement, checkpoint={"every_epochs": 1, "keep": 2}, output=str(tmp_path))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    run("mutual.train", tmp_path / "recipe.yaml", processes=2)
    folder = tmp_path / "tiny"
    expected = charts(folder)
    *_, checkpoint = sorted(folder.glob("checkpoints/step_*"))
    for path in [*folder.glob("events.*"), *checkpoint.iterdir()]:
        path.unlink()
    checkpoint.rmdir()
    run("mutual.train", tmp_path / "recipe.yaml", "--resume", processes=2)
    for tag, resumed in charts(folder).items():
        assert resumed, tag
        assert resumed == {step: expected[tag][step] for step in resumed}, tag
