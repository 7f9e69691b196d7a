"""Peers of timm's as timm loads them: the same logits, classes and, where timm can say them, the same transforms."""

import json
import re

import pytest
import timm
import torch
import yaml
from PIL import Image
from support import tiny_document
from timm.data import create_transform, resolve_model_data_config

from mutual import export, train
from mutual.data import build_preprocess, pixels
from mutual.engine.exporting.timm_folder import LOWEST_VERSION, timm_config
from mutual.models import ModelCard, create_model, model_bytes, read_preprocess

KNOWS_FOLDERS = tuple(map(int, re.findall(r"\d+", timm.__version__)[:3])) >= tuple(map(int, LOWEST_VERSION.split(".")))
EXACT = [{"name": "resize", "size": [32, 32], "mode": "exact", "interpolation": "bilinear"}]
ARCHITECTURES = [
    ("resnet10t", 3, {}),
    ("vit_tiny_patch16_224.augreg_in21k", 3, {"img_size": 32, "depth": 1}),
    ("coatnet_pico_rw_224", 3, {"img_size": 32, "window_size": None}),
    ("mobilenetv3_small_050", 1, {}),
    ("resnetv2_50", 1, {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}),
]


def card_of(name, channels, args, **fields):
    fields = {"image_size": (32, 32), "mean": (0.4,), "std": (0.2,), "preprocess": EXACT, "loaded_channels": channels, **fields}
    return ModelCard(f"timm/{name}", 3, channels, class_names=("cat", "a|b", "dog"), args=args, **fields)


def peer(name, channels, args):
    torch.manual_seed(0)
    model = create_model(f"timm/{name}", num_classes=3, in_channels=channels, **args)
    model.train()(torch.randn(4, channels, 32, 32))  # BatchNorm statistics that are not their initial ones
    return model.eval()


@pytest.fixture
def written(tmp_path):
    """Writes a peer's folder and returns what `timm_config` says."""

    def write(model, card):
        config = timm_config(model, card, card.preprocess)
        (tmp_path / "config.json").write_text(json.dumps(config.document))
        (tmp_path / "model.safetensors").write_bytes(model_bytes(model, card))
        return config

    return write


@pytest.mark.parametrize(("name", "channels", "args"), ARCHITECTURES, ids=[each[0] for each in ARCHITECTURES])
def test_timm_loads_a_peer_with_its_logits(written, tmp_path, name, channels, args):
    args = {key: value for key, value in args.items() if value is not None}
    model, card = peer(name, channels, args), card_of(name, channels, args)
    config = written(model, card)
    images = torch.randn(2, channels, 32, 32)
    with torch.no_grad():
        expected = model(images)
        arguments = config.arguments
        by_file = timm.create_model(config.architecture, checkpoint_path=str(tmp_path / "model.safetensors"), **arguments).eval()
        torch.testing.assert_close(by_file(images), expected, rtol=1e-5, atol=1e-5)
        if not KNOWS_FOLDERS:
            pytest.skip(f"timm {timm.__version__} reads no safetensors behind local-dir:")
        loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        torch.testing.assert_close(loaded(images), expected, rtol=1e-5, atol=1e-5)
    assert loaded.num_classes == 3
    assert list(loaded.pretrained_cfg["label_names"]) == ["cat", "a|b", "dog"]
    data = resolve_model_data_config(loaded)
    assert tuple(data["input_size"]) == (channels, 32, 32)
    assert tuple(data["mean"]) == (0.4,) * channels


def resize(size, mode="shorter", interpolation="bilinear"):
    return {"name": "resize", "size": size, "mode": mode, "interpolation": interpolation}


CROP = {"name": "center_crop", "size": 32}


@pytest.mark.parametrize(
    ("steps", "size", "tolerance"),
    [
        (EXACT, (32, 32), 0),
        (EXACT, (50, 40), 2.5),
        ([resize(37), CROP], (60, 48), 2.5),
        ([resize(41, interpolation="bicubic"), CROP], (64, 90), 4.5),
        ([resize(36, mode="exact"), CROP], (50, 40), 2.5),
    ],
)
def test_timms_transforms_are_those_of_the_validation_images(steps, size, tolerance):
    """To the last bit without a change of size; else torch and Pillow differ by a few of 255 values."""
    card = card_of("resnet10t", 3, {}, preprocess=steps)
    config = timm_config(torch.nn.Identity(), card, steps)
    assert config.note == ""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=generator) * 255, size, mode="bicubic").clamp(0, 255)
    image = Image.fromarray(smooth[0].byte().permute(1, 2, 0).contiguous().numpy())
    ours = card.input(build_preprocess(read_preprocess(steps), channels=3, image_size=(32, 32))(pixels(image, 3))[None])[0]
    found = create_transform(**resolve_model_data_config(torch.nn.Identity(), pretrained_cfg=config.document["pretrained_cfg"]))(image)
    assert (found - ours).abs().max() <= tolerance / 255 / 0.2 + 1e-6


@pytest.mark.parametrize(
    "steps", [[resize(37)], [CROP], [resize(37), {"name": "center_crop", "size": 36}], [resize(40, mode="exact")], [resize(37), CROP, CROP]]
)
def test_where_timms_transforms_differ_a_line_says_so(steps):
    note = timm_config(torch.nn.Identity(), card_of("resnet10t", 3, {}, preprocess=steps), steps).note
    assert note.startswith("timm brings images to 32 x 32 at once; ")


@pytest.mark.slow
def test_a_run_with_a_peer_of_timms_is_exported_for_timm(tmp_path, monkeypatch, capsys):
    document = tiny_document(
        data={"dataset": "fake", "num_train": 16, "num_val": 8, "image_size": 32, "channels": 3, "num_classes": 3, "batch_size": 8},
        peers={"a": {"model": "timm/resnet10t"}, "b": {"model": "small_cnn"}},
        train={"epochs": 1, "progress": False},
    )
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(document))
    assert train.main([str(tmp_path / "tiny.yaml"), f"output={tmp_path}"]) == 0
    for peer_name in "ba":
        assert export.main([str(tmp_path / "tiny"), "--peer", peer_name]) == 0
    folder = tmp_path / "tiny" / "export"
    assert not (folder / "b-timm").exists()
    assert {path.name for path in (folder / "a-timm").iterdir()} == {"README.md", "config.json", "model.safetensors", "recipe.yaml"}
    assert (folder / "a-timm" / "model.safetensors").read_bytes() == (folder / "a.safetensors").read_bytes()
    page = (folder / "a-timm" / "README.md").read_text()
    assert "library_name: timm\n" in page
    program = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0 if KNOWS_FOLDERS else 1]
    monkeypatch.chdir(folder / "a-timm")
    Image.new("RGB", (40, 50), (10, 200, 30)).save("image.png")
    exec(f"import timm\n{program}")
    with (folder / "a-timm" / "config.json").open("a") as file:
        file.write("\n")
    assert export.main([str(tmp_path / "tiny"), "--peer", "a"]) == 2
    assert "config.json is there already, and not as an export wrote it" in capsys.readouterr().err
