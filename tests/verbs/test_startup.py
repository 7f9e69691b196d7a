"""What a command imports: torch only where it computes, and of the libraries on it only what it uses; and the face `mutual COMMAND`."""

import json
import subprocess
import sys

import pytest
import yaml
from PIL import Image
from support import ROOT, environment, tiny_document

from mutual import __main__ as face
from mutual.__main__ import COMMANDS

LIBRARIES = ("torchvision", "timm", "torchmetrics", "accelerate", "tensorboard", "onnx", "fsspec")
TORCH = ("torch", "numpy", "PIL", "tqdm", "safetensors", *LIBRARIES)
RECORD = """
import atexit, json, runpy, sys
place, module, sys.argv[1:] = sys.argv[1], sys.argv[2], sys.argv[3:]
atexit.register(lambda: open(place, "w").write(json.dumps(sorted(sys.modules))))
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
FIT = """
import json, sys
import mutual

class Record(mutual.Callback):
    def update(self, state):
        if state.update == 1:
            print(json.dumps(sorted(sys.modules)))

mutual.fit(mutual.load_recipe(sys.argv[1]), callbacks=[Record()])
print(json.dumps(sorted(sys.modules)))
"""


def python(*arguments, expect=0):
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, done.stdout + done.stderr
    assert expect != 2 or len(done.stderr.splitlines()) == 1, done.stderr
    return done


def modules_of(tmp_path, module, *arguments, expect=0):
    """What is imported where `python -m module` ends, and what it wrote."""
    done = python("-c", RECORD, tmp_path / "modules.json", module, *arguments, expect=expect)
    return set(json.loads((tmp_path / "modules.json").read_text())), done


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder, an image, and the modules after the first update and after the last."""
    root = tmp_path_factory.mktemp("startup")
    peer = {"model": "small_cnn", "args": {"widths": [4, 4, 4, 4]}}
    document = tiny_document(name="run", output=str(root), peers={"a": peer, "b": peer}, train={"epochs": 1, "progress": False})
    (root / "run.yaml").write_text(yaml.safe_dump(document))
    Image.new("L", (8, 8)).save(root / "image.png")
    lines = python("-c", FIT, root / "run.yaml").stdout.splitlines()
    return root, *(set(json.loads(line)) for line in lines if line.startswith("["))


def test_the_package_itself_imports_next_to_nothing():
    done = python("-c", "import sys, mutual; print(*sys.modules)")
    assert not {*TORCH, "pydantic", "yaml"} & set(done.stdout.split())


@pytest.mark.parametrize("module", ["mutual", *(module for module, _ in COMMANDS.values())])
def test_help_imports_no_torch(tmp_path, module):
    modules, done = modules_of(tmp_path, module, "--help")
    assert done.stdout.startswith(f"usage: {module}")
    assert not modules & set(TORCH)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mutual.train", "{recipe}", "peers.a.modle=x"], "peers.a.modle"),
        (["mutual.train", "{recipe}", "objectives.0.loss=cross"], "objectives.0"),
        (["mutual.train", "{recipe}", "seed=one"], "seed"),
        (["mutual.train", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["mutual.train", "{recipe}", "peers.a.weights=nowhere.safetensors"], "peers.a.weights = 'nowhere.safetensors': no weights file"),
        (["mutual.train", "{recipe}", "data.dataset=image_folder", "data.root=nowhere"], "no folder nowhere/train"),
        (["mutual.train", "{recipe}", "data.dataset=fashion_mnist", "data.root=nowhere"], "no train-images-idx3-ubyte"),
        (
            ["mutual.train", "{recipe}", "data.dataset=image_list", "data.root=.", "data.train_list=no.txt", "data.val_list=no.txt"],
            "no.txt is no file",
        ),
        (["mutual.bench", "{recipe}", "peers.b.weights=nowhere.safetensors"], "no weights file"),
        (["mutual.data.check", "{recipe}", "seed=one"], "seed"),
        (["mutual.evaluate", "{nothing}"], "is no run folder"),
        (["mutual.evaluate", "{run}", "--peer", "c"], "trained no peer 'c'"),
        (["mutual.evaluate", "{run}", "data.dataset=image_folder", "data.root=nowhere"], "no folder nowhere/train"),
        (["mutual.predict", "{nothing}", "{image}"], "is no run folder"),
        (["mutual.predict", "{run}", "nowhere.png"], "nowhere.png does not exist"),
        (["mutual.export", "{nothing}"], "is no run folder"),
        (["mutual", "trian"], "'trian' is no command; did you mean 'train'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_that_needs_no_torch_is_told_without(trained, tmp_path, words, message):
    root = trained[0]
    places = {"recipe": root / "run.yaml", "run": root / "run", "image": root / "image.png", "nothing": tmp_path}
    modules, done = modules_of(tmp_path, *(word.format(**places) for word in words), expect=2)
    assert message in done.stderr
    assert not modules & set(TORCH)


def test_training_imports_what_it_uses_when_it_uses_it(trained):
    _, at_first, at_last = trained
    assert {"torch", "accelerate", "torchvision"} <= at_first  # transforms are torchvision's
    assert not {"timm", "torchmetrics", "onnx", "fsspec"} & at_first
    assert "torchmetrics" in at_last
    assert not {"timm", "onnx", "fsspec"} & at_last


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["mutual.evaluate", "{run}"], {"timm", "tensorboard", "onnx", "fsspec"}),
        (["mutual.predict", "{run}", "{image}"], {"timm", "torchmetrics", "accelerate", "tensorboard", "onnx", "fsspec"}),
        (["mutual.export", "{run}", "--output", "{exported}"], {*LIBRARIES, "PIL"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_on_a_run_import_what_they_use(trained, tmp_path, words, absent):
    places = {"run": trained[0] / "run", "image": trained[0] / "image.png", "exported": tmp_path / "exported"}
    modules, _ = modules_of(tmp_path, *(word.format(**places) for word in words))
    assert "torch" in modules
    assert not modules & absent


def test_the_console_script_lists_its_commands_and_hands_over(capsys):
    assert face.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and what in shown for name, (_, what) in COMMANDS.items())
    assert face.main([]) == 2
    with pytest.raises(SystemExit, match="0"):
        face.main(["train", "--help"])
    assert "usage: mutual train [-h]" in capsys.readouterr().out
    assert face.main(["train", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == "mutual: nowhere.yaml: no such file\n"


def test_both_faces_end_alike_under_torchrun(trained, tmp_path):
    """Two processes that are started as `torchrun --no-python mutual train RECIPE` join, and say a mistake once."""
    script = tmp_path / "mutual"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom mutual.__main__ import main\nsys.exit(main())\n")
    script.chmod(0o755)
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "--no-python",
        script,
        "train",
        trained[0] / "run.yaml",
    ]
    assert "2 processes on cpu" in python(*launch, f"output={tmp_path}").stdout
    done = python(*launch, "seed=one", expect=1)  # the launcher's own code
    assert done.stderr.count("mutual: ") == 1
    assert "exitcode  : 2" in done.stderr
