"""`weights: pretrained` for PaddleClas' models: fetched once from where it publishes them, whole, or not at all."""

import contextlib
import http.server
import socket
import threading

import pytest
import torch
from paddle_files import formula_state, paddle_shapes, write_pdparams
from support import tiny_document

from mutual.group import DataSpec, create_peer_model
from mutual.models import ModelInput, create_model, declared_input, pretrained_classes
from mutual.models.zoo import MODELS
from mutual.recipe import parse_recipe

ADDRESS = "mutual.models.paddleclas.published.ADDRESS"


@pytest.fixture(scope="module")
def theirs():
    """Published weights of the smallest PP-LCNet, as Paddle has them."""
    with torch.device("meta"):
        shapes = paddle_shapes(MODELS["pplcnet_x0_25"](num_classes=1000))
    return formula_state(shapes)


@pytest.fixture
def published(tmp_path, monkeypatch, theirs):
    folder = tmp_path / "published"
    folder.mkdir()
    write_pdparams(folder / "PPLCNet_x0_25_pretrained.pdparams", theirs)
    write_pdparams(folder / "PPLCNet_x0_25_ssld_pretrained.pdparams", {**theirs, "fc.bias": theirs["fc.bias"] + 1})
    monkeypatch.setattr(ADDRESS, f"{folder.as_uri()}/")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    return folder


def cached(tmp_path):
    return sorted(path.name for path in (tmp_path / "hub" / "hub" / "checkpoints").iterdir())


def test_they_are_fetched_once_into_torchs_hub(published, tmp_path, theirs):
    model = create_model("pplcnet_x0_25", num_classes=None, weights="pretrained")
    assert model.fc.out_features == 1000
    torch.testing.assert_close(model.fc.weight, torch.from_numpy(theirs["fc.weight"]).T * 0.8)
    assert torch.equal(model.fc.bias, torch.from_numpy(theirs["fc.bias"]))
    assert cached(tmp_path) == ["PPLCNet_x0_25_pretrained.pdparams"]
    (published / "PPLCNet_x0_25_pretrained.pdparams").unlink()
    assert torch.equal(create_model("pplcnet_x0_25", num_classes=1000, weights="pretrained").fc.weight, model.fc.weight)


def test_those_that_were_distilled(published, tmp_path, theirs):
    model = create_model("pplcnet_x0_25", num_classes=None, weights="pretrained", use_ssld=True)
    assert torch.equal(model.fc.bias, torch.from_numpy(theirs["fc.bias"] + 1))
    assert cached(tmp_path) == ["PPLCNet_x0_25_ssld_pretrained.pdparams"]
    assert create_model("pplcnet_x0_25", num_classes=3, use_ssld=True).fc.out_features == 3, "as a card of such a peer says"


def test_other_classes_channels_and_no_classifier(published, theirs):
    conv = torch.from_numpy(theirs["conv1.conv.weight"])
    model = create_model("pplcnet_x0_25", num_classes=7, in_channels=1, weights="pretrained")
    assert model.fc.out_features == 7
    torch.testing.assert_close(model.conv1.conv.weight, conv.sum(1, keepdim=True))
    bare = create_model("pplcnet_x0_25", num_classes=0, weights="pretrained")
    assert torch.equal(bare.conv1.conv.weight, conv)
    assert bare(torch.zeros(2, 3, 32, 32)).shape == (2, 1280)


def test_a_frozen_peer_keeps_its_classifier_and_its_input(published):
    peers = {"a": {"model": "support:tiny"}, "t": {"model": "pplcnet_x0_25", "weights": "pretrained", "frozen": True}}
    document = tiny_document(peers=peers, objectives=[{"loss": "cross_entropy"}])
    data = DataSpec(2, ("goldfish", "tench"), ModelInput((16, 16), (0.5,), (0.5,)))
    peer = create_peer_model(parse_recipe(document), "t", data)
    assert peer.classes.columns == (1, 0)
    assert (peer.input.size, peer.input.mean, peer.input.channels) == ((224, 224), (0.485, 0.456, 0.406), 3)


def test_a_trained_peer_takes_nothing_from_the_input_of_a_frozen_one(published):
    weights = {"model": "pplcnet_x0_25", "weights": "pretrained"}
    document = tiny_document(peers={"a": weights, "t": {**weights, "frozen": True}}, objectives=[{"loss": "cross_entropy"}])
    data = DataSpec(2, ("goldfish", "tench"), ModelInput((16, 16), (0.5,), (0.5,)))
    sizes = [create_peer_model(parse_recipe(document), name, data).input.size for name in ("a", "t")]
    assert sizes == [(16, 16), (224, 224)], "it is trained at the data's size, the frozen one reads what its weights were trained for"


def test_their_classes_and_input_are_imagenets():
    assert pretrained_classes("paddleclas/ResNet50_vd") == pretrained_classes("torchvision/resnet50")
    assert declared_input("pplcnet_x1_0", torch.nn.Identity(), {}, pretrained=True, with_weights=True)["size"] == (224, 224)
    assert declared_input("pplcnet_x1_0", torch.nn.Identity(), {}, pretrained=False, with_weights=True) == {}


@pytest.mark.parametrize("name", ["paddleclas/ResNet18", "pplcnet_x2_5"])
def test_what_is_not_published_or_not_reached_is_one_line(published, tmp_path, name):
    with pytest.raises(ValueError, match=rf"pretrained weights of {name} cannot be fetched \(URLError.*weights: FILE") as caught:
        create_model(name, num_classes=10, weights="pretrained")
    assert "\n" not in str(caught.value)
    assert socket.getdefaulttimeout() is None
    assert cached(tmp_path) == []


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def answering(handler, monkeypatch):
    """Weights are fetched from a server on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(ADDRESS, f"http://127.0.0.1:{server.server_port}/")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


class Endless(Quiet):
    """Answers without an end."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):  # whoever asks has gone
            while True:
                self.wfile.write(bytes(2**16))


def test_an_answer_without_an_end_does_not_fill_the_disk(published, tmp_path, monkeypatch):
    monkeypatch.setattr("mutual.models.paddleclas.published._MOST_BYTES", 2**22)
    message = r"pplcnet_x0_25 cannot be fetched \(OSError: .* is larger than any weights file there"
    with answering(Endless, monkeypatch), pytest.raises(ValueError, match=message):
        create_model("pplcnet_x0_25", num_classes=10, weights="pretrained")
    assert cached(tmp_path) == []


class Server(Quiet):
    """Answers with half a file, or not at all."""

    content = b""

    def do_GET(self):
        if "ssld" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: len(self.content) // 2])


def test_half_a_file_is_not_kept(published, tmp_path, monkeypatch):
    monkeypatch.setattr(Server, "content", (published / "PPLCNet_x0_25_pretrained.pdparams").read_bytes())
    with answering(Server, monkeypatch):
        with pytest.raises(ValueError, match=r"pplcnet_x0_25 cannot be fetched \(.*no whole weights file"):
            create_model("pplcnet_x0_25", num_classes=10, weights="pretrained")
        with pytest.raises(ValueError, match=r"pplcnet_x0_25 cannot be fetched \(HTTPError: HTTP Error 404"):
            create_model("pplcnet_x0_25", num_classes=10, weights="pretrained", use_ssld=True)
    assert cached(tmp_path) == []


def test_published_weights_of_another_model_are_no_silent_beginning(published):
    published.joinpath("PPLCNet_x0_35_pretrained.pdparams").write_bytes((published / "PPLCNet_x0_25_pretrained.pdparams").read_bytes())
    with pytest.raises(ValueError, match=r"PPLCNet_x0_35_pretrained\.pdparams: tensors have other shapes"):
        create_model("pplcnet_x0_35", num_classes=1000, weights="pretrained")
