"""What only a GPU shows of the losses, the steps and the evaluation: determinism, TF32, and that the host waits for nothing."""

import copy

import pytest
import torch
from support import build, tiny_document
from update_cases import CASES, CE, tiny_peers

from mutual.data import Batch
from mutual.engine.evaluation import ChanceMeter, Evaluator
from mutual.engine.evaluation.scored_batch import ScoredBatch
from mutual.engine.runtime import Environment, restore_switches
from mutual.engine.training import build_training
from mutual.group import Communicator
from mutual.objectives import build_loss
from mutual.objectives.products import einsum, matmul
from mutual.recipe import parse_recipe

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
DEVICE = torch.device("cuda")


def training_of(document):
    recipe = parse_recipe(document)
    training = build_training(recipe, Environment(None, Communicator(0, 1, DEVICE), recipe.train.precision or "no"))
    training.group.train()
    for optimizer in training.optimizers.values():  # a scale at which tiny nets do not overflow
        optimizer.scaler = torch.amp.GradScaler("cuda", enabled=recipe.train.precision == "fp16", init_scale=2.0**10)
    return training, list(training.windows(0))


@pytest.mark.parametrize(("name", "learner", "source"), [("at", (3, 7, 5), (2, 3, 4)), ("hint", (3, 7, 5), (2, 4, 9))])
def test_pooling_has_a_deterministic_gradient(name, learner, source):
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(4, *shape, generator=generator) for shape in (learner, source)]
    loss = build_loss(name, learner_shape=learner, source_shape=source)
    gradients = []
    with restore_switches():
        torch.use_deterministic_algorithms(True)
        for device in (torch.device("cpu"), DEVICE, DEVICE):
            of_learner, of_source = (output.clone().to(device).requires_grad_() for output in outputs)
            copy.deepcopy(loss).to(device)(of_learner, of_source).backward()
            gradients.append(of_learner.grad.cpu())
    assert torch.equal(gradients[1], gradients[2])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=2e-3, atol=1e-4)  # convolutions may be in TF32


@pytest.mark.parametrize("product", [matmul, lambda a, b: einsum("ij,jk->ik", a, b)])
@pytest.mark.parametrize("tf32", [False, True])
def test_products_of_losses_are_in_float32_whatever_tf32_is_allowed_for(product, tf32):
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(256, 256, generator=generator) for _ in range(2)]
    exact = [factor.double().requires_grad_() for factor in factors]
    (exact[0] @ exact[1]).square().sum().backward()
    with restore_switches():
        torch.backends.cuda.matmul.allow_tf32 = tf32
        on_device = [factor.to(DEVICE).requires_grad_() for factor in factors]
        result = product(*on_device)
        result.square().sum().backward()
    torch.testing.assert_close(result.cpu().double(), exact[0] @ exact[1], rtol=1e-4, atol=1e-4)
    for mine, other in zip(on_device, exact, strict=True):
        torch.testing.assert_close(mine.grad.cpu().double(), other.grad, rtol=1e-4, atol=2e-2)  # of about 500: TF32 is wrong by 0.3


def assert_the_host_does_not_wait(document):
    training, windows = training_of(document)
    for update, window in enumerate(windows[:2]):  # what is made once, and the first steps of fused optimizers
        training.train_step(window, update, measure=False)
    window = windows[2]
    pinned = [batch.pin_memory() for batch in window.batches]
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        training.train_step(type(window)(window.num_samples, pinned, window.sizes), 2, measure=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("case", [*CASES, "fp16 as the recipe says nothing of its form"])
def test_no_switch_makes_the_host_wait_on_a_gpu(case):
    assert_the_host_does_not_wait(tiny_peers(**CASES.get(case, {"train": {"precision": "fp16"}})))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("overflows", [(), (0, 1), (2, 4), (0, 3)])
def test_an_overflow_skipped_by_the_kernel_is_one_skipped_by_the_host(name, overflows):
    results = []
    for by_host in (False, True):
        document = tiny_document(peers={"a": {"model": "support:tiny"}}, objectives=[CE], train={"precision": "fp16"})
        document["optimizer"] = {"name": name, "lr": 0.1}
        training, _ = training_of(document)
        optimizer = training.optimizers["a"]
        assert optimizer.optimizer.param_groups[0]["fused"]
        for update in range(6):
            if by_host:
                optimizer.optimizer._step_supports_amp_scaling = False
            generator = torch.Generator().manual_seed(update)
            optimizer.scale(torch.zeros((), device=DEVICE))
            for parameter in optimizer._parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(DEVICE) * optimizer.scaler.get_scale()
            if update in overflows:
                optimizer._parameters[0].grad.flatten()[0] = torch.inf
            optimizer.step(update)
        state = optimizer.state_dict()
        tensors = [value for values in state["optimizer"]["state"].values() for value in values.values() if torch.is_tensor(value)]
        results.append(([*optimizer._parameters, *tensors], state["scaler"]))
    assert results[0][1] == results[1][1]
    assert len(results[0][0]) == len(results[1][0])
    assert all(torch.equal(mine, other) for mine, other in zip(results[0][0], results[1][0], strict=True))


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_host_waits_for_no_batch_of_an_evaluation_on_a_gpu(multi_label):
    peers, known = ("a", "b", "c"), {"c": (0, 2, 5)}
    options = {"num_classes": 7, "multi_label": multi_label, "known_classes": known}
    evaluator = Evaluator(peers, peers, device=DEVICE, **options)
    chance = ChanceMeter(peers, Communicator(0, 1, DEVICE), **options)
    labels = torch.eye(7) if multi_label else torch.arange(7)
    logits = {name: torch.randn(7, len(known.get(name, range(7))), device=DEVICE) for name in peers}
    batch = Batch(torch.zeros(7, 1, 4, 4, dtype=torch.uint8), labels, 7, 7)
    evaluator(lambda pixels, batch: logits, [batch], observers=[chance])
    labels = labels.to(DEVICE)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        chance.add(ScoredBatch(batch, logits, labels, evaluator._add(logits, labels)))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_update_computes_the_same_on_both_devices():
    """`build` is the CPU's."""
    document = tiny_document(objectives=[CE, {"loss": "dml"}], train={"tf32": False})
    _, data, group, train_step = build(document)
    group.train()
    training, windows = training_of(document)
    for update, window in enumerate(windows):
        train_step(window, update, measure=False)
        training.train_step(window, update, measure=False)
    data.close()
    for name, peer in group.peers.items():
        for mine, other in zip(peer.parameters(), training.group.peers[name].parameters(), strict=True):
            torch.testing.assert_close(mine, other.cpu(), rtol=1e-10, atol=1e-10)
