"""Schedules in closed form, optimizers by name, weight decay where it is wanted."""

import io
import math

import pytest
import timm.optim
import torch
from support import build, tiny_document
from torch import nn

import mutual
from mutual.engine.monitoring.train_metrics import NonFiniteLossError
from mutual.engine.training.peer_optimizer import PeerOptimizer, build_optimizer
from mutual.engine.training.schedule import build_schedule
from mutual.recipe import Optimizer, RecipeError, Schedule, parse_recipe

CE = {"loss": "cross_entropy"}


def rates(epochs=10, per_epoch=4, lr=0.5, **fields):
    schedule = build_schedule(Schedule(**fields), lr=lr, updates_per_epoch=per_epoch, epochs=epochs)
    return [schedule(update) for update in range(epochs * per_epoch)]


def test_cosine_after_warmup():
    found = rates(name="cosine", warmup_epochs=2, min_lr=0.1)
    assert found[:8] == pytest.approx([0.5 * (update + 1) / 8 for update in range(8)])
    assert found[8] == 0.5
    assert found[24] == pytest.approx(0.1 + 0.4 * (1 + math.cos(math.pi / 2)) / 2)
    assert found[-1] > 0.1


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_a_learning_rate_under_the_least_one_stays_as_it_is(name):
    """`min_lr` may be one of all peers, of which one learns more slowly than that; no schedule rises."""
    assert rates(name=name, min_lr=0.9, lr=0.5) == [0.5] * 40
    assert rates(name=name, min_lr=0.1, lr=0.5)[20] == pytest.approx(0.3)


def test_a_warmup_longer_than_the_training_never_ends():
    assert rates(name="cosine", warmup_epochs=10) == pytest.approx([0.5 * (update + 1) / 40 for update in range(40)])
    assert rates(name="cosine", warmup_epochs=20) == pytest.approx([0.5 * (update + 1) / 80 for update in range(40)])
    schedule = build_schedule(Schedule(name="cosine", warmup_epochs=10), lr=0.5, updates_per_epoch=4, epochs=10)
    assert schedule(40) == 0.5, "what a benchmark asks for beyond the last update"


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_a_schedule_that_is_all_warmup_goes_on_beyond_its_last_update(name):
    """A benchmark runs more updates than a short training has."""
    learning_rate = build_schedule(Schedule(name=name, warmup_epochs=1), lr=0.5, updates_per_epoch=4, epochs=1)
    assert [learning_rate(update) for update in (3, 4)] == [0.5, 0.5]


def test_linear_step_multistep_constant():
    assert rates(name="constant") == [0.5] * 40
    assert rates(name="linear") == pytest.approx([0.5 * (1 - update / 40) for update in range(40)])
    assert rates(name="step", step_epochs=4, gamma=0.1) == pytest.approx([0.5] * 16 + [0.05] * 16 + [0.005] * 8)
    assert rates(name="multistep", milestones=[2, 9], gamma=0.5) == pytest.approx([0.5] * 8 + [0.25] * 28 + [0.125] * 4)


def test_cosine_equals_torchs_own():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    expected = []
    for _ in range(40):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates(name="cosine") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("interval", ["update", "epoch"])
@pytest.mark.parametrize("min_lr", [0.0, 0.01])
def test_a_cosine_with_a_period_rises_again_as_torchs_own(interval, min_lr):
    """CosineAnnealingLR beyond its T_max, stepped with each update or once an epoch."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    period = 6 * (4 if interval == "update" else 1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=period, eta_min=min_lr)
    expected = []
    for _ in range(20):
        for _ in range(4):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if interval == "update":
                scheduler.step()
        if interval == "epoch":
            scheduler.step()
    found = rates(name="cosine", period_epochs=6, min_lr=min_lr, interval=interval, epochs=20)
    assert found == pytest.approx(expected, abs=1e-12)
    assert (found[24], found[48], found[72]) == pytest.approx((min_lr, 0.5, min_lr))


@pytest.mark.parametrize("fields", [{"name": "linear"}, {"name": "cosine"}, {"name": "step", "step_epochs": 1.5}])
def test_a_rate_that_changes_once_an_epoch_is_that_of_its_first_update(fields):
    every_update = rates(**fields)
    assert rates(**fields, interval="epoch") == [every_update[update - update % 4] for update in range(40)]


def test_a_warmup_rises_with_each_update_and_may_end_within_an_epoch():
    found = rates(name="linear", warmup_epochs=1.5, interval="epoch")
    assert found[:6] == pytest.approx([0.5 * (update + 1) / 6 for update in range(6)])
    assert found[6:12] == pytest.approx([0.5] * 2 + [0.5 * (1 - 2 / 34)] * 4)


def test_a_period_of_what_is_no_cosine_is_refused():
    peers = {"a": {"model": "small_cnn", "schedule": {"name": "step", "period_epochs": 2}}, "b": {"model": "small_cnn"}}
    schedule = {"name": "linear", "period_epochs": 2}
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"name": "x", "peers": peers, "objectives": [CE], "schedule": schedule})
    assert [(fault.path, fault.message) for fault in caught.value.faults] == [
        ("schedule.period_epochs", "belongs to name: cosine, not to linear"),
        ("peers.a.schedule.period_epochs", "belongs to name: cosine, not to step"),
    ]


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("AdamW", torch.optim.AdamW), ("lamb", timm.optim.Lamb)])
def test_optimizers_of_torch_and_timm_by_name(name, kind):
    parameters = list(nn.Linear(2, 2).parameters())
    optimizer = build_optimizer(Optimizer(name=name, lr=0.1), parameters)
    assert isinstance(optimizer, kind)
    before = parameters[0].detach().clone()
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not torch.equal(before, parameters[0])


def test_weight_decay_leaves_out_norm_and_bias_on_request():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = build_optimizer(Optimizer(weight_decay=0.1, decay_norm_and_bias=False), list(model.parameters()))
    decay = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert decay[id(model[0].weight)] == 0.1
    assert {decay[id(parameter)] for parameter in (model[0].bias, model[1].weight, model[1].bias)} == {0.0}
    assert len(decay) == 4


TORCHS = [name.lower() for name, value in vars(torch.optim).items() if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)]
NAMES = sorted({*TORCHS, *timm.optim.list_optimizers()} - {"optimizer"})


@torch.compiler.set_stance("force_eager")
def test_every_optimizer_of_torch_and_timm_trains_or_is_one_line():
    """Those that need another machine or package (bnb..., fused...) and those that no training can step are refused when they are built."""
    refused = {}
    for name in NAMES:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 4))
        state = torch.get_rng_state()
        try:
            optimizer = build_optimizer(Optimizer(name=name, lr=0.001), list(model.parameters()))
        except ValueError as error:
            refused[name] = str(error)
            continue
        assert torch.equal(torch.get_rng_state(), state), f"{name}: the trial drew from the training's generator"
        for _ in range(3):
            loss = model(torch.randn(8, 1, 4, 4)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert loss.isfinite(), name
        assert all(parameter.isfinite().all() for parameter in model.parameters()), name
        saved = io.BytesIO()
        torch.save(optimizer.state_dict(), saved)
        optimizer.load_state_dict(torch.load(io.BytesIO(saved.getvalue()), weights_only=True))
    assert len(NAMES) - len(refused) > 50
    assert not [line for line in refused.values() if "\n" in line]
    assert {"lbfgs", "sparseadam", "adahessian"} <= set(refused)
    assert all(name in ("lbfgs", "sparseadam", "adahessian", "muon") or name.startswith(("bnb", "fused")) for name in refused), refused


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "lbfgs"}, "lbfgs cannot train a peer: it computes the loss several times in a step"),
        ({"name": "SparseAdam"}, "SparseAdam cannot train a peer: its gradients must be sparse"),
        ({"name": "adahessian"}, "adahessian cannot train a peer: it needs second derivatives"),
        ({"name": "adam", "args": {"capturable": True}}, "adam: cannot be used here: AssertionError: If capturable=True"),
        ({"name": "lamb", "args": {"opt": "sgd"}}, "lamb: .*multiple values for argument 'opt'"),
        ({"name": "adamw", "args": {"foreach": True, "fused": True}}, "adamw: cannot be used here: RuntimeError: `fused` and `foreach`"),
        ({"name": "adam", "betas": [1.0, 0.9]}, "adam: Invalid beta parameter"),
    ],
)
def test_an_optimizer_that_cannot_step_is_one_line_before_the_training(spec, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_optimizer(Optimizer(**spec), list(nn.Linear(2, 2).parameters()))
    assert "\n" not in str(caught.value)


def test_an_optimizer_of_a_package_that_raises_anything_is_one_line(monkeypatch):
    for error in (ImportError("no apex"), AssertionError(), RuntimeError("two\nlines"), KeyError("x"), SystemError("gone")):

        def broken(*_, error=error, **__):
            raise error

        monkeypatch.setattr("timm.optim.create_optimizer_v2", broken)
        with pytest.raises(ValueError, match=rf"^lamb: cannot be used here: {type(error).__name__}(: |$)") as caught:
            build_optimizer(Optimizer(name="lamb"), list(nn.Linear(2, 2).parameters()))
        assert "\n" not in str(caught.value)


def optimizer_of(precision):
    return build(tiny_document(peers={"a": {"model": "support:tiny"}}, objectives=[CE], train={"precision": precision}))[3]._optimizers["a"]


def test_the_state_of_an_optimizer_without_a_loss_scale_is_taken_over_by_one_with():
    """And the other way round: a checkpoint of float32 holds no scale, and none is read there."""
    saved = {precision: optimizer_of(precision) for precision in ("no", "fp16")}
    saved["fp16"].scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    taken = {precision: optimizer_of("fp16") for precision in saved}
    for precision, optimizer in taken.items():
        optimizer.load_state_dict(saved[precision].state_dict())
    assert [taken[precision].scaler.get_scale() for precision in ("no", "fp16")] == [2.0**10, 64.0]
    plain = optimizer_of("no")
    plain.load_state_dict(saved["fp16"].state_dict())
    assert plain.scaler.get_scale() == 1


def test_the_trial_moves_no_parameter_of_the_peer():
    group, train_step = build(tiny_document(optimizer={"name": "lamb", "lr": 0.1}))[2:]
    plain = build(tiny_document())[2]
    assert train_step is not None
    for name, peer in group.peers.items():
        for mine, other in zip(peer.model.parameters(), plain.peers[name].model.parameters(), strict=True):
            assert torch.equal(mine, other)
            assert mine.grad is None


def stepping(precision="no", **changes):
    """A peer with a gradient of ones, and its optimizer."""
    document = tiny_document(peers={"a": {"model": "support:tiny"}}, objectives=[CE], optimizer={"name": "sgd", "lr": 0.5})
    _, _, group, train_step = build({**document, "train": {"precision": precision, **changes}})
    peer, optimizer = group.peers["a"], train_step._optimizers["a"]
    loss = optimizer.scale(sum(parameter.sum() for parameter in peer.parameters()))
    loss.backward()
    return peer, optimizer


@pytest.mark.parametrize("precision", ["no", "fp16"])
@pytest.mark.parametrize(("clip", "measure"), [(None, False), (None, True), (0.5, False), (1e6, True)])
def test_a_step_unscales_measures_clips_and_clears(precision, clip, measure):
    peer, optimizer = stepping(precision, clip_grad_norm=clip)
    before = [parameter.detach().clone() for parameter in peer.parameters()]
    norm = math.sqrt(sum(parameter.numel() for parameter in before))
    optimizer.step(3, measure=measure)
    assert (optimizer.grad_norm is None) == (clip is None and not measure)
    if optimizer.grad_norm is not None:
        assert optimizer.grad_norm.item() == pytest.approx(norm), "before clipping"
    moved = 0.5 * (min(1.0, 0.5 / norm) if clip == 0.5 else 1.0)
    for parameter, old in zip(peer.parameters(), before, strict=True):
        torch.testing.assert_close(old - parameter.detach(), torch.full_like(old, moved), rtol=1e-4, atol=1e-6)
        assert parameter.grad is None
    assert optimizer.learning_rate == 0.5


@pytest.mark.parametrize("precision", ["no", "fp16"])
def test_a_step_clips_each_parameter_by_itself(precision):
    peer, optimizer = stepping(precision, clip_parameter_norm=2.0)
    before = [parameter.detach().clone() for parameter in peer.parameters()]
    optimizer.step(0)
    for parameter, old in zip(peer.parameters(), before, strict=True):
        moved = 0.5 * min(1.0, 2.0 / math.sqrt(old.numel()))
        torch.testing.assert_close(old - parameter.detach(), torch.full_like(old, moved), rtol=1e-4, atol=1e-6)


def test_a_step_takes_the_learning_rate_of_its_update_in_every_group():
    """Or the same multiple of it as in the beginning."""
    peer, plain = stepping()
    groups = [{"params": [parameter]} for parameter in peer.parameters()]
    groups[1]["lr"] = 0.25
    optimizer = PeerOptimizer(peer, torch.optim.SGD(groups, lr=2.0), lambda update: 0.1 * (update + 1), scaler=plain.scaler)
    optimizer.step(4)
    assert [group["lr"] for group in optimizer.optimizer.param_groups] == [0.5, 0.0625, *[0.5] * (len(groups) - 2)]
    assert (optimizer.learning_rate, optimizer.learning_rate_range) == (0.5, (0.0625, 0.5))
    assert plain.learning_rate_range is None
    assert optimizer.grad_norm is None, "it is measured where that is asked for"


def test_the_learning_rate_is_found_behind_parameters_that_have_none():
    peer, plain = stepping()
    for own, expected in ((0.25, 0.5), (0.0, 0.0)):
        groups = [{"params": [parameter], "lr": own if index else 0.0} for index, parameter in enumerate(peer.parameters())]
        optimizer = PeerOptimizer(peer, torch.optim.SGD(groups, lr=2.0), lambda update: 0.1 * (update + 1), scaler=plain.scaler)
        optimizer.step(4)
        assert (optimizer.learning_rate, optimizer.optimizer.param_groups[0]["lr"]) == (expected, 0.0)


def test_a_step_moves_the_average_and_a_skip_moves_nothing():
    peer, optimizer = stepping(ema=0.9)
    before = {name: value.clone() for name, value in peer.model.state_dict().items()}
    optimizer.skip()
    assert all(parameter.grad is None for parameter in peer.parameters())
    assert all(torch.equal(value, before[name]) for name, value in peer.model.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in peer.average.model.state_dict().items())
    sum(parameter.sum() for parameter in peer.parameters()).backward()
    optimizer.step(0)
    for name, value in peer.average.model.state_dict().items():
        torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * peer.model.state_dict()[name])


def test_a_restored_optimizer_goes_on_with_its_momentum():
    optimizers = [stepping()[1] for _ in range(2)]
    for optimizer in optimizers:
        optimizer.optimizer.param_groups[0]["momentum"] = 0.9
    optimizers[0].step(0)
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    states = [optimizer.optimizer.state_dict()["state"] for optimizer in optimizers]
    assert states[0].keys() == states[1].keys() != set()
    assert all(torch.equal(states[0][key]["momentum_buffer"], states[1][key]["momentum_buffer"]) for key in states[0])


def test_weight_decay_has_one_group_unless_it_tells_parameters_apart():
    parameters = list(nn.Linear(2, 2).parameters())
    whole = build_optimizer(Optimizer(weight_decay=0.1), parameters).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in whole] == [(2, 0.1)]
    none = build_optimizer(Optimizer(weight_decay=0.0, decay_norm_and_bias=False), parameters).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in none] == [(2, 0.0)]
    apart = build_optimizer(Optimizer(weight_decay=0.1, decay_norm_and_bias=False), parameters).param_groups
    assert [(group["params"][0].dim(), group["weight_decay"]) for group in apart] == [(2, 0.1), (1, 0.0)]
    biases = build_optimizer(Optimizer(weight_decay=0.1, decay_norm_and_bias=False), parameters[1:]).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in biases] == [(1, 0.0)], "no group is empty"


def test_the_sections_fields_reach_the_optimizer():
    parameters = list(nn.Linear(2, 2).parameters())
    adam = build_optimizer(Optimizer(name="adamw", lr=0.3, betas=(0.8, 0.9), eps=1e-3, args={"amsgrad": True}), parameters).defaults
    assert (adam["lr"], adam["betas"], adam["eps"], adam["amsgrad"]) == (0.3, (0.8, 0.9), 1e-3, True)
    sgd = build_optimizer(Optimizer(name="sgd", momentum=0.7, nesterov=True), parameters).defaults
    assert (sgd["momentum"], sgd["nesterov"]) == (0.7, True)


@pytest.mark.parametrize("model", ["support:tiny", "support:double"])
@pytest.mark.parametrize("optimizer", [{"name": "sgd", "lr": 1e38}, {"name": "adamw", "lr": 1e38}, {"name": "lamb", "lr": 1e300}])
def test_an_absurd_learning_rate_ends_in_a_line(tmp_path, model, optimizer):
    peers = {name: {"model": model} for name in "ab"}
    document = tiny_document(peers=peers, optimizer={**optimizer, "weight_decay": 0.1}, output=str(tmp_path))
    with pytest.raises((NonFiniteLossError, RecipeError)) as caught:
        mutual.fit(parse_recipe(document))
    assert "\n" not in str(caught.value)
