"""Whole updates on a GPU: the CPU's numbers, mixed precision, compilation, memory formats, memory, and no host synchronisation."""

import pytest
import torch
import torch._dynamo
from gpu_support import assert_close, build_on, document_of, no_host_sync, train_on, updates
from support import weights

from mutual.data import Batch
from mutual.engine.evaluation import Evaluator
from mutual.group import room_for_graphs
from mutual.objectives import LOSSES
from mutual.recipe import Train, parse_recipe

CPU = torch.device("cpu")
TWINS = {"a": {"model": "support:double"}, "b": {"model": "support:double", "args": {"width": 6}}}
NORMED = {name: {"model": "support:tiny", "args": {"norm": True, "width": width}} for name, width in (("a", 4), ("b", 6))}
TEACHER = {"model": "support:tiny", "frozen": True, "args": {"norm": True, "width": 5}}
CE = {"loss": "cross_entropy"}
AT_BODY = ("at", "hint", "ofd", "mgd", "afd", "okddip", "crd", "mcl", "similarity", "pefd", "rkd_distance", "rkd_angle")
PLAIN = [CE, {"loss": "dml"}]
EVERYTHING = [
    CE,
    {"loss": "dml", "gate": "correct"},
    {"loss": "dkd"},
    {"loss": "kd", "sources": "ensemble", "ensemble": {"weighting": "min_logit", "own": True}},
    {"loss": "ssld", "sources": "peers_ema"},
    *({"loss": name, "at": "body"} for name in ("hint", "at", "afd", "crd", "mcl", "similarity", "pefd", "rkd_distance", "rkd_angle")),
]
AUGMENT = [{"name": "random_crop", "padding": 2}, {"name": "horizontal_flip"}]
CASES = {
    "plain": {"objectives": PLAIN},
    "accumulated": {"objectives": PLAIN, "train": {"accumulate": 2}},
    "clipped, averages that teach": {
        "objectives": [*PLAIN, {"loss": "kd", "sources": "ema"}],
        "train": {"clip_grad_norm": 0.5, "ema": 0.9},
    },
    "alternating": {"objectives": PLAIN, "train": {"update": "alternating"}},
    "paused": {"objectives": PLAIN, "train": {"pause": {"peer": "a", "versus": "b"}}},
    "gates": {"objectives": [CE, {"loss": "dml", "gate": "correct"}]},
    "ensembles": {
        "objectives": [
            CE,
            *({"loss": "kd", "sources": "ensemble", "ensemble": {"weighting": each}} for each in ("linear", "min_logit", "naive")),
        ]
    },
    "a teacher": {
        "peers": {**NORMED, "t": TEACHER},
        "objectives": [CE, {"loss": "kd", "sources": ["t"]}, {"loss": "hint", "at": "body", "sources": ["t"]}],
    },
    "augmented, mixed": {"objectives": PLAIN, "data": {"augment": AUGMENT, "mixup": 0.2}},
    "adam": {"objectives": PLAIN, "optimizer": {"name": "adamw", "lr": 0.001}},
}
"""By case what differs from two tiny peers with BatchNorm that learn from labels."""
if "backward" in Train.model_fields:
    CASES["one backward a peer"] = {"objectives": PLAIN, "train": {"backward": "per_peer"}}


def objective(name):
    return {"loss": name, **({"at": "body"} if name in AT_BODY else {})}


def case_of(sections, **train):
    document = document_of(**{"peers": NORMED, **sections, "train": {**sections.get("train", {}), **train}})
    if train.get("precision") == "fp16" or "pause" in document["train"]:  # a fused step is skipped on the device, any other by the host
        document["optimizer"] = {**document["optimizer"], "args": {"fused": True}}
    return document


@pytest.mark.parametrize("objectives", [PLAIN, EVERYTHING], ids=["plain", "everything"])
def test_two_epochs_in_float64_are_the_cpus(objectives, device):
    document = document_of(peers=TWINS, objectives=objectives, train={"ema": 0.5}, data={"augment": AUGMENT})
    document["optimizer"] = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
    assert_close(train_on(device, document, epochs=2), train_on(CPU, document, epochs=2), tolerance=1e-8)


def test_two_epochs_in_float32_are_the_cpus_to_some_digits(device):
    document = document_of(peers={name: {"model": "small_cnn"} for name in "ab"}, objectives=PLAIN, data={"image_size": 28})
    document["optimizer"] = {"name": "sgd", "lr": 0.01}
    assert_close(train_on(device, document, epochs=2), train_on(CPU, document, epochs=2), tolerance=1e-3)


@pytest.mark.parametrize("train", [{"channels_last": True}, {"accumulate": 2}], ids=str)
def test_other_settings_give_the_same_numbers_in_float64(train, device):
    """Two micro-batches of 4 are one of 8, also in an epoch's last, shorter window."""
    document = document_of(peers=TWINS, objectives=[*PLAIN, {"loss": "hint", "at": "body"}])
    other = document_of(
        **{key: document[key] for key in ("peers", "objectives")}, train=train, data={"batch_size": 8 // train.get("accumulate", 1)}
    )
    assert_close(train_on(device, other, epochs=2), train_on(device, document, epochs=2), tolerance=1e-8)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("case", CASES)
def test_an_update_does_not_wait_for_the_gpu(case, precision, device):
    """Outside of logging: the host only enqueues. What begins with synchronisations (cuDNN, cuBLAS, the allocator) has run before."""
    if case == "paused" and precision == "fp16":
        pytest.skip("a pause and fp16 together wait once: mutual/README.md says when the host waits")
    training = build_on(device, case_of(CASES[case], precision=precision))
    if precision == "fp16" and device.type == "cuda":  # a scale at which tiny nets do not overflow
        for optimizer in training.optimizers.values():
            optimizer.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    assert check_updates_without_sync(training, device) == 3


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_an_update_with_any_loss_does_not_wait_for_the_gpu(name, device):
    several = name == "bce"
    document = case_of(
        {"objectives": [objective(name)] if several else [CE, objective(name)], "data": {"multi_label": True} if several else {}}
    )
    assert check_updates_without_sync(build_on(device, document), device) == 3


def check_updates_without_sync(training, device):
    """Two updates to warm up, then one in which nothing may wait; returns how many were run."""
    training.group.train()
    for update, window in enumerate(training.windows(0)):
        list(window.batches)  # loaded, and not yet on the device
        if update < 2:
            training.train_step(window, update, measure=False)
            continue
        with no_host_sync(device):
            training.train_step(window, update, measure=False)
        break
    training.close()
    assert all(torch.isfinite(value).all() for value in weights(training.group).values())
    return update + 1


def test_what_copies_to_the_gpu_is_pinned(device):
    """Otherwise non_blocking copies nothing in the background."""
    training = build_on(device, document_of())
    batch = next(iter(next(iter(training.windows(0))).batches))
    training.close()
    assert batch.images.is_pinned() or batch.images.device.type == "cuda" or device.type == "cpu"


@pytest.mark.cuda_only
def test_an_overflow_in_one_peer_skips_that_peer_alone(device):
    training = build_on(device, document_of(peers=NORMED, objectives=PLAIN, train={"precision": "fp16"}))
    scales = {"a": 2.0**127, "b": 2.0**8}
    for name, scale in scales.items():
        training.optimizers[name].scaler = torch.amp.GradScaler("cuda", init_scale=scale)
    before = {key: value.clone() for key, value in weights(training.group).items()}
    next(updates(training))
    after = weights(training.group)
    parameters = [f"{name}.{key}" for name, peer in training.group.peers.items() for key, _ in peer.model.named_parameters()]
    assert all(torch.equal(after[key], before[key]) for key in parameters if key.startswith("a."))
    assert not any(torch.equal(after[key], before[key]) for key in parameters if key.startswith("b.") and key.endswith("weight"))
    assert [training.optimizers[name].scaler.get_scale() for name in "ab"] == [2.0**126, 2.0**8]
    training.close()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_gives_losses_and_gradients_near_those_of_float32(precision, device):
    losses = {}
    for each in ("no", precision):
        training = build_on(
            device, document_of(peers=NORMED, objectives=[*PLAIN, {"loss": "rkd_distance", "at": "body"}], train={"precision": each})
        )
        (output,) = training.train_step.forward_only(next(iter(training.windows(0))))
        assert all(loss.dtype == torch.float32 for loss in output.losses.values())
        assert all(value.dtype == torch.float32 for key, value in weights(training.group).items() if key.endswith("weight"))
        losses[each] = torch.cat([values for _, values in output.edge_losses.blocks])
        training.close()
    torch.testing.assert_close(losses[precision], losses["no"], rtol=0.05, atol=0.02)


def test_compiled_peers_give_the_eager_numbers_with_a_graph_for_each_size(device):
    """Two epochs whose last batch is shorter: each of two kinds of peers compiles twice, and not again."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    sections = {"peers": NORMED, "objectives": [*PLAIN, {"loss": "hint", "at": "body"}], "optimizer": {"name": "sgd", "lr": 0.01}}
    document = document_of(**sections, train={"compile": True})
    with room_for_graphs([parse_recipe(document)]):
        compiled = train_on(device, document, epochs=2)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2 * 2
    assert_close(compiled, train_on(device, document_of(**sections), epochs=2), tolerance=2e-3)
    torch._dynamo.reset()


def test_replayed_graphs_give_the_eager_numbers(device):
    """CUDA graphs, where the recipe knows them: sources are read after others have run, and outputs are kept beyond a backward."""
    sections = {"peers": {name: {"model": "small_cnn"} for name in "ab"}, "data": {"image_size": 28}}
    sections |= {"objectives": [*PLAIN, {"loss": "kd", "sources": "ema"}], "optimizer": {"name": "sgd", "lr": 0.01}}
    try:
        document = document_of(**sections, train={"ema": 0.9, "compile": True, "compile_mode": "reduce-overhead"})
        parse_recipe(document)
    except ValueError:
        pytest.skip("train.compile_mode is not there")
    torch._dynamo.reset()
    compiled = train_on(device, document, epochs=2)
    assert_close(compiled, train_on(device, document_of(**sections, train={"ema": 0.9}), epochs=2), tolerance=2e-3)
    torch._dynamo.reset()


def test_an_evaluation_counts_each_image_once(device):
    """The CPU's scores, of batches of several sizes, the last of them padded."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 21, 6, generator=generator), torch.randint(6, (21,), generator=generator)
    scores = []
    for where in (device, CPU):
        evaluator = Evaluator(["a", "b"], ["a", "b"], num_classes=6, device=where)
        batches, rows = [], []
        for start, end in ((0, 8), (8, 16), (16, 21)):
            batches.append(Batch(torch.zeros(end - start, 1, 2, 2, dtype=torch.uint8), labels[start:end], end - start, end - start))
            rows.append(slice(start, end))
        remaining = iter(rows)

        def predict(pixels, batch, where=where, remaining=remaining):
            assert pixels.device == where
            part = next(remaining)
            return {name: logits[index, part].to(where) for index, name in enumerate("ab")}

        scores.append(evaluator(predict, batches))
    for member, row in scores[1].items():
        for key, value in row.items():
            assert scores[0][member][key] == pytest.approx(value, abs=1e-5), (member, key)
    assert scores[0]["a"]["top1"] == pytest.approx(float((logits[0].argmax(dim=1) == labels).float().mean()))


@pytest.mark.cuda_only
@pytest.mark.skipif("backward" not in Train.model_fields, reason="train.backward is not there")
def test_one_backward_a_peer_takes_less_memory(device):
    peers = {name: {"model": "torchvision/resnet18"} for name in "abcd"}
    data = {"image_size": 96, "channels": 3, "num_classes": 10, "batch_size": 128, "num_train": 256}
    peaks = {}
    for backward in ("joint", "per_peer"):
        training = build_on(device, document_of(peers=peers, objectives=PLAIN, data=data, train={"backward": backward}))
        for update in updates(training):
            if update == 0:
                torch.cuda.synchronize(device)
                torch.cuda.reset_peak_memory_stats(device)
        peaks[backward] = torch.cuda.max_memory_allocated(device)
        training.close()
        del training
        torch.cuda.empty_cache()
    print(f"peak MB of 4 ResNet18, 128 images of 96 px: { {key: round(value / 1e6) for key, value in peaks.items()} }")  # noqa: T201
    assert peaks["per_peer"] < 0.75 * peaks["joint"]
