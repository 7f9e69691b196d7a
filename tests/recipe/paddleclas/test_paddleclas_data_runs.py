"""Trainings on the data of PaddleClas' configs, as they are converted."""

import pytest
from data_configs import config_of, converted, write_images

from mutual import fit, load_peer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data_heavy", "data_labels", "data_unlabelled"])
def test_it_is_trained_on(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "data_heavy":
        for part in ("train", "val"):
            text = write_images(tmp_path / "dataset/flowers", [0, 1, 2, 3] * 3, name=part)
            (tmp_path / f"dataset/flowers/{part}.txt").write_text(text)
    elif name == "data_labels":
        for part, folder in (("train", "people"), ("val", "people_val")):
            text = write_images(tmp_path / "dataset" / folder, ["1,0,1", "0,1,0"] * 4, name=part, between="\t")
            (tmp_path / f"dataset/people/{part}.txt").write_text(text)
    else:
        for part, folder, labels in (("train", "labelled", [7, 70, 700, 70] * 2), ("val", "labelled", [700, 7]), ("more", "more", [0] * 6)):
            text = write_images(tmp_path / "dataset" / folder, labels, name=part, between=";")
            (tmp_path / f"dataset/{part}.csv").write_text(text)
    data, _ = converted(config_of(name))
    data |= {"image_size": 16, "batch_size": 4, "workers": 0}
    if name == "data_unlabelled":
        data["epoch_size"] = 14
    if name == "data_heavy":
        (tmp_path / "names.txt").write_text("0 rose\n1 tulip, lale\n2 daisy\n3 aster\n")
        data["class_names"] = "names.txt"
    loss = "bce" if data.get("multi_label") else "cross_entropy"
    peers = {peer: {"model": "small_cnn"} for peer in ("First", "Second")}
    result = fit({"name": "t", "peers": peers, "objectives": [{"loss": loss}], "data": data, "train": {"epochs": 1}, "output": "runs"})
    assert result.metrics
    names = {"data_heavy": ("rose", "tulip, lale", "daisy", "aster"), "data_unlabelled": ("7", "70", "700", "unused 3")}
    assert load_peer("runs/t").card.class_names == names.get(name, ("0", "1", "2"))
