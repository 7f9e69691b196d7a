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
import contextlib, importlib, io, json, sys
libraries, commands = map(json.loads, sys.argv[1:])
import mutual
for module, *words in commands:
    out, err = io.StringIO(), io.StringIO()
    sys.argv[1:] = words
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = importlib.import_module("mutual.__main__" if module == "mutual" else module).main(words)
        except SystemExit as end:
            code = end.code
    imported = [name for name in libraries if name in sys.modules]
    print(json.dumps({"code": code, "out": out.getvalue(), "err": err.getvalue(), "imported": imported}))
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
    return done


def record(*commands):
    """What each command of a process wrote, its exit code, and which libraries are imported after it."""
    lines = python("-c", RECORD, json.dumps(TORCH), json.dumps([[str(word) for word in words] for words in commands])).stdout.splitlines()
    return [json.loads(line) for line in lines]


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


def test_help_imports_no_torch():
    modules = ["mutual", *(module for module, _ in COMMANDS.values())]
    for module, done in zip(modules, record(*([module, "--help"] for module in modules)), strict=True):
        assert (done["code"], done["err"], done["imported"]) == (0, "", []), module
        assert done["out"].startswith(f"usage: {module} ")


MISTAKES = [
    ("mutual.train {recipe} peers.a.modle=x", "peers.a.modle"),
    ("mutual.train {recipe} objectives.0.loss=cross", "objectives.0"),
    ("mutual.train {recipe} seed=one", "seed"),
    ("mutual.train nowhere.yaml", "nowhere.yaml: no such file"),
    ("mutual.train {recipe} peers.a.weights=nowhere.safetensors", "no weights file nowhere.safetensors"),
    ("mutual.train {recipe} peers.a.weights={nothing}", "is a folder; give a weights file, or the folder of a run"),
    (
        "mutual.train {recipe} peers.a.model=program:nowhere.pt2 peers.a.frozen=true peers.a.args={{}}",
        "peers.a.model: no weights file nowhere.pt2",
    ),
    ("mutual.train {recipe} data={{dataset:image_folder,root:nowhere}}", "no folder nowhere/train"),
    ("mutual.train {recipe} data={{dataset:fashion_mnist,root:nowhere}}", "no train-images-idx3-ubyte"),
    ("mutual.train {recipe} data={{dataset:image_list,root:.,train_list:no.txt,val_list:no.txt}}", "no.txt is no file"),
    ("mutual.bench {recipe} peers.b.weights=nowhere.safetensors", "no weights file"),
    ("mutual.store {recipe} peers.a.store.folder=stores/a", "'a' is trained"),
    ("mutual.data.check {recipe} seed=one", "seed"),
    ("mutual.evaluate {nothing}", "is no run folder"),
    ("mutual.evaluate {run} --peer c", "trained no peer 'c'"),
    ("mutual.evaluate {run} data.dataset=image_folder data.root=nowhere", "no folder nowhere/train"),
    ("mutual.evaluate {run} --split test", "a run with data.val=0.1 has those that fake holds out itself"),
    ("mutual.evaluate {run} --split test data.val=0.1", "data.val: the run was trained with null, and on some of the images that"),
    ("mutual.predict {nothing} {image}", "is no run folder"),
    ("mutual.predict {run} nowhere.png", "nowhere.png does not exist"),
    ("mutual.export {nothing}", "is no run folder"),
    ("mutual.report {nothing}", "is no run folder and no comparison"),
    ("mutual.report {run} --output {run}/recipe.yaml", "is no report that mutual.report wrote"),
    ("mutual.compare {recipe} peers.a.modle=x", "peers.a.modle"),
    ("mutual.compare {recipe} train.epochs=1,2 --seeds six", "--seeds: 'six' are no seeds"),
    ("mutual.compare {recipe} peers.a.weights=nowhere.safetensors", "no weights file nowhere.safetensors"),
    ("mutual.compare {recipe} --control indepndent", "--control: 'indepndent' is none; did you mean 'independent'?"),
    ("mutual.compare {recipe} --baseline x", "no arm is called 'x'"),
    ("mutual.compare {run} {recipe}", "give either recipes or run folders"),
    ("mutual.compare {nothing}", "is no run folder and holds none"),
    ("mutual.export {run} --format onxx", "'onxx' is no export format"),
    ("mutual.export {run} --int8", "--int8 is for the ONNX program; add --format onnx"),
    ("mutual.export {run} --temperature warm", "must be `fit`, or a number above 0"),
    ("mutual trian", "'trian' is no command; did you mean 'train'?"),
]


def test_a_mistake_that_needs_no_torch_is_reported_without(trained, tmp_path):
    root = trained[0]
    places = {"recipe": root / "run.yaml", "run": root / "run", "image": root / "image.png", "nothing": tmp_path}
    commands = [
        [word.format(**places).replace(":", ": ") if "{{" in word else word.format(**places) for word in line.split()]
        for line, _ in MISTAKES
    ]
    for (line, message), done in zip(MISTAKES, record(*commands), strict=True):
        assert done["code"] == 2, line
        assert done["imported"] == [], line
        assert message in done["err"], done["err"]
        assert done["err"].count("\n") == 1, done["err"]


def test_training_imports_what_it_uses_when_it_uses_it(trained):
    _, at_first, at_last = trained
    assert {"torch", "accelerate", "torchvision"} <= at_first  # transforms are torchvision's
    assert not {"timm", "torchmetrics", "onnx"} & at_first
    assert "torchmetrics" in at_last
    assert not {"timm", "onnx"} & at_last


def test_commands_on_a_run_import_what_they_use(trained, tmp_path):
    """In one process, so that each may only add to what those before it have imported."""
    run, image = trained[0] / "run", trained[0] / "image.png"
    commands = [["mutual.export", run, "--output", tmp_path / "exported"], ["mutual.predict", run, image], ["mutual.evaluate", run]]
    exported, predicted, evaluated = (done | {"imported": set(done["imported"])} for done in record(*commands))
    assert [done["code"] for done in (exported, predicted, evaluated)] == [0, 0, 0]
    assert not set(LIBRARIES) & exported["imported"]
    assert predicted["imported"] - exported["imported"] <= {"torchvision", "PIL"}
    assert evaluated["imported"] - predicted["imported"] <= {"torchmetrics", "accelerate"}


def test_the_console_script_lists_its_commands_and_hands_over(capsys):
    assert face.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and what in shown for name, (_, what) in COMMANDS.items())
    assert face.main([]) == 2
    with pytest.raises(SystemExit, match="0"):
        face.main(["train", "--help"])
    assert "usage: mutual train [-h]" in capsys.readouterr().out
    assert face.main(["train", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err.startswith("mutual: nowhere.yaml: no such file")


@pytest.mark.slow
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
