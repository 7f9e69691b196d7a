"""Run by torchrun in two processes: what World promises, asserted on every rank."""

from contextlib import nullcontext
from datetime import timedelta
from unittest.mock import patch

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from accelerate import Accelerator
from support import tiny_document
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from mutual.data import Batch
from mutual.engine.codistillation import WeightExchange, restrict_to_job
from mutual.engine.codistillation.weight_store import WeightStore
from mutual.engine.evaluation import ChurnMeter, DetailsMeter
from mutual.engine.evaluation.scored_batch import ScoredBatch, ScoredMember
from mutual.engine.runtime.launch_settings import LaunchSettings
from mutual.group import Communicator, DistillationLoss, MicroBatchContext, Taps, build_group, expand_objectives
from mutual.group.edges.edge_loss import EdgeLoss
from mutual.group.edges.selection import Selections
from mutual.objectives import build_loss
from mutual.recipe import parse_recipe

CONTRAST = {
    "name": "contrast",
    "peers": {"a": {"model": "small_cnn"}, "b": {"model": "small_cnn"}},
    "objectives": [{"loss": "cross_entropy"}, {"loss": "crd", "learners": ["a"]}],
}

accelerator = Accelerator(cpu=True)
comm = Communicator(accelerator.process_index, accelerator.num_processes, accelerator.device)
assert comm.size == 2
assert comm.is_main == (comm.rank == 0)
mine = torch.tensor([float(comm.rank), 10.0])

assert comm.all_reduce_sum(mine).tolist() == [1.0, 20.0]
assert comm.all_reduce_min(mine).tolist() == [0.0, 10.0]
assert comm.all_gather(mine).tolist() == [[0.0, 10.0], [1.0, 10.0]]
assert mine.tolist() == [float(comm.rank), 10.0], "collectives leave their input alone"

ragged = torch.full((2 - comm.rank, 3), float(comm.rank))
(rows, places), first = comm.all_gather_rows([ragged, torch.arange(2 - comm.rank)])
assert rows[:, 0].tolist() == [0.0, 0.0, 1.0]
assert places.tolist() == [0, 1, 0]
assert first == 2 * comm.rank
assert comm.all_gather_rows([ragged[:0]])[0][0].shape == (0, 3), "nothing anywhere is nothing"

before = comm.traffic.global_calls
(rows,), first = comm.all_gather_rows([ragged], [2, 1])
assert (rows[:, 0].tolist(), first) == ([0.0, 0.0, 1.0], 2 * comm.rank)
assert comm.traffic.global_calls == before + 1, "counts that are known are not asked for"

assert comm.all_gather_bytes(b"ab" * comm.rank) == [b"", b"ab"]
assert comm.all_gather_json({"rank": comm.rank}) == [{"rank": 0}, {"rank": 1}]
before = comm.traffic.subgroup_calls
if comm.is_main:
    comm.send(b"a message", to=1)
else:
    assert comm.receive(source=0) == b"a message"
assert comm.traffic.subgroup_calls == before + 1

before = comm.traffic.global_calls
counts = ([1, 2], [1, 3]) if comm.is_main else ([3, 1], [2, 1])
sent = torch.arange(sum(counts[0])) + 10 * comm.rank
arrived = comm.all_to_all(sent, *counts).wait()
assert arrived.tolist() == ([0, 10, 11, 12] if comm.is_main else [1, 2, 13])
assert (comm.traffic.global_calls, comm.traffic.subgroup_calls) == (before + 1, 0), "messages are counted since the last of all"

image = torch.arange(24.0).reshape(1, 2, 3, 4) + 100 * comm.rank
laid_out = image.to(memory_format=torch.channels_last) if comm.rank == 0 else image
assert comm.all_gather(laid_out).equal(torch.stack([image - 100 * comm.rank, image - 100 * comm.rank + 100])), "whatever the strides"
assert comm.all_reduce_sum(laid_out).equal(2 * (image - 100 * comm.rank) + 100)
assert comm.all_gather(laid_out.transpose(1, 3)).shape == (2, 1, 4, 3, 2)

for source in (0, 1):
    assert comm.broadcast_bytes(b"from %d" % source if comm.rank == source else None, source=source) == b"from %d" % source
assert comm.broadcast_bytes(b"" if comm.is_main else None) == b""

first, second, both = comm.split([[0], [1], [0, 1]])
assert (first is None) == (comm.rank == 1)
assert (second is None) == (comm.rank == 0)
alone = first or second
assert alone.process_group is not None, "one rank of several has a process group of its own: torch takes None for all"
assert (alone.size, dist.get_world_size(alone.process_group)) == (1, 1)
assert dist.get_process_group_ranks(alone.process_group) == [comm.rank]
assert dist.get_world_size(both.process_group) == 2
assert (both.rank, both.size) == (comm.rank, 2)
assert both.process_group is comm.process_group, "all are no group of their own"
assert [comm.split([[comm.rank]])[0].rank, *(each is None for each in comm.split([[1 - comm.rank]]))] == [0, True]
same = comm.split([[0, 1], [1, 0], [1, 0]])
assert [each.rank for each in same] == [comm.rank, 1 - comm.rank, 1 - comm.rank]
assert same[1].process_group is same[2].process_group
before = comm.traffic.subgroup_calls
assert same[1].all_reduce_sum(mine).tolist() == [1.0, 20.0]
assert comm.traffic.subgroup_calls == before + 1
assert Communicator(0, 1, torch.device("cpu")).process_group is None
(pair,) = Communicator(comm.rank, 2, comm.device, timeout=timedelta(seconds=77)).split([[1, 0]])
assert pair.process_group._get_backend(comm.device).options._timeout == timedelta(seconds=77)

image_3 = (image[:, :, :, :3] if comm.is_main else image[:, :, :, 1:]).clone(memory_format=torch.channels_last)
given = [torch.full((2, 3), comm.rank + 0.5), torch.tensor(7 + comm.rank), image_3, torch.tensor([comm.rank + 1.25], dtype=torch.float64)]
before = comm.traffic.global_calls
comm.broadcast_(given)
assert comm.traffic.global_calls == before + 3, "one for each dtype"
assert [given[0].tolist(), given[1].item(), given[3].item()] == [[[0.5] * 3] * 2, 7, 1.25]
assert given[2].equal(image[:, :, :, :3] - 100 * comm.rank)
assert given[2].is_contiguous(memory_format=torch.channels_last), "in place"
alone.broadcast_(kept := [torch.tensor([comm.rank])])
assert kept[0].item() == comm.rank

folder = "memory://published"  # which one process alone can see
document = tiny_document(exchange={"kind": "stale", "folder": folder, "trains": ["a"], "every": 1})
document["peers"]["b"] = {"model": "support:tiny", "args": {"norm": True}}
job = build_group(restrict_to_job(parse_recipe(document)), comm, num_classes=4, in_channels=1, image_size=(8, 8))
exchange = WeightExchange(restrict_to_job(parse_recipe(document)), job, comm)
exchange.attach()
published = {name: torch.full_like(tensor, 3) for name, tensor in job.peers["b"].model.state_dict().items()}
if comm.is_main:
    WeightStore(folder).publish("b", safetensors.torch.save(published), step=1)
with nullcontext() if comm.is_main else patch.object(WeightStore, "latest", side_effect=AssertionError("rank 0 reads")):
    exchange.refresh()
assert not job.unavailable_sources
for name, tensor in job.peers["b"].model.state_dict().items():
    assert tensor.equal(published[name]), f"every rank has what rank 0 has read: {name}"

normed = {"model": "support:tiny", "args": {"norm": True}}
for placement, members, layer in (("parallel", 1, nn.BatchNorm2d), ("replicated", 2, nn.SyncBatchNorm)):
    document = tiny_document(peers={"a": normed, "b": normed}, placement=placement, train={"sync_batchnorm": True})
    document["objectives"].append({"loss": "hint", "at": "body"})
    with patch.object(nn.parallel.DistributedDataParallel, "_passing_sync_batchnorm_handle"):  # which refuses CPUs
        group = build_group(parse_recipe(document), num_classes=4, in_channels=1, image_size=(8, 8), comm=comm, autocast=nullcontext)
    assert len(group.peers) == members
    for peer in group.peers.values():
        assert type(peer.model.norm) is layer, "statistics of one rank need no other, and those of other peers must not get in"
        for each in peer.tapped.modules():
            if isinstance(each, nn.SyncBatchNorm):
                assert dist.get_world_size(each.process_group) == members

norm = nn.BatchNorm1d(3)
norm.running_mean.fill_(comm.rank)
norm.num_batches_tracked.fill_(7)
comm.average_buffers([norm])
assert norm.running_mean.tolist() == [0.5] * 3
assert norm.num_batches_tracked == 7

before = comm.traffic.global_calls
comm.average_buffers([nn.Linear(2, 2)])
assert comm.traffic.global_calls == before, "there is nothing to average"

model = comm.wrap_ddp(nn.Linear(2, 1, bias=False))
before, bytes_before = comm.traffic.global_calls, comm.traffic.gradient_bytes
with comm.no_sync([model]):
    model(torch.full((1, 2), comm.rank + 1.0)).sum().backward()
assert model.module.weight.grad.tolist() == [[comm.rank + 1.0] * 2], "gradients stay local"
assert comm.traffic.global_calls == before
model(torch.full((1, 2), comm.rank + 1.0)).sum().backward()
assert model.module.weight.grad.tolist() == [[3.0] * 2], "the mean over the ranks of twice 1 and twice 2"
assert comm.traffic.global_calls == before + 1
assert comm.traffic.gradient_bytes == bytes_before + 2 * 4, "as a ring of two sends 2 numbers in float32"
model(torch.ones(1, 2))
with torch.no_grad():
    model(torch.ones(1, 2))
assert comm.traffic.gradient_bytes == bytes_before + 2 * 4, "nothing is sent without a backward"

layers = nn.Sequential(nn.Linear(700, 400), nn.Linear(400, 1500).double(), nn.Linear(1500, 2).requires_grad_(False))
reduced = []
with patch.object(nn.parallel.DistributedDataParallel, "register_forward_hook"):
    by_bucket = comm.wrap_ddp(layers)  # as torch's own hook sees what is sent
by_bucket.register_comm_hook(None, lambda _, bucket: reduced.append(bucket.buffer().nbytes) or allreduce_hook(None, bucket))
images = torch.randn(4, 700)
layers[0].register_forward_hook(lambda _module, _inputs, output: output.double())
layers[1].register_forward_hook(lambda _module, _inputs, output: output.float())
by_bucket(images).sum().backward()
assert len(reduced) == 2, "a bucket of each dtype"
bytes_before = comm.traffic.gradient_bytes
for _ in range(2):  # the first update's buckets are others
    comm.wrap_ddp(layers)(images).sum().backward()
assert comm.traffic.gradient_bytes - bytes_before == 2 * sum(reduced), "what travels in the buckets"


def fail_on_rank_1():
    with comm.raise_together():
        if comm.rank == 1:
            raise OSError(28, "No space left on device", "runs/x")


with pytest.raises(OSError, match="No space left on device: 'runs/x'"):
    fail_on_rank_1()
with comm.raise_together():
    pass

store = comm.store("checks")
store.set(f"from {comm.rank}", str(comm.rank))
assert store.get(f"from {1 - comm.rank}") == b"%d" % (1 - comm.rank)

output_key = [torch.randn(3, 4), torch.randn(3, 4)]
edge = next(edge for edge in expand_objectives(parse_recipe(CONTRAST)) if edge.objective.loss == "crd")
edge_loss = EdgeLoss(edge, build_loss("crd", learner_shape=(4,), source_shape=(4,)), lambda epoch: 1.0, comm=comm, unlabelled=True)
spoken = {"a": {"logits": output_key[0]}, "b": {"logits": output_key[1]}}
labels = torch.tensor([0, 1, 0]) if comm.rank == 0 else torch.tensor([-1, -1, -1])
value = edge_loss.forward(spoken["a"], spoken, Selections(labels), MicroBatchContext(num_valid=3, seed=0))
if comm.rank == 0:
    alone = edge_loss.loss(output_key[0], output_key[1], labels)
    torch.testing.assert_close(value, alone, msg="the other rank's images without labels are no negatives")
else:
    assert value == 0

NUM_CLASSES, NUM_IMAGES = 300, 10  # of so many classes a prediction takes two bytes
generator = torch.Generator().manual_seed(0)
drawn = torch.randn(2, NUM_IMAGES, NUM_CLASSES, generator=generator).softmax(dim=2)
drawn[1, ::3] = drawn[0, ::3]
targets = torch.randint(0, NUM_CLASSES, (NUM_IMAGES,), generator=generator)


def scored(rows, evaluation):
    keys = torch.stack([rows, torch.zeros_like(rows)]).T
    batch = Batch(torch.zeros(len(rows), 1, 1, 1, dtype=torch.uint8), targets[rows], len(rows), NUM_IMAGES, keys_B2=keys)
    return ScoredBatch(batch, {}, targets[rows], {"a": ScoredMember(drawn[evaluation, rows], targets[rows])})


def counted(world, rows_of_batches):
    """What two evaluations count: details and what a checkpoint holds of the first, churn of the second; each rank has its batches."""
    churn = ChurnMeter({"a": NUM_CLASSES}, world, num_images=NUM_IMAGES, multi_label=False)
    details = DetailsMeter(world, {"a": NUM_CLASSES}, multi_label=False)
    for evaluation in range(2):
        for rows in rows_of_batches:
            churn.add(scored(rows, evaluation))
            details.add(scored(rows, evaluation))
        changed = churn.finish()
        if evaluation == 0:
            state = churn.state_dict()
    return changed, state["a"], details.details({}, ["a"], known_classes={}).members["a"].reliability


alone = counted(Communicator(0, 1, comm.device), torch.arange(NUM_IMAGES).split(4))
together = counted(comm, torch.arange(NUM_IMAGES).split(4)[comm.rank :: 2])
assert together[0] == alone[0] == {"a": 0.6}
assert torch.equal(together[1], alone[1]), "a checkpoint has the predictions of all ranks"
assert alone[1].dtype == torch.int16
assert torch.equal(together[2].counts_K, alone[2].counts_K)
assert alone[2].counts_K.sum() == 2 * NUM_IMAGES
torch.testing.assert_close(together[2].confidence_sums_K, alone[2].confidence_sums_K)

launched = torch.get_num_threads()
torch.set_num_threads(launched + comm.rank)
assert LaunchSettings.of(parse_recipe(CONTRAST), comm).threads == launched, "the main process' choice holds for all"
torch.set_num_threads(launched)


class OwnLoop(nn.Module):
    """A loop of the user's own in one module, as Lightning wraps it: the student, what it is taught by, and the loss with its adapter."""

    def __init__(self, is_whole):
        super().__init__()
        torch.manual_seed(0)
        self.student, self.is_whole = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(), is_whole
        objectives = [{"loss": "cross_entropy"}, {"loss": "hint", "at": "1", "weight": 2.0}]
        outputs = {"logits": torch.zeros(1, 2).double(), "1": torch.zeros(1, 4).double()}
        self.criterion = DistillationLoss(objectives, learners={"student": outputs}, sources={"teacher": {"1": torch.zeros(1, 5).double()}})
        self.taught_by = self.criterion if is_whole else nn.parallel.DistributedDataParallel(self.criterion)
        self.taps = Taps(self.student, ["1"])

    def forward(self, images, taught, labels, model=None):
        logits = (model or self.student)(images)
        outputs = {"student": {"logits": logits, **self.taps.take()}, "teacher": {"1": taught}}
        return sum(self.taught_by(outputs, labels).values())


draw = torch.Generator().manual_seed(0)
batch = torch.randn(6, 3, generator=draw).double(), torch.randn(6, 5, generator=draw).double(), torch.tensor([0, 1, 1, 0, 1, 0])
shard = [each[comm.rank * 3 : comm.rank * 3 + 3] for each in batch]
alone, wrapped, apart = OwnLoop(True), OwnLoop(True), OwnLoop(False)
alone(*batch).backward()
whole, student = nn.parallel.DistributedDataParallel(wrapped), nn.parallel.DistributedDataParallel(apart.student)
whole(*shard).backward()
apart(*shard, student).backward()
for loop in (wrapped, apart):
    for expected, found in zip(alone.parameters(), loop.parameters(), strict=True):
        assert torch.allclose(found.grad, expected.grad, rtol=1e-12, atol=1e-12), "of all processes' images, adapters too"

poll = comm.stop_poll()
assert not poll(wanted=comm.rank == 1), "the answer comes with the next call"
assert poll(wanted=False)
assert not poll(wanted=False)
assert not poll.drain()

before = comm.traffic.global_calls
comm.barrier()
assert comm.traffic.global_calls == before + 1
print("world checks hold")  # noqa: T201
accelerator.end_training()
