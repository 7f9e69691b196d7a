"""Losses of the user's own: what their signatures and `@mutual.loss` say, and how they compute."""

import re

import own_losses
import pytest
import torch
import torch.nn.functional as F

import mutual
from mutual.objectives import Predictions, build_loss, import_loss, spec_of

SHAPES = {"learner_shape": (5,), "source_shape": (5,)}


@pytest.fixture
def ends():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(6, 5, generator=generator).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize(
    ("name", "inputs"),
    {
        "kd": ("learner", "source"),
        "kd_masked": ("learner", "source", "mask"),
        "kd_at_two": ("learner", "source"),
        "wsl": ("learner", "source", "labels"),
        "cross_entropy": ("learner", "labels"),
        "Hint": ("learner", "source"),
        "Centres": ("learner", "classes"),
        "Contrast": ("learner", "source", "classes", "row_offset", "mask"),
        "similarity": ("learner", "source", "row_offset", "num_rows", "mask"),
        "swapped": ("source", "learner"),
        "called": ("learner", "source"),
    }.items(),
)
def test_the_first_parameters_say_what_is_read(name, inputs):
    spec = spec_of(f"own_losses:{name}")
    assert spec.inputs == inputs
    assert spec.has_adapter == isinstance(getattr(own_losses, name), type)
    assert (spec.reads_source, spec.reads_labels) == ("source" in inputs, bool({"labels", "classes"} & {*inputs}))


def test_what_is_declared_is_what_is_read():
    declared = import_loss("own_losses:sum_of_outputs")
    assert (declared.spec.multi_output, declared.spec.on_logits, declared.traits.reads) == (True, False, "maps")
    together = import_loss("own_losses:kd_together")
    assert (together.spec.on_logits, together.traits.reads, together.traits.label_type) == (True, "logits", "single")
    assert import_loss("own_losses:Centres").traits.label_type == "single", "classes are of images with one class each"
    assert import_loss("own_losses:swapped").spec.per_image is True


MISTAKES = {
    "own_losses:nope": "'own_losses:nope': own_losses has no loss 'nope'; ",
    "own_losses:without_learner": "'own_losses:without_learner' has no `learner` among its first parameters; they are called as what",
    "own_losses:argument_first": "'own_losses:argument_first': what a loss reads comes first, before its arguments, and 'learner' does not",
    "own_losses:input_last": "'own_losses:input_last': what a loss reads comes first, before its arguments, and 'source' does not",
    "own_losses:input_after": "'own_losses:input_after': what a loss reads comes first, before its arguments, and 'labels' does not",
    "own_losses:by_keyword": "'own_losses:by_keyword': what a loss reads comes first, before its arguments, and 'learner' does not",
    "own_losses:of_rows": "'own_losses:of_rows' reads num_rows without row_offset, where those rows begin",
    "own_losses:too_few": "'own_losses:too_few' is declared to read learner, source, labels, and takes 2 of them",
    "own_losses:TogetherModule": "'own_losses:TogetherModule': on_logits is for functions; a module is called for one edge at a time",
    "own_losses:together_gathered": "'own_losses:together_gathered': on_logits computes pairs of one process together, and row_offset asks",
    "own_losses:NoModule": "'own_losses:NoModule' is a class, and no torch.nn.Module; write a function or a module class",
    "own_losses:made": "'own_losses:made' is a module that is there already, whose weights no learner would have of its own; name",
    "torch.nn.functional:mse_loss": "'torch.nn.functional:mse_loss' is of torch, not code of yours; write a function of your own",
    "own_losses:ours_similarity": "'own_losses:ours_similarity' is defined in mutual.objectives.relation, not in own_losses; name",
    "no_losses:fn": "'no_losses:fn': cannot import 'no_losses' (No module named 'no_losses'); run from the folder that holds it",
    "own_losses:a:b": "'own_losses:a:b' names no loss; write package.module:loss",
}


@pytest.mark.parametrize(("name", "line"), MISTAKES.items())
def test_what_is_no_loss_is_refused_in_a_line(name, line):
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        build_loss(name, **SHAPES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"reads": ("learner", "sauce")}, "@loss: 'sauce' is nothing that a loss reads; did you mean 'source'?"),
        ({"label_type": "several"}, "@loss: 'several' is no label_type; choose from any, multi, single"),
        ({"outputs": "map"}, "@loss: 'map' is no outputs; did you mean 'maps'?"),
        ({"on_logits": True, "multi_output": True}, "@loss: on_logits is for one output of each end, and multi_output for several"),
    ],
)
def test_a_wrong_declaration_is_refused_where_it_stands(arguments, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        mutual.loss(**arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("kd", {"temprature": 2}, "own_losses:kd takes no argument 'temprature'; did you mean 'temperature'?"),
        ("kd", {"learner": 2}, "own_losses:kd takes no argument 'learner'"),
        ("needy", {}, "own_losses:needy needs the argument 'temperature': write args: {temperature: ...}"),
        ("Hint", {"width": 2}, "own_losses:Hint takes no argument 'width'"),
        ("Hint", {"source_shape": (2,)}, None),
        ("BrokenModule", {}, "own_losses:BrokenModule cannot be built with learner_shape=(5,), source_shape=(5,): needs a smaller net ("),
        ("kd_together", {"learner_shape": (3, 2, 2)}, "compares predictions [C]: take the logits, or a distance between features (l2)"),
        ("sum_of_outputs", {"learner_shape": [(3,)], "source_shape": [(3,)]}, "needs feature maps [C, H, W]"),
    ],
)
def test_wrong_arguments_are_refused_in_a_line(name, arguments, line):
    if line is None:
        with pytest.raises(ValueError, match="'source_shape' is not for args; it is the shape of what the loss reads"):
            import_loss(f"own_losses:{name}").build_adapter(arguments, learner_shape=(5,), source_shape=(5,))
        return
    with pytest.raises(ValueError, match=re.escape(line)):
        build_loss(f"own_losses:{name}", **{**SHAPES, **arguments})


def test_a_module_is_told_the_shapes_and_needs_them():
    with pytest.raises(ValueError, match=re.escape("own_losses:Hint has a trainable part: give learner_shape and source_shape, without")):
        build_loss("own_losses:Hint")
    with pytest.raises(ValueError, match=re.escape("own_losses:Centres has a trainable part: give learner_shape, without the batch")):
        build_loss("own_losses:Centres")
    hint = build_loss("own_losses:Hint", learner_shape=[3, 4, 4], source_shape=[2, 4, 4])
    assert hint.adapter.module.regressor.weight.shape == (2, 3, 1, 1)
    assert build_loss("own_losses:Centres", learner_shape=(3, 4, 4), num_classes=7).adapter.module.centres.shape == (7, 3)


@pytest.mark.parametrize("name", ["kd", "kd_together", "kd_mean", "kd_masked", "swapped"])
def test_a_loss_written_anew_is_ours(name, ends):
    loss, ours = build_loss(f"own_losses:{name}"), build_loss("kd")
    torch.testing.assert_close(loss(*ends), ours(*ends))
    torch.testing.assert_close(loss.compute(*ends).mean(), ours(*ends))


def test_arguments_reach_the_function(ends):
    expected = build_loss("kd", temperature=2.0)(*ends)
    torch.testing.assert_close(build_loss("own_losses:kd", temperature=2.0)(*ends), expected)
    torch.testing.assert_close(build_loss("own_losses:kd_at_two")(*ends), expected)
    assert repr(build_loss("own_losses:kd", temperature=2.0)) == "Loss(kd, temperature=2.0)"
    assert repr(build_loss("own_losses:kd_at_two")) == "Loss(partial)"


@pytest.mark.parametrize("name", ["kd", "kd_together", "Precise", "greedy"])
def test_the_source_is_detached(name, ends):
    own_losses.seen.clear()
    build_loss(f"own_losses:{name}", **SHAPES)(*ends).backward()
    assert ends[1].grad is None
    assert ends[0].grad.abs().sum() > 0
    assert True not in own_losses.seen, "its source asks for no gradient"


@pytest.mark.parametrize("name", ["dtype_of", "Precise"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_loss_computes_in_float32_under_autocast(name, dtype, ends):
    loss = build_loss(f"own_losses:{name}", **SHAPES)
    halves = [each.detach().to(dtype) for each in ends]
    own_losses.seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(*halves)
    assert own_losses.seen == [(torch.float32, torch.float32, False, torch.float32)]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(*(each.float() for each in halves)))


def test_a_loss_for_each_image_leaves_out_what_does_not_count(ends):
    mask, labels = torch.arange(6) > 2, torch.arange(6) % 5
    loss = build_loss("own_losses:cross_entropy", label_smoothing=0.1)
    expected = F.cross_entropy(ends[0][3:], labels[3:], label_smoothing=0.1) / 2
    torch.testing.assert_close(loss(ends[0], None, labels, mask=mask), expected)
    own, ours = build_loss("own_losses:kd_masked"), build_loss("kd")
    torch.testing.assert_close(own(*ends, mask=mask), ours(*ends, mask=mask))


def test_pairs_are_computed_together_as_each_by_itself(ends):
    own, ours = build_loss("own_losses:kd_together"), build_loss("kd")
    learners, sources = torch.stack(ends), torch.stack([end.detach().roll(1, 0) for end in (*ends, *ends)]).unflatten(0, (2, 2))
    pair = [Predictions(learners[:, None]), Predictions(sources)]
    torch.testing.assert_close(own.pairs(*pair, torch.arange(6), None), ours.pairs(*pair, torch.arange(6), None))
