"""Trainings that fill a store and that read it: the same weights, bit for bit; and what is refused."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import yaml
from support import EmbeddingNet, assert_equal_weights, build, run, tiny_document, train_epochs, weights

import mutual
from mutual.engine.store_filling import fill_stores
from mutual.engine.teacher_store.fingerprint import STORE_MARK, transforms_of
from mutual.recipe import Data, InputError, RecipeError, parse_recipe

TEACHER = {"model": "support:double", "args": {"width": 6, "norm": True}, "frozen": True}
CROP = [{"name": "random_crop", "padding": 2}]
KD = [{"loss": "cross_entropy"}, {"loss": "kd", "sources": ["t"]}]
RECORD_BYTES = 16 + 4 + 10 + 2 * (2 + 1)
"""Two classes of four: a header, what the softmax was divided by, the others at five temperatures, log-probabilities and classes."""
FEATURES = [*KD, {"loss": "hint", "at": "head:input", "sources": ["t"]}, {"loss": "rkd_distance", "at": "body", "sources": ["t"]}]


def document(folder, *, data=None, peers=None, **sections):
    """A recipe of a student and a teacher with a store in `folder`, whose fields `store` sets."""
    store = {"folder": str(folder), "views": 3, "topk": 2, **sections.pop("store", {})}
    base = tiny_document()
    return {
        **base,
        "data": {**base["data"], "augment": CROP, **(data or {})},
        "peers": {"a": {"model": "support:double"}, **(peers or {}), "t": {**TEACHER, "store": store}},
        "objectives": KD,
        **sections,
    }


def stored(group):
    return group.frozen_forwards.stores["t"]


def close(group):
    for store in group.frozen_forwards.stores.values():
        store.close()


def shards(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("shard_*"))}


pytestmark = pytest.mark.filterwarnings("ignore:the store of")

CASES = {
    "views": {},
    "an epoch's own views": {"store": {"views": "epoch"}},
    "all classes": {"store": {"topk": "all"}},
    "mixup": {"data": {"mixup": 0.4}},
    "cutmix, an epoch's own views": {"data": {"cutmix": 1.0}, "store": {"views": "epoch"}},
    "a view for each peer": {"data": {"views": "per_peer"}, "peers": {"b": {"model": "support:double"}}},
    "vectors and feature maps": {"objectives": FEATURES, "store": {"feature_maps": True}},
    "means of feature maps": {"objectives": [*KD, {"loss": "pefd", "at": "body", "sources": ["t"]}]},
    "accumulated": {"train": {"epochs": 2, "progress": False, "accumulate": 3}},
    "alternating": {"train": {"epochs": 2, "progress": False, "update": "alternating"}, "peers": {"b": {"model": "support:double"}}},
    "several labels": {
        "data": {"multi_label": True},
        "objectives": [{"loss": "bce"}, {"loss": "dml", "form": "sigmoid", "learners": ["a"]}],
        "store": {"topk": "all"},
    },
    "bf16": {"train": {"epochs": 2, "progress": False, "precision": "bf16"}},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_run_that_reads_a_store_equals_the_one_that_filled_it(case, tmp_path):
    filled = train_epochs(document(tmp_path / "store", **case), epochs=5)
    num_views = 5 if case.get("store", {}).get("views") == "epoch" else 3
    assert stored(filled).num_computed == 40 * num_views
    content = shards(tmp_path / "store")
    close(filled)
    read = train_epochs(document(tmp_path / "store", **case), epochs=5)
    assert stored(read).num_computed == 0
    assert_equal_weights(weights(read), weights(filled))
    assert shards(tmp_path / "store") == content, "a run that reads writes nothing"
    close(read)


@pytest.mark.parametrize("case", ["mixup", "a view for each peer", "accumulated"])
def test_a_store_of_all_classes_gives_what_the_live_teacher_gives(case, tmp_path):
    """But for float16, with the views of each epoch, as a recipe without a store has them."""
    case = {**CASES[case], "store": {"topk": "all", "views": "epoch"}}
    with_store = train_epochs(document(tmp_path / "store", **case), epochs=3)
    live = document(tmp_path / "store", **case)
    live["peers"]["t"] = TEACHER
    assert_equal_weights(weights(with_store), weights(train_epochs(live, epochs=3)), tolerance=2e-3)
    close(with_store)


def test_an_ensemble_of_two_stored_teachers(tmp_path):
    other = {"u": {**TEACHER, "args": {"width": 5}, "store": {"folder": str(tmp_path / "other"), "views": 3, "topk": "all"}}}
    objectives = [KD[0], {"loss": "kd", "sources": "ensemble", "ensemble": {"weighting": "linear"}}]
    recipe = document(tmp_path / "store", peers=other, objectives=objectives)
    groups = [train_epochs(recipe, epochs=4) for _ in range(2)]
    assert [store.num_computed for group in groups for store in group.frozen_forwards.stores.values()] == [120, 120, 0, 0]
    assert_equal_weights(*map(weights, groups))
    for group in groups:
        close(group)


def test_a_store_that_lost_a_part_is_filled_again_with_the_same(tmp_path):
    filled = train_epochs(document(tmp_path / "store"), epochs=4)
    close(filled)
    (path,) = (tmp_path / "store").glob("shard_*")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content[: len(content) // 2])
    again = train_epochs(document(tmp_path / "store"), epochs=4)
    assert 60 <= stored(again).num_computed <= 68
    assert_equal_weights(weights(again), weights(filled), tolerance=1e-12)
    close(again)


def test_students_of_other_kinds_share_a_store(tmp_path):
    close(train_epochs(document(tmp_path / "store"), epochs=3))
    other = document(tmp_path / "store", optimizer={"name": "adam", "lr": 0.01}, train={"epochs": 9, "progress": False})
    other["peers"]["a"] = {"model": "support:double", "args": {"width": 7}}
    other["data"]["batch_size"] = 5
    group = train_epochs(other, epochs=4)
    assert stored(group).num_computed == 0
    close(group)


def test_runs_of_other_seeds_share_a_store_whose_views_have_a_seed(tmp_path):
    close(train_epochs(document(tmp_path / "store", store={"seed": 7}, seed=1, data={"mixup": 0.3}), epochs=3))
    for seed in (2, 3):
        again = document(tmp_path / "store", store={"seed": 7}, seed=seed, data={"mixup": 0.3})
        again["peers"]["t"]["weights"] = None
        with pytest.raises(RecipeError, match=r"peers\.t\.store\.folder: .* weights is"):  # a teacher of no weights is drawn by the seed
            build(again)


def refusal(document):
    with pytest.raises(RecipeError) as error:
        build(document)
    return str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"store": {"topk": 3}}, "topk is 2 there and 3 here"),
        ({"store": {"views": 4}}, "views is 3 there and 4 here"),
        ({"store": {"views": "epoch"}}, "views is 3 there and 'epoch' here"),
        ({"store": {"seed": 5}}, "seed is 0 there and 5 here"),
        ({"data": {"mixup": 0.5}}, "transforms.mixup is 0.0 there and 0.5 here"),
        ({"data": {"augment": []}}, "transforms.augment is"),
        ({"data": {"num_train": 48}}, "number of training images: 40 there, 48 here"),
        ({"data": {"image_size": 10}}, "input.size is"),
        ({"data": {"normalize": "none"}}, "input.mean is"),
        ({"train": {"epochs": 2, "progress": False, "precision": "bf16"}}, "precision is 'no' there and 'bf16' here"),
        ({"objectives": FEATURES, "store": {"feature_maps": True}}, "outputs.body is null there and [6, 2, 2] here"),
        ({"data": {"views": "per_peer"}}, "view is 0 there and 1 here"),
    ],
)
def test_another_store_is_refused_and_the_line_says_what_differs(change, message, tmp_path):
    _, data, group, _ = build(document(tmp_path / "store"))
    data.close()
    close(group)
    line = refusal(document(tmp_path / "store", **change))
    assert line.startswith(f"peers.t.store.folder: {tmp_path / 'store'} keeps other outputs: ")
    assert message in line
    assert "\n" not in line


def test_other_weights_are_refused(tmp_path):
    _, _, group, _ = build(document(tmp_path / "store"))
    close(group)
    other = document(tmp_path / "store")
    other["peers"]["t"]["args"] = {"width": 7}
    assert "model.1" not in refusal(other)
    assert "model is" in refusal(other)
    renamed = document(tmp_path / "store", objectives=[{"loss": "cross_entropy"}, {"loss": "kd", "sources": ["u"]}])
    renamed["peers"]["u"] = renamed["peers"].pop("t")
    assert "weights is" in refusal(renamed)


def test_other_evaluation_images_and_another_batch_size_are_no_other_store(tmp_path):
    _, _, group, _ = build(document(tmp_path / "store"))
    close(group)
    _, _, group, _ = build(document(tmp_path / "store", data={"num_val": 30, "batch_size": 3}))
    close(group)


def test_a_folder_of_the_users_own_is_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("a cat")
    assert f"{tmp_path / 'photos'} holds files and no store" in refusal(document(tmp_path / "photos"))
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"format": 1}', b'{"format": 1, "data": []}', b'{"format": 99, "data": {}}']
)
def test_a_damaged_fingerprint_is_one_line(content, tmp_path):
    _, _, group, _ = build(document(tmp_path / "store"))
    close(group)
    (tmp_path / "store" / STORE_MARK).write_bytes(content)
    line = refusal(document(tmp_path / "store"))
    assert STORE_MARK in line
    assert "\n" not in line


def test_a_fingerprint_that_was_changed_by_hand_is_another_store(tmp_path):
    _, _, group, _ = build(document(tmp_path / "store"))
    close(group)
    path = tmp_path / "store" / STORE_MARK
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "data": {"train": 3}}))
    assert "other data" in refusal(document(tmp_path / "store"))


def test_feature_maps_are_refused_unless_they_are_asked_for(tmp_path):
    line = refusal(document(tmp_path / "store", objectives=[*KD, {"loss": "hint", "at": "stem", "sources": ["t"]}]))
    assert "peers.t.store.feature_maps: stem is" in line


def test_distances_between_feature_maps_are_no_distances_between_their_means(tmp_path):
    both = [*KD, {"loss": "pefd", "at": "body", "sources": ["t"]}, {"loss": "rkd_distance", "at": "body", "sources": ["t"]}]
    assert "body is 6 x 2 x 2, 48 bytes" in refusal(document(tmp_path / "store", objectives=both))


def test_vectors_beyond_float16_are_one_line(tmp_path):
    _, data, group, train_step = build(document(tmp_path / "store", objectives=FEATURES, store={"feature_maps": True}))
    group.peers["t"].model.body.weight *= 1e9
    window = next(data.train_windows(0, world_size=1, shard=(0, 1), accumulate=1))
    with pytest.raises(InputError, match="float16"):
        train_step(window, 0, measure=False)
    close(group)


def test_a_resumed_run_reads_what_the_killed_one_has_written(tmp_path):
    """Stopped in its third epoch; the store holds more then than the checkpoint knows of."""

    class Stop(mutual.Callback):
        def update(self, state):
            if state.update == 13:
                raise KeyboardInterrupt

    def recipe(name):
        sections = {"output": str(tmp_path), "checkpoint": {"every_steps": 4}, "train": {"epochs": 4, "progress": False}}
        return document(tmp_path / f"store_{name}", name=name, data={"mixup": 0.4}, **sections)

    expected = mutual.fit(recipe("whole"))
    with pytest.raises(KeyboardInterrupt):
        mutual.fit(recipe("cut"), callbacks=Stop())
    result = mutual.fit(recipe("cut"), resume=True)
    for kind in ("last", "best"):
        one, other = ((each.folder / kind / "a.safetensors").read_bytes() for each in (result, expected))
        assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("placement", ["replicated", "parallel"])
def test_two_ranks_fill_shards_of_their_own_and_read_each_others(placement, tmp_path):
    sections = {"placement": placement, "data": {"mixup": 0.4, "workers": 1}, "train": {"epochs": 5, "progress": False}}
    recipe = document(tmp_path / "store", peers={"b": {"model": "support:double"}}, output=str(tmp_path), **sections)
    recipe["objectives"] = [*KD, {"loss": "dml", "learners": ["a"], "sources": ["b"]}, {"loss": "pefd", "at": "body", "sources": ["t"]}]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    found = []
    for name in ("filled", "read"):
        run("mutual.train", tmp_path / "recipe.yaml", f"name={name}", processes=2)
        found.append({peer: (tmp_path / name / "last" / f"{peer}.safetensors").read_bytes() for peer in "ab"})
        if name == "filled":
            content = shards(tmp_path / "store")
            assert len(content) == 2
            num_records = sum(map(len, content.values())) / (RECORD_BYTES + 2 * 6)  # and the mean over the positions of a feature map
            computed_by_each = 2 * 120  # in parallel both ranks hold the teacher and all images, where they do not share the work
            assert num_records == 120 or (placement == "parallel" and num_records == computed_by_each)
    assert found[0] == found[1]
    assert shards(tmp_path / "store") == content


def test_embeddings_of_another_scale_are_another_store(tmp_path, monkeypatch):
    """`store.seed` fixes the views; which images mean and std are estimated over depends on the recipe's seed still."""
    monkeypatch.setattr("mutual.engine.training.standardization.NUM_IMAGES", 12)
    teacher = EmbeddingNet(1)
    (tmp_path / "t.safetensors").write_bytes(safetensors.torch.save(teacher.state_dict()))
    headless = {"model": "support:embedding", "frozen": True, "head": "none", "weights": str(tmp_path / "t.safetensors")}

    def recipe(seed, *, folder="store", standardize=True, batch_size=8):
        store = {"folder": str(tmp_path / folder), "views": 2, "topk": "all", "seed": 7}
        base = document(
            "",
            seed=seed,
            data={"batch_size": batch_size},
            objectives=[{"loss": "cross_entropy"}, {"loss": "similarity", "at": "body", "source_at": "embedding", "sources": ["t"]}],
        )
        return {**base, "peers": {"a": {"model": "support:double"}, "t": {**headless, "standardize": standardize, "store": store}}}

    close(train_epochs(recipe(1), epochs=1))
    assert "embeddings are standardized by another mean and std there" in refusal(recipe(2))
    for same in (recipe(1), recipe(1, batch_size=5)):  # sums in another order
        _, _, group, _ = build(same)
        close(group)
    for seed in (1, 2):
        _, _, group, _ = build(recipe(seed, folder="as they are", standardize=False))
        close(group)
    path = tmp_path / "store" / STORE_MARK
    path.write_text(json.dumps({**json.loads(path.read_text()), "statistics": {"mean": [1.0], "std": "x"}}))
    assert "another mean and std" in refusal(recipe(1))


def test_a_store_is_filled_whole_whatever_the_sampler_and_serves_any(tmp_path):
    """Which views there are does not depend on how often an epoch shows an image."""
    balanced = document(tmp_path / "store", data={"sampler": "balanced", "mixup": 0.4})
    (filled,) = fill_stores(parse_recipe({**balanced, "output": str(tmp_path)}))
    assert filled.num_computed == 40 * 3
    for data in ({"sampler": "balanced", "epoch_size": 90}, {}):
        read = train_epochs(document(tmp_path / "store", data={"mixup": 0.4, **data}), epochs=2)
        assert stored(read).num_computed == 0
        close(read)


def test_fields_that_transforms_had_not_change_no_fingerprint_of_a_store():
    jitter, erasing = {"name": "color_jitter", "hue": 0.1}, {"name": "random_erasing", "value": "random"}
    data = Data(dataset="digits", augment=["horizontal_flip", jitter, erasing], mixup=0.2)
    assert transforms_of(data) == {
        "augment": [
            {"name": "horizontal_flip", "p": 0.5},
            {"name": "color_jitter", "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.1},
            {"name": "random_erasing", "p": 0.25, "scale": [0.02, 0.33], "ratio": [0.3, 3.3], "value": "random"},
        ],
        "mixup": 0.2,
        "cutmix": 0.0,
    }
    assert transforms_of(Data(dataset="digits")) == {"augment": None, "mixup": 0.0, "cutmix": 0.0}
    changes = [{"mixup_p": 0.5}, {"augment": [{**erasing, "attempts": 9}]}, {"augment": [{**erasing, "value": "normal"}]}]
    assert all(transforms_of(data.model_validate(data.model_dump() | change)) != transforms_of(data) for change in changes)


def test_a_store_is_of_the_statistics_that_its_images_are_filled_with():
    augment = [{"name": "timm_augment", "config": "rand-m9"}]
    plain, other = (Data(dataset="digits", augment=augment, normalize=normalize) for normalize in ("auto", "none"))
    assert transforms_of(plain) != transforms_of(other)
