"""What a peer answers with, in which mode, and that it leaves nothing behind."""

import copy
from types import SimpleNamespace

import pytest
import torch
from support import IDENTITY, WORLD, TinyNet
from torch import nn

from mutual.group import MovingAverage, Peer, TappedModel


def images(seed=0):
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def peer_of(*, frozen=False, averaged=False, **arguments):
    torch.manual_seed(0)
    model = TinyNet(4, 1, norm=True, dropout=0.5)
    average = MovingAverage(model, decay=0.9, paths=["body"]) if averaged else None
    if averaged:
        with torch.no_grad():
            average.model.head.bias += 1
    return Peer("a", TappedModel(model, ["stem"]), frozen=frozen, input=IDENTITY, average=average, **arguments)


def test_the_average_is_scored_where_it_is_asked_for():
    peer = peer_of(averaged=True)
    assert peer.eval_model is peer.average.model
    assert peer.model is not peer.average.model
    peer.train_module.eval()
    torch.testing.assert_close(peer.predict(images()), peer.forward_ema(images())["logits"])
    apart = peer_of(averaged=True, evaluate_average=False)
    assert apart.eval_model is apart.model
    apart.train_module.eval()
    torch.testing.assert_close(apart.predict(images()), apart.tapped(images())["logits"])
    assert not torch.equal(peer.predict(images()), apart.predict(images()))


def test_an_average_runs_in_eval_mode_with_taps_of_its_own():
    peer = peer_of(averaged=True)
    peer.train_module.train()
    first, second = peer.forward_ema(images()), peer.forward_ema(images())
    assert first.keys() == {"logits", "body"}
    assert torch.equal(first["logits"], second["logits"]), "no dropout"
    assert not first["logits"].requires_grad


def test_a_peer_is_all_its_modules_and_trains_its_own():
    plain = peer_of()
    assert plain.modules == [plain.tapped]
    peer = peer_of(averaged=True)
    assert peer.modules == [peer.tapped, peer.average.tapped]
    assert {id(parameter) for parameter in peer.parameters()} == {id(parameter) for parameter in peer.model.parameters()}
    peer.model.stem.weight.requires_grad_(False)
    assert not any(parameter is peer.model.stem.weight for parameter in peer.parameters())


def test_a_distributed_peer_knows_its_processes():
    peer = peer_of()
    assert peer.comm is None
    peer.distribute(WORLD)
    assert peer.comm is WORLD
    assert peer.train_module is peer.tapped, "one process needs no DDP"
    assert not any(hasattr(layer, "process_group") for layer in peer.tapped.modules())
    wrapped = nn.Identity()
    comm = SimpleNamespace(process_group="these", wrap_ddp=lambda module: wrapped if module is peer.tapped else None)
    peer.model.norm = nn.SyncBatchNorm(4)
    peer.distribute(comm)
    assert peer.train_module is wrapped
    assert peer.model.norm.process_group == "these"


@pytest.mark.parametrize("training", [True, False])
def test_a_forward_without_side_effects_is_the_forward_and_moves_nothing(training):
    peer = peer_of()
    peer.train_module.train(training)
    before = copy.deepcopy(peer.model.state_dict())
    torch.manual_seed(1)
    found = peer.forward_without_side_effects(images())
    assert all(torch.equal(value, before[name]) for name, value in peer.model.state_dict().items())
    torch.manual_seed(1)
    expected = peer.train_module(images())
    assert found.keys() == expected.keys() == {"logits", "stem"}
    for path, output in found.items():
        assert torch.equal(output, expected[path])
        assert not output.requires_grad
    assert peer.model.norm.num_batches_tracked == training
    assert not any(hasattr(layer, "track_running_stats") for layer in peer.model.modules() if not isinstance(layer, nn.BatchNorm2d))


def test_a_norm_without_statistics_stays_without():
    peer = peer_of()
    peer.model.norm = nn.BatchNorm2d(4, track_running_stats=False)
    peer.train_module.train()
    peer.forward_without_side_effects(images())
    assert peer.model.norm.track_running_stats is False


def test_statistics_are_kept_again_after_an_error():
    peer = peer_of()
    peer.train_module.train()
    with pytest.raises(RuntimeError):
        peer.forward_without_side_effects(torch.zeros(1))
    assert peer.model.norm.track_running_stats


def test_a_frozen_peer_answers_alike_in_every_way():
    peer = peer_of(frozen=True)
    peer.train_module.train()
    expected = peer.train_module(images())["logits"]
    assert torch.equal(peer.forward_without_side_effects(images())["logits"], expected)
    assert torch.equal(peer.predict(images()), expected)
    assert peer.parameters() == []


def test_instance_norms_with_statistics_answer_alike():
    peer = peer_of()
    peer.model.norm = nn.InstanceNorm2d(4, track_running_stats=True)
    peer.train_module.train()
    peer.train_module(3 + images())
    peer.train_module.eval()
    expected = peer.train_module(images())["logits"]
    torch.testing.assert_close(peer.forward_without_side_effects(images())["logits"], expected)


def test_a_frozen_peer_is_in_eval_mode_from_the_beginning():
    peer = peer_of(frozen=True)
    assert not any(module.training for module in peer.model.modules())


def test_a_warm_averages_decay_grows_to_the_one_that_is_asked_for():
    peer = peer_of()
    average = MovingAverage(peer.model, decay=0.4, warmup=True)
    before = average.model.head.bias.clone()
    with torch.no_grad():
        peer.model.head.bias += 1
    average.update(peer.model, update=9)
    torch.testing.assert_close(average.model.head.bias, before + 0.6)
    cold = MovingAverage(TinyNet(4, 1, norm=True), decay=0.4)
    before = cold.model.head.bias.clone()
    cold.update(peer.model, update=0)
    torch.testing.assert_close(cold.model.head.bias, 0.4 * before + 0.6 * peer.model.head.bias)
