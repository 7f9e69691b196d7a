"""Taps in a loop of one's own: whatever a model returns, however it is wrapped, and however it is called."""

import copy

import pytest
import torch
import torch.distributed as dist
from support import TinyNet
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import mutual

IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Parts(nn.Module):
    """Gives its features in a mapping, a tuple within it, and what is no tensor."""

    def forward(self, hidden):
        return {"fine": hidden * 2, "coarse": (hidden.mean(dim=(2, 3)), hidden.amax(dim=(2, 3))), "number": 3, "nothing": None}


class Detector(nn.Module):
    """Changes its stem's output in place, and is called with more than images."""

    def __init__(self, *, inplace=True):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 4, 3)
        self.relu = nn.ReLU(inplace=inplace)
        self.dropout = nn.Dropout(0.5, inplace=inplace)
        self.parts = Parts()
        self.head = nn.Linear(4, 2)

    def forward(self, images, targets=None, *, scale=1.0):
        hidden = self.relu(self.stem(images))
        return self.head(self.parts(hidden)["coarse"][0]) * scale


class Around(nn.Module):
    """A wrapper of no known name."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images)


@pytest.fixture
def model():
    return Detector()


def test_tensors_in_mappings_and_tuples_have_names(model):
    taps = mutual.Taps(model, ["parts", "head:input"])
    logits = model(IMAGES, [{"boxes": None}], scale=2.0)
    outputs = taps.take()
    assert list(outputs) == ["parts:fine", "parts:coarse:0", "parts:coarse:1", "head:input"]
    assert outputs["head:input"] is not None
    torch.testing.assert_close(model.head(outputs["parts:coarse:0"]) * 2, logits)
    assert outputs["parts:fine"].shape == (3, 4, 6, 6)


def test_a_path_may_name_one_of_several_tensors(model):
    with mutual.Taps(model, ["parts:coarse:1", "parts:coarse", "stem"]) as taps:
        model(IMAGES)
        assert list(taps.take()) == ["parts:coarse:1", "parts:coarse:0", "stem"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("parts:fin", r"'parts' gives no 'parts:fin'; did you mean 'parts:fine'\?"),
        ("parts:number", r"'parts' gives no 'parts:number'; choose from|did you mean"),
        ("stem:0", "'stem' gives no 'stem:0'; did you mean 'stem'"),
        ("word", "'word' gives no 'word'; it gives no tensor"),
    ],
)
def test_a_tensor_that_is_not_there_is_said_with_those_that_are(path, message):
    class Word(nn.Module):
        def forward(self, images):
            return "nothing"

    model = Detector()
    model.word = Word()
    taps = mutual.Taps(model, [path])
    model(IMAGES), model.word(IMAGES)
    with pytest.raises(ValueError, match=message):
        taps.take()


def test_an_input_is_the_first_argument():
    around = Around(Detector())
    taps = mutual.Taps(around, ["inner:input"])
    around(IMAGES)
    assert taps.take()["inner:input"].equal(IMAGES)
    around.inner(images=IMAGES)
    with pytest.raises(ValueError, match="'inner' gives no 'inner:input'; it gives no tensor"):
        taps.take()


@pytest.mark.parametrize("path", ["stm", "", "parts.fine", "stem.weight", ":input"])
def test_an_unknown_module_is_refused_before_a_hook_is_there(model, path):
    with pytest.raises(ValueError, match=r"^no module '.*'; near: "):
        mutual.Taps(model, ["head", path])
    assert not any(module._forward_hooks for module in model.modules())


def test_what_has_been_taken_is_kept_no_longer_and_hooks_go(model):
    taps = mutual.Taps(model, ["stem"])
    with pytest.raises(RuntimeError, match=r"^'stem' has not run since the last take\(\): call the model first"):
        taps.take()
    model(IMAGES)
    taps.take()
    with pytest.raises(RuntimeError, match="'stem' has not run"):
        taps.take()
    model(IMAGES)
    taps.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with pytest.raises(RuntimeError, match="'stem' has not run"):
        taps.take()


def test_it_is_neither_in_the_weights_nor_in_the_numbers(model):
    keys, logits = list(model.state_dict()), model.eval()(IMAGES)
    taps = mutual.Taps(model, ["stem", "parts"])
    assert list(model.state_dict()) == keys
    assert model(IMAGES).equal(logits)
    assert model(IMAGES).equal(logits)
    assert taps.take()


def test_an_output_is_as_it_was_before_the_model_changed_it_in_place(model):
    taps = mutual.Taps(model, ["stem", "relu"])
    for _ in range(3):
        model(IMAGES)
        outputs = taps.take()
        assert outputs["stem"].equal(model.stem(IMAGES))
        assert outputs["relu"].equal(model.stem(IMAGES).relu())
    outputs["stem"].sum().backward()
    assert model.stem.bias.grad.allclose(torch.tensor(3 * 36.0))


def test_only_what_is_changed_in_place_is_copied_once_that_is_known():
    model = Detector()
    taps = mutual.Taps(model, ["relu", "stem"])
    seen = {}
    for name in ("relu", "stem"):
        model.get_submodule(name).register_forward_hook(lambda module, inputs, output, name=name: seen.update({name: output}))
    same = []
    for mode in (False, False, True, True):
        model.train(mode)(IMAGES)
        outputs = taps.take()
        same.append((outputs["relu"] is seen["relu"], outputs["stem"] is seen["stem"]))
    assert same == [(False, False), (True, False)] * 2, "in each mode the first forward tells"


def test_a_model_that_begins_to_change_an_output_in_place_is_refused(model):
    model.relu.inplace = False
    taps = mutual.Taps(model, ["stem"])
    model(IMAGES), taps.take()
    model.relu.inplace = True
    model(IMAGES)
    with pytest.raises(RuntimeError, match=r"^the model has changed 'stem' in place, which it did not in earlier forwards"):
        taps.take()


def test_frozen_and_in_eval_mode_and_under_autocast(model):
    taps = mutual.Taps(model.eval(), ["stem"])
    with torch.no_grad():
        model(IMAGES)
    assert not taps.take()["stem"].requires_grad
    with torch.inference_mode():
        model(IMAGES)
    found = taps.take()["stem"]
    assert found.is_inference()
    assert found.equal(model.stem(IMAGES))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(IMAGES)
    assert taps.take()["stem"].dtype == torch.bfloat16


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("is_tapped_first", [True, False])
def test_in_a_compiled_model(model, backend, is_tapped_first):
    torch._dynamo.reset()
    expected = mutual.Taps(copy.deepcopy(model), ["stem", "parts:fine"])
    expected_model = next(iter(expected._modules.values()))
    taps = mutual.Taps(model, ["stem", "parts:fine"]) if is_tapped_first else None
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    taps = taps or mutual.Taps(compiled, ["stem", "parts:fine"])
    for mode in (True, False):
        for _ in range(2):
            compiled.train(mode)(IMAGES).sum().backward()
            outputs = taps.take()
            assert list(outputs) == ["stem", "parts:fine"]
            torch.testing.assert_close(outputs["stem"], expected_model(IMAGES))
            torch.testing.assert_close(outputs["parts:fine"], expected_model(IMAGES).relu() * 2)
    torch._dynamo.reset()


def test_a_compiled_model_that_is_tapped_too_late_says_so(model):
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    compiled(IMAGES)
    taps = mutual.Taps(compiled, ["stem"])
    compiled(IMAGES)
    with pytest.raises(RuntimeError, match=r"'stem' has not run .* a compiled one is tapped before its first call"):
        taps.take()
    torch._dynamo.reset()


def wrapped(model, wrapper, tmp_path):
    if wrapper == "ddp":
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        return nn.parallel.DistributedDataParallel(model)
    return {"average": AveragedModel, "parallel": nn.DataParallel, "compile": lambda model: torch.compile(model, backend="eager")}[wrapper](
        model
    )


@pytest.mark.parametrize("wrapper", ["average", "parallel", "compile", "ddp"])
@pytest.mark.parametrize("is_tapped_first", [True, False])
def test_paths_are_those_of_the_bare_model(model, wrapper, is_tapped_first, tmp_path):
    torch._dynamo.reset()
    try:
        taps = mutual.Taps(model, ["stem"]) if is_tapped_first and wrapper != "average" else None  # an average is a copy
        outer = wrapped(model, wrapper, tmp_path)
        taps = taps or mutual.Taps(outer, ["stem"])
        outer(IMAGES)
        torch.testing.assert_close(taps.take()["stem"], model.stem(IMAGES))
        prefix = "_orig_mod" if wrapper == "compile" else "module"
        whole = mutual.Taps(outer, [f"{prefix}.stem"])
        torch._dynamo.reset()
        outer(IMAGES)
        assert list(whole.take()) == [f"{prefix}.stem"]
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        torch._dynamo.reset()


def test_a_part_that_is_compiled_or_wrapped(model):
    torch._dynamo.reset()
    around = Around(model)
    around.inner = torch.compile(model, backend="eager")
    taps = mutual.Taps(around, ["inner.stem", "inner"])
    logits = around(IMAGES)
    outputs = taps.take()
    assert outputs["inner"].equal(logits)
    torch.testing.assert_close(outputs["inner.stem"], model.stem(IMAGES))
    torch._dynamo.reset()


def test_a_compiled_part_by_itself_is_tapped_around_what_is_compiled_at_any_time(model):
    torch._dynamo.reset()
    around = Around(torch.compile(model, backend="eager"))
    around(IMAGES)
    taps = mutual.Taps(around, ["inner"])
    logits = around(IMAGES)
    assert taps.take()["inner"].equal(logits)
    torch._dynamo.reset()


def test_a_copy_of_the_model_leaves_what_it_gave_alone():
    """The moving average of a tapped model has copies of its hooks."""
    model = TinyNet(4, 1)
    taps = mutual.Taps(model, ["body"])
    average = copy.deepcopy(model)
    model(IMAGES)
    average(IMAGES * 5)
    found = taps.take()["body"]
    model(IMAGES)
    assert found.equal(taps.take()["body"])


def test_a_module_that_runs_again_in_the_backward_changes_nothing_that_was_taken():
    model = Detector(inplace=False)
    taps = mutual.Taps(model, ["stem"])
    hidden = checkpoint(model.stem, IMAGES, use_reentrant=False)
    found = taps.take()["stem"]
    assert found.equal(hidden)
    (hidden.sum() + found.sum()).backward()
    assert model.stem.bias.grad.allclose(torch.tensor(2 * 3 * 36.0))
    model(IMAGES)
    assert taps.take()["stem"].equal(model.stem(IMAGES))
