"""A group is checked when it is built: every mistake is one line that names the key path."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from support import WORLD, build, tiny_document
from torch import nn

from mutual.group import Communicator, DataSpec, MicroBatchContext, build_group, create_peer_model, expand_objectives
from mutual.group.build.builder import _build_losses, _build_peer, _build_peers, _place_peers
from mutual.group.build.edge_loss_builder import source_statistics
from mutual.models import LoadedWeights, ModelCard, ModelInput, create_model, model_bytes
from mutual.objectives.adapters import margins_of
from mutual.recipe import RecipeError, parse_recipe

DATA = DataSpec(4, (), ModelInput((8, 8), (0.0,), (1.0,), channels=1))


def edges_of(document):
    return {(edge.name, edge.learner, edge.source): edge.weight for edge in build(document)[2].edges}


def test_objectives_expand_into_directed_edges():
    document = tiny_document(objectives=[{"loss": "cross_entropy"}, {"loss": "dml", "learners": ["a"], "weight": 0.5}])
    assert edges_of(document) == {("cross_entropy", "a", None): 1, ("cross_entropy", "b", None): 1, ("dml", "a", "b"): 0.5}


def test_several_sources_are_averaged_or_summed():
    peers = {name: {"model": "support:double"} for name in "abc"}
    for reduce, weight in (("mean", 0.5), ("sum", 1.0)):
        objectives = [{"loss": "cross_entropy"}, {"loss": "kd", "learners": ["a"], "reduce": reduce}]
        edges = edges_of(tiny_document(peers=peers, objectives=objectives))
        assert edges["kd", "a", "b"] == edges["kd", "a", "c"] == weight


def test_equal_objectives_get_names_of_their_own():
    objectives = [{"loss": "cross_entropy"}, {"loss": "l2", "at": "body"}, {"loss": "l2", "at": "body"}, {"loss": "l2"}]
    names = {edge.name for edge in build(tiny_document(objectives=objectives))[2].edges}
    assert names == {"cross_entropy", "l2@body", "l2@body_2", "l2"}


def test_each_peer_may_be_read_at_a_path_of_its_own():
    peers = {"a": {"model": "support:double"}, "b": {"model": "support:double", "args": {"width": 4}}}
    objectives = [{"loss": "cross_entropy"}, {"loss": "l2", "at": {"a": "body", "b": "body"}}]
    group = build(tiny_document(peers=peers, objectives=objectives))[2]
    outputs = {name: group.forward_peer(name, torch.zeros(2, 1, 8, 8), seed=0) for name in "ab"}
    assert all("body" in output for output in outputs.values())


WIDE = {"a": {"model": "support:double"}, "b": {"model": "support:double", "args": {"width": 6}}}
FEATURE = [{"loss": "cross_entropy"}, {"loss": "l2", "at": "body"}]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"peers": {"a": {"model": "pplcnet_x1_1"}}, "objectives": FEATURE[:1]},
            r"^peers.a.model: .*pplcnet_x1_1.*did you mean 'pplcnet_x1_",
        ),
        ({"peers": {"a": {"model": "support:tinny"}}, "objectives": FEATURE[:1]}, r"^peers.a.model: .*did you mean 'tiny'"),
        (
            {"objectives": [{"loss": "cross_entropy"}, {"loss": "l2", "at": "bodi"}]},
            r"^objectives.1.at: peer 'a' .* no module 'bodi'; near: body",
        ),
        ({"peers": WIDE, "objectives": FEATURE}, r"^objectives.1.at: a.body has shape \(4, 2, 2\) and b.body has shape \(6, 2, 2\).*hint"),
        (
            {"peers": {**WIDE, "b": {"model": "support:double", "weights": "no/such.safetensors"}}},
            r"^peers.b.weights: .*no/such.safetensors",
        ),
        (
            {"peers": {**WIDE, "b": {"model": "support:double", "args": {"num_classes": 7}}}},
            r"^peers.b.model: class counts differ: .*\(7,\).* 4 classes",
        ),
        ({"optimizer": {"name": "sdg"}}, r"'sdg' is no optimizer; did you mean 'sgd'"),
        ({"optimizer": {"name": "sgd", "betas": [0.9, 0.99]}}, r"sgd takes no 'betas'"),
        ({"optimizer": {"name": "adamw", "args": {"amsgrd": True}}}, r"adamw takes no 'amsgrd'; did you mean 'amsgrad'"),
    ],
)
def test_a_mistake_is_one_line(sections, message):
    with pytest.raises((RecipeError, ValueError), match=message) as caught:
        build(tiny_document(**sections))
    assert "\n" not in str(caught.value)


NORMED = {"model": "support:tiny", "args": {"norm": True}}


@pytest.mark.parametrize(
    ("synchronized", "is_replicated", "frozen", "kind"),
    [
        (True, True, False, nn.SyncBatchNorm),
        (True, True, True, nn.BatchNorm2d),
        (True, False, False, nn.BatchNorm2d),
        (False, True, False, nn.BatchNorm2d),
    ],
)
def test_statistics_are_synchronized_where_several_processes_train_a_peer(synchronized, is_replicated, frozen, kind):
    peers = {"a": {**NORMED, "frozen": frozen}, "b": NORMED}
    recipe = parse_recipe(tiny_document(peers=peers, train={"sync_batchnorm": synchronized}))
    assert type(_build_peer(recipe, expand_objectives(recipe), DATA, "a", [], is_replicated=is_replicated).model.norm) is kind


def test_peers_stand_apart_where_the_recipe_says_so_and_there_are_several_ranks():
    recipes = {name: parse_recipe(tiny_document(placement=name)) for name in ("replicated", "parallel")}
    assert _place_peers(recipes["replicated"], 2).is_replicated
    assert _place_peers(recipes["parallel"], 1).is_replicated
    assert _place_peers(recipes["parallel"], 2).replica_ranks == {"a": (0,), "b": (1,)}
    costly = tiny_document(placement="parallel")
    costly["peers"] = {name: {"model": "support:tiny", "cost": cost} for name, cost in (("a", 1.0), ("b", 3.0))}
    assert _place_peers(parse_recipe(costly), 3).replica_ranks == {"a": (0,), "b": (1, 2)}


def test_only_peers_that_learn_have_an_average_and_it_has_the_taps_that_are_read_of_it():
    peers = {"a": {"model": "support:double"}, "t": {"model": "support:double", "frozen": True}}
    objectives = [{"loss": "cross_entropy"}, {"loss": "kd", "sources": ["t"]}, {"loss": "l2", "sources": "ema", "at": "body"}]
    group = build(tiny_document(peers=peers, objectives=objectives, train={"ema": 0.5, "ema_warmup": True, "evaluate_ema": False}))[2]
    assert group.peers["t"].average is None
    assert group.peers["t"].comm is None
    average = group.peers["a"].average
    assert group.peers["a"].comm is not None
    assert group.forward_without_side_effects("a.ema", torch.zeros(2, 1, 8, 8), seed=0).keys() == {"logits", "body"}
    assert group.forward_peer("t", torch.zeros(2, 1, 8, 8), seed=0).keys() == {"logits"}
    before = average.model.head.bias.clone()
    with torch.no_grad():
        group.peers["a"].model.head.bias += 1
    average.update(group.peers["a"].model, update=0)
    torch.testing.assert_close(average.model.head.bias, before + 1, msg="with ema_warmup the first update is the whole way")
    assert group.peers["a"].eval_model is group.peers["a"].model


@pytest.mark.parametrize("channels_last", [False, True])
def test_weights_lie_in_the_format_that_the_recipe_says(channels_last):
    peers = {"a": {"model": "support:double", "args": {"width": 6}}}
    train = {"channels_last": channels_last, "ema": 0.5}
    group = build(tiny_document(peers=peers, objectives=[{"loss": "cross_entropy"}], train=train))[2]
    for model in (group.peers["a"].model, group.peers["a"].average.model):
        assert model.body.weight.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_a_path_is_looked_for_in_the_peer_that_is_read_there():
    objectives = [{"loss": "cross_entropy"}, {"loss": "hint", "learners": ["a"], "at": "body", "source_at": "nowhere"}]
    with pytest.raises(RecipeError, match=r"^objectives.1.at: peer 'b' \(support:double\) has no module 'nowhere'"):
        build(tiny_document(objectives=objectives))


def test_a_path_of_the_learner_is_looked_for_in_the_learner():
    objectives = [{"loss": "cross_entropy"}, {"loss": "hint", "learners": ["a"], "at": "nowhere", "source_at": "body"}]
    with pytest.raises(RecipeError, match=r"^objectives.1.at: peer 'a' \(support:double\) has no module 'nowhere'"):
        build(tiny_document(objectives=objectives))


def test_one_process_has_nothing_to_synchronize_and_nothing_that_was_not_asked_for():
    objectives = [{"loss": "cross_entropy"}, {"loss": "ofd", "at": ["norm"], "learners": ["a"]}]
    group = build(tiny_document(peers={"a": NORMED, "b": NORMED}, objectives=objectives, train={"sync_batchnorm": True}))[2]
    for peer in group.peers.values():
        assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in peer.tapped.modules())
        assert peer.average is None
        assert peer.tapped._compiled_call_impl is None
    assert [len(peer.tapped.adapters) for peer in group.peers.values()] == [1, 0], "of losses with a trainable part alone"


def test_a_loss_is_reported_of_its_sources_batchnorm():
    objectives = [{"loss": "cross_entropy"}, {"loss": "ofd", "at": ["norm"], "learners": ["a"]}]
    document = tiny_document(peers={"a": NORMED, "b": {"model": "odd_models:Shifted"}}, objectives=objectives)
    group = build(document)[2]
    (loss,) = (each.loss for each in group.local_losses.values() if each.edge.sources)
    torch.testing.assert_close(loss.adapter.margin0, margins_of(group.peers["b"].model, ["norm"])["margins"][0])
    assert loss.adapter.margin0[0] < -2


def test_peers_are_put_where_the_process_computes():
    recipe = parse_recipe(tiny_document(train={"ema": 0.5}))
    comm = Communicator(0, 1, torch.device("meta"))
    group = build_group(recipe, comm, num_classes=4, in_channels=1, image_size=(8, 8))
    for peer in group.peers.values():
        assert {parameter.device.type for module in peer.modules for parameter in module.parameters()} == {"meta"}


def test_pretrained_weights_are_asked_of_the_zoo_and_files_are_read(monkeypatch):
    asked, read = [], []
    monkeypatch.setattr("mutual.group.build.peer_model.create_model", lambda name, **arguments: asked.append(arguments["weights"]) or name)
    monkeypatch.setattr(
        "mutual.group.build.peer_model.load_weights", lambda model, path, **_: read.append((model, str(path))) or LoadedWeights()
    )
    monkeypatch.setattr("mutual.group.build.peer_model.read_card", lambda path: None)
    monkeypatch.setattr("mutual.group.build.peer_inputs.declared_input", lambda *_, **__: {})
    for weights in (None, "pretrained", "a.safetensors"):
        recipe = parse_recipe(
            tiny_document(peers={"a": {"model": "timm/resnet10t", "weights": weights}}, objectives=[{"loss": "cross_entropy"}])
        )
        assert create_peer_model(recipe, "a", DATA).model == "timm/resnet10t"
    assert asked == [None, "pretrained", None]
    assert read == [("timm/resnet10t", "a.safetensors")]


def test_initial_weights_are_drawn_aside():
    """Building a group leaves the generator as it was; the adapters' seeds know their edge's source."""
    state = torch.get_rng_state()
    peers = {name: {"model": "support:double"} for name in "abc"}
    objectives = [{"loss": "cross_entropy"}, {"loss": "hint", "at": "body", "learners": ["a"]}]
    group = build(tiny_document(peers=peers, objectives=objectives))[2]
    assert torch.equal(torch.get_rng_state(), state)
    of_b, of_c = (loss.loss.adapter.regressor.weight for loss in group.local_losses.values() if loss.edge.sources)
    assert not torch.equal(of_b, of_c)


CLASSES = ("ant", "bee", "cat", "dog")


@pytest.fixture
def weights(tmp_path):
    """Writes a weights file whose model has the classes in this order; returns its path and the model."""

    def write(classes):
        torch.manual_seed(0)
        model = create_model("small_cnn", num_classes=4, in_channels=1)
        card = ModelCard(
            model="small_cnn", args={}, num_classes=4, in_channels=1, image_size=(8, 8), mean=(0.5,), std=(0.5,), class_names=classes
        )
        path = tmp_path / "weights.safetensors"
        path.write_bytes(model_bytes(model, card))
        return path, model.eval()

    return write


def group_of(path, *, frozen, class_names=CLASSES):
    peers = {"a": {"model": "small_cnn"}, "t": {"model": "small_cnn", "weights": str(path), "frozen": frozen}}
    recipe = parse_recipe(tiny_document(peers=peers, objectives=[{"loss": "cross_entropy"}, {"loss": "kd", "learners": ["a"]}]))
    return build_group(recipe, WORLD, num_classes=4, in_channels=1, image_size=(8, 8), class_names=class_names)


def test_a_frozen_peers_outputs_are_read_by_the_names_of_its_classes(weights):
    path, model = weights(("bee", "ant", "dog", "cat"))
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = model(images).detach()
    for class_names, columns in ((CLASSES, [1, 0, 3, 2]), ((), [0, 1, 2, 3])):
        found = group_of(path, frozen=True, class_names=class_names).forward_peer("t", images, seed=0)["logits"]
        torch.testing.assert_close(found, expected[:, columns])


def test_weights_without_a_card_are_taken_in_their_order(tmp_path):
    model = create_model("small_cnn", num_classes=4, in_channels=1)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "plain.safetensors")
    group = group_of(tmp_path / "plain.safetensors", frozen=True)
    assert group.peers["t"].tapped.columns is None


def test_a_trainable_peer_begins_with_weights_of_the_datas_classes_alone(weights):
    path, model = weights(CLASSES)
    start = group_of(path, frozen=False).peers["t"].model.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    path, _ = weights(("bee", "ant", "dog", "cat"))
    with pytest.raises(RecipeError, match=r"^peers.t.weights: .* another order, which only a frozen peer can have"):
        group_of(path, frozen=False)
    path, _ = weights(("bee", "ant", "dog", "cow"))
    with pytest.raises(RecipeError, match=r"^peers.t.weights: .*classes differ: only the model has 'cow'; only the data has 'cat'"):
        group_of(path, frozen=False)


def rank_of_two(rank):
    """Stands for one of two ranks that hold the same peers; what it gathers is what it has itself."""
    return SimpleNamespace(
        rank=rank, size=2, is_main=rank == 0, raise_together=lambda **_: nullcontext(), all_gather_json=lambda value: [value, value]
    )


@pytest.mark.parametrize("synchronized", [False, True])
def test_adapters_are_synchronized_as_their_learners_are(synchronized):
    objectives = [{"loss": "cross_entropy"}, {"loss": "ofd", "at": ["norm"], "learners": ["a"]}]
    document = tiny_document(peers={"a": NORMED, "b": NORMED}, objectives=objectives, train={"sync_batchnorm": synchronized})
    recipe, comm = parse_recipe(document), rank_of_two(0)
    edges, placement = expand_objectives(recipe), _place_peers(recipe, 2)
    built = _build_peers(recipe, edges, comm, placement, DATA)
    peers = built.peers
    entered = []
    comm.raise_together = lambda **_: entered.append(1) or nullcontext()
    losses = _build_losses(recipe, edges, comm, placement, built, [None] * len(edges))
    assert len(entered) == 2, "what fails on one rank, of statistics or of shapes, fails on all"
    norms = [layer for loss in losses.values() for layer in loss.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    assert [isinstance(norm, nn.SyncBatchNorm) for norm in norms] == [synchronized]
    assert isinstance(peers["a"].model.norm, nn.SyncBatchNorm) == synchronized
    held = {index for index, edge in enumerate(edges) if edge.loss_spec.from_model}
    models = {name: peer.model for name, peer in peers.items()}
    assert {int(index) for index in source_statistics(recipe, edges, models)} == held != set()
    assert source_statistics(recipe, edges, {"a": models["a"]}) == {}, "of sources that are held elsewhere"


def test_the_main_rank_alone_reports_what_a_dry_run_found(recwarn):
    recipe = parse_recipe(tiny_document(peers={"a": {"model": "odd_models:Spare"}}, objectives=[{"loss": "cross_entropy"}]))
    for rank, reported in ((1, 0), (0, 1)):
        _build_peers(recipe, expand_objectives(recipe), rank_of_two(rank), _place_peers(recipe, 2), DATA)
        assert len([warning for warning in recwarn if "excluded" in str(warning.message)]) == reported


def test_a_peers_initial_weights_are_drawn_by_its_name():
    recipe = parse_recipe(tiny_document())
    first, again, other = (create_peer_model(recipe, name, DATA).model.head.weight for name in "aab")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_images_without_a_label_are_passed_over_where_the_data_have_some(tmp_path):
    document = tiny_document(objectives=[{"loss": "cross_entropy"}])
    listed = {"dataset": "image_list", "root": str(tmp_path), "train_list": "a.txt", "val_list": "b.txt", "image_size": 8, "channels": 1}
    labels = torch.tensor([2, -1, 1])
    for data in ({**listed, "unlabelled": "c.txt"}, listed):
        group = build_group(parse_recipe({**document, "data": data}), WORLD, num_classes=4, in_channels=1, image_size=(8, 8))
        selected = {edge_loss.selector.labelled_only for edge_loss in group.local_losses.values()}
        assert selected == {"unlabelled" in data}
    context = MicroBatchContext(num_valid=3, seed=0)
    with pytest.raises(RuntimeError, match="index -1 is out of bounds"):
        group.forward(torch.zeros(3, 1, 8, 8), labels, context)


def test_ensembles_are_as_wide_as_their_members_and_labels_are_read_by_logits_alone():
    peers = {name: {"model": "support:double"} for name in "abc"}
    objectives = [{"loss": "cross_entropy"}, {"loss": "kd", "sources": "ensemble"}]
    assert len(build(tiny_document(peers=peers, objectives=objectives))[2].local_losses) == 6
    assert len(build(tiny_document(objectives=objectives))[2].local_losses) == 4, "of one member"
    with pytest.raises(RecipeError, match=r"^objectives.1.at: a.stem has shape \(4, 4, 4\), which are no logits"):
        build(tiny_document(objectives=[{"loss": "cross_entropy"}, {"loss": "cross_entropy", "at": "stem", "learners": ["a"]}]))


@pytest.mark.parametrize("precision", ["bf16", "no", None])
def test_a_precision_is_not_ignored_where_no_autocast_was_given(precision):
    peers = {"a": {"model": "small_cnn"}, "t": {"model": "small_cnn", "frozen": True, "precision": precision}}
    document = tiny_document(peers=peers, objectives=[{"loss": "cross_entropy"}, {"loss": "kd", "sources": ["t"]}])
    group = build_group(parse_recipe(document), WORLD, num_classes=4, in_channels=1, image_size=(8, 8))
    group.eval()
    images = torch.zeros(2, 1, 8, 8)
    assert group.predict(images, "a", global_batch_size=2).keys() == {"a"}
    if precision == "bf16":
        with pytest.raises(ValueError, match="precision 'bf16' needs an `autocast`"):
            group.predict(images, "t", global_batch_size=2)
    else:
        assert group.predict(images, "t", global_batch_size=2)["t"].dtype is torch.float32
