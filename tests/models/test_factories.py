"""The user's own factories: which may be named, and what becomes of those that fail; pretrained weights without a network."""

import socket
import sys
import urllib.error

import pytest
import torch

from mutual.models import create_model

SOURCE = """
import functools
import sys
from collections import OrderedDict
from torch import nn
from torchvision.models import resnet18
import torch

class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.fc = nn.Linear(4, num_classes)

    def forward(self, images):
        return self.fc(images.flatten(1))

class Maker:
    def __call__(self, num_classes, in_channels):
        return Net(num_classes, in_channels)

class Stateful(Net):
    def get_extra_state(self):
        return {"calls": 1}

def failing(error):
    def factory(num_classes, in_channels):
        raise error
    return factory

maker = Maker()
partial = functools.partial(Net)
imported_partial = functools.partial(resnet18)
key = failing(KeyError("x"))
runtime = failing(RuntimeError("two\\nlines"))
importing = failing(ImportError("no apex"))
leaving = failing(SystemExit(3))
interrupted = failing(KeyboardInterrupt())
memory = failing(MemoryError())
silent = failing(AssertionError())

def meta(num_classes, in_channels):
    return nn.Linear(2, 2, device="meta")

def deep(num_classes, in_channels):
    return deep(num_classes, in_channels)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "own_models"
    sys.modules.pop("own_models", None)


@pytest.mark.parametrize("name", ["Net", "maker", "partial"])
def test_any_callable_of_the_users_own_is_a_factory(module, name):
    assert create_model(f"{module}:{name}", num_classes=3, in_channels=1)(torch.zeros(2, 1, 2, 2)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch.hub:load", "is of torch, not code of yours"),
        ("torchvision.models:resnet18", "is of torchvision"),
        ("timm:create_model", "is of timm"),
        ("logging:basicConfig", "is of Python's standard library"),
        ("os.path:join", "is of Python's standard library"),
        ("builtins:exec", "is of Python's standard library"),
        ("mutual.engine:fit", "is of mutual"),
        ("own_models:resnet18", "is defined in torchvision.models.resnet, not in own_models"),
        ("own_models:imported_partial", "is defined in torchvision.models.resnet"),
        ("own_models:OrderedDict", "is defined in collections"),
        ("own_models:sys", "has no factory 'sys'"),
        ("own_models:Net.fc", "names no factory"),
        (".own_models:Net", "names no factory"),
        ("own_models:", "names no factory"),
    ],
)
def test_a_name_of_a_library_is_no_factory(module, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        create_model(name, num_classes=3)
    assert "\n" not in str(caught.value)


def test_a_librarys_module_is_not_even_imported(monkeypatch):
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"{name} was imported"))
    for name in ("this:net", "antigravity:net", "torch.hub:load"):
        with pytest.raises(ValueError, match="not code of yours"):
            create_model(name, num_classes=3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("key", r"cannot be built with num_classes=3, in_channels=3: KeyError: 'x' \(.*own_models.py:27\)$"),
        ("runtime", "RuntimeError: two "),
        ("importing", "ImportError: no apex"),
        ("leaving", "SystemExit: 3"),
        ("memory", "MemoryError"),
        ("silent", "AssertionError"),
        ("deep", "RecursionError"),
        ("meta", "without values"),
        ("Stateful", "keeps _extra_state in its state"),
    ],
)
def test_whatever_a_factory_raises_is_one_line(module, name, message):
    with pytest.raises(ValueError, match=message) as caught:
        create_model(f"{module}:{name}", num_classes=3)
    assert "\n" not in str(caught.value)


def test_ctrl_c_in_a_factory_goes_through(module):
    with pytest.raises(KeyboardInterrupt):
        create_model(f"{module}:interrupted", num_classes=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import no_such_package_anywhere",
            r"cannot import 'broken': ModuleNotFoundError: No module named 'no_such_package_anywhere' \(.*:1\)",
        ),
        ("1 / 0", r"ZeroDivisionError: division by zero \(.*broken.py:1\)"),
        ("def (", r"SyntaxError: invalid syntax \(broken.py, line 1\)"),
        ("raise SystemExit(1)", "SystemExit: 1"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, text, message):
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        create_model("broken:net", num_classes=3)
    assert "\n" not in str(caught.value)
    sys.modules.pop("broken", None)


def test_the_current_folder_is_searched_only_for_a_factory(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    create_model("small_cnn", num_classes=2)
    for name in ("smal_cnn", "torch.hub:load", "timm/no"):
        with pytest.raises(ValueError, match=r"no model|not code of yours"):
            create_model(name, num_classes=2)
    assert str(tmp_path) not in sys.path


OFFLINE = [
    urllib.error.URLError(socket.gaierror(-3, "Temporary failure in name resolution")),
    TimeoutError("timed out"),
    ConnectionResetError(104, "reset by peer"),
    RuntimeError('invalid hash value (expected "abc")'),
]


@pytest.mark.parametrize("error", OFFLINE)
def test_torchvisions_weights_without_a_network_are_one_line(monkeypatch, tmp_path, error):
    def offline(*_, **__):
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(ValueError, match=r"pretrained weights of torchvision/resnet18 cannot be fetched \(.*weights: FILE") as caught:
        create_model("torchvision/resnet18", num_classes=10, weights="pretrained")
    assert "\n" not in str(caught.value)
    assert socket.getdefaulttimeout() is None


def test_timms_weights_without_a_network_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"pretrained weights of timm/resnet10t cannot be fetched \(.*weights: FILE") as caught:
        create_model("timm/resnet10t", num_classes=10, weights="pretrained")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"timm/resnet10t cannot be built with .*nonsense"):
        create_model("timm/resnet10t", num_classes=10, weights="pretrained", nonsense=1)
