"""Peers without a head in a group: what they are asked for, which losses take their embedding, and how it is standardised."""

import pytest
import torch
from support import WORLD, build, tiny_document, train_epochs

from mutual.engine.runtime import Environment
from mutual.engine.training import build_training
from mutual.group import MicroBatchContext
from mutual.objectives import LOSSES, build_loss
from mutual.recipe import OBJECTIVES, DistillationObjective, RecipeError, parse_recipe
from mutual.recipe.checks import LOSSES_OF_EMBEDDINGS

CE = {"loss": "cross_entropy"}
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def document(*objectives, **teacher):
    peers = {
        "s": {"model": "support:double", "args": {"width": 5}},
        "t": {"model": "support:embedding", "frozen": True, "head": "none", **teacher},
    }
    return tiny_document(peers=peers, objectives=[CE, *objectives])


def group_of(*objectives, **teacher):
    return build(document(*objectives, **teacher))[2]


def images(seed=0):
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", LOSSES_OF_EMBEDDINGS)
def test_a_loss_that_fits_takes_the_embedding(name):
    """It is the loss of the learner's vectors and the teacher's, as the loss itself computes it."""
    group = group_of({"loss": name, "sources": ["t"], "at": "head:input", "source_at": "embedding"})
    output = group.forward(images(), LABELS, MicroBatchContext(6, seed=0))
    edge_loss = group.local_losses[1]
    learner = group.peers["s"].train_module(group.view("s", images()))["head:input"]
    expected = edge_loss.loss(learner, group.peers["t"].model(group.view("t", images())), LABELS)
    torch.testing.assert_close(output.edge_losses[1], expected.detach())
    gradients = torch.autograd.grad(output.losses["s"], list(group.peers["s"].tapped.model.parameters()), allow_unused=True)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert set(output.logits) == {"s"}


@pytest.mark.parametrize("name", LOSSES_OF_EMBEDDINGS)
def test_it_takes_another_width_or_says_which_loss_does(name):
    entry = {"loss": name, "sources": ["t"], "at": "head:input", "source_at": "embedding"}
    if name in ("l1", "l2", "smooth_l1", "cosine"):
        with pytest.raises(RecipeError, match=r"s.head:input has shape \(5,\) and t.embedding has shape \(9,\); .* a regressor \(hint\)"):
            group_of(entry, args={"width": 9})
    else:
        output = group_of(entry, args={"width": 9}).forward(images(), LABELS, MicroBatchContext(6, seed=0))
        assert output.edge_losses[1].isfinite()


@pytest.mark.parametrize("name", [name for name, section in OBJECTIVES.items() if issubclass(section, DistillationObjective)])
def test_the_recipe_and_the_losses_agree_on_what_takes_a_vector(name):
    """Losses of feature maps refuse two vectors where they are built; every other that needs no logits takes them."""
    section, spec = OBJECTIVES[name], LOSSES[name]
    shapes = {"learner_shape": (5,), "source_shape": (5,)}
    if section.reads == "maps":
        shapes = {key: [shape] for key, shape in shapes.items()} if spec.multi_output else shapes
        with pytest.raises(ValueError, match="needs feature maps"):
            build_loss(name, **shapes)
    elif name != "okddip":
        build_loss(name, **shapes)
    assert (name in LOSSES_OF_EMBEDDINGS) == (section.reads == "any")


@pytest.mark.parametrize("name", ["at", "mgd", "ofd", "hint", "similarity"])
def test_its_modules_are_read_as_of_any_peer(name):
    """`norm` stands behind a BatchNorm, from which ofd takes its margin."""
    learner = {"loss": name, "sources": ["t"], "at": {"s": "stem", "t": "norm"}}
    output = group_of(learner).forward(images(), LABELS, MicroBatchContext(6, seed=0))
    assert output.edge_losses[1].isfinite()


def test_it_stays_as_it_is_and_is_not_predicted_with():
    group = group_of({"loss": "similarity", "sources": ["t"], "at": "head:input", "source_at": "embedding"})
    before = {key: value.clone() for key, value in group.peers["t"].model.state_dict().items()}
    group.train()
    group.forward(images(), LABELS, MicroBatchContext(6, seed=0)).losses["s"].backward()
    for key, value in group.peers["t"].model.state_dict().items():
        assert torch.equal(value, before[key]), key
    group.eval()
    assert set(group.predict(images(), ["s"], global_batch_size=6)) == {"s"}
    (embedded,) = group.embed(images()).values()
    assert torch.equal(embedded, group.peers["t"].model(group.view("t", images())))
    assert group.embedding_spec("t") == (5, torch.float64)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (
            {"model": "support:tiny"},
            r"support:tiny gives float32 of shape \(0,\) .*; called with num_classes=0 it must leave its",
        ),
        (
            {"model": "odd_models:tokens"},
            r"odd_models:tokens gives float32 of shape \(3, 4\) for an image; wanted is a vector of each image",
        ),
        ({"model": "odd_models:counts"}, r"odd_models:counts gives int64 of shape \(64,\) for an image; wanted is a vector of each image"),
        ({"model": "one"}, "one has 3 classifiers of its own; head: none needs exactly one, to leave it out"),
        ({"model": "nonsense"}, "'nonsense' is no model"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_model_that_gives_no_vector_is_one_line(teacher, message):
    with pytest.raises(RecipeError, match=f"^peers.t.model: .*{message}") as caught:
        group_of(**teacher)
    assert "\n" not in str(caught.value)


def test_a_module_called_embedding_is_the_learners_own():
    """The word means the output of a peer without a head alone; of others it is a path like any."""
    with pytest.raises(RecipeError, match=r"objectives.1.at: peer 's' \(support:double\) has no module 'embedding'"):
        group_of({"loss": "similarity", "sources": ["t"], "at": "embedding"})


def similarity(**teacher):
    entry = {"loss": "l2", "sources": ["t"], "at": "head:input", "source_at": "embedding"}
    return document(entry, **teacher)


def test_a_standardised_embedding_has_mean_0_and_deviation_1_over_training_images():
    recipe = parse_recipe(similarity(standardize=True))
    training = build_training(recipe, Environment(None, WORLD, "no"))
    group = training.group
    rows = []
    for batch in training.data.sample_batches(40, world_size=1, shard=(0, 1)):
        pixels = batch.images.float() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (training.data.info.mean, training.data.info.std))
        rows.append(group.peers["t"].train_module((pixels - mean) / std)["embedding"])
    standardised = torch.cat(rows)
    assert len(standardised) == 40
    torch.testing.assert_close(standardised.mean(dim=0), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(standardised.std(dim=0, correction=0), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-9)
    assert set(group.peers["t"].tapped.state_dict()) == {f"model.{key}" for key in group.peers["t"].model.state_dict()}


def test_the_scale_of_a_standardised_teacher_changes_nothing():
    """Nor does its offset; of one that is not standardised it does."""
    trained = {}
    for key, teacher in {
        "plain": {"standardize": True},
        "scaled": {"standardize": True, "args": {"scale": 1000.0}},
        "raw": {},
        "raw scaled": {"args": {"scale": 10.0}},
    }.items():
        trained[key] = train_epochs(similarity(**teacher)).peers["s"].model.state_dict()
    for name, value in trained["plain"].items():
        torch.testing.assert_close(trained["scaled"][name], value, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(trained["raw"]["body.weight"], trained["raw scaled"]["body.weight"], rtol=1e-3)


def test_of_two_standardised_teachers_none_outweighs_the_other():
    """One of them a thousand times as large, learned from together: nothing changes."""
    trained = []
    for scale in (1.0, 1000.0):
        teacher = {"model": "support:embedding", "frozen": True, "head": "none", "standardize": True}
        recipe = similarity(standardize=True)
        recipe["peers"]["u"] = {**teacher, "args": {"scale": scale, "width": 3}}
        recipe["objectives"][1] = {"loss": "hint", "sources": ["t", "u"], "at": "head:input", "source_at": "embedding"}
        trained.append(train_epochs(recipe).peers["s"].tapped.state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=1e-9, atol=1e-12)


def test_a_dimension_without_deviation_is_only_moved():
    group = group_of(standardize=True, args={"scale": 0.0})
    assert torch.equal(group.peers["t"].train_module(group.view("t", images()))["embedding"], torch.zeros(6, 5, dtype=torch.float64))
    assert torch.equal(group.peers["t"].tapped.std, torch.ones(5, dtype=torch.float64))


def test_it_is_scored_in_its_own_precision():
    """As it teaches: standardisation and nearest neighbours read the embeddings that edges read."""
    objective = {"loss": "similarity", "sources": ["t"], "at": "head:input", "source_at": "embedding"}
    group = group_of(objective, model="small_cnn", precision="bf16")
    pixels = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    context = MicroBatchContext(6, seed=0)
    (taught,) = group.frozen_forwards.outputs([(pixels, context)])
    group.eval()
    assert torch.equal(group.embed(pixels)["t"], taught["t"]["embedding"].float())
