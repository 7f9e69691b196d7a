"""What evaluations count beside the scores: on a GPU as on a CPU, and the host waits for no batch."""

import pytest
import torch
from gpu_support import no_host_sync

from mutual.data import Batch
from mutual.engine.evaluation import ChurnMeter, DetailsMeter, Evaluator, KeptOutputs, PairMeter
from mutual.group import Communicator

N, C, SIZE = 20, 6, 8


def drawn(*, multi_label, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(N, C, generator=generator) > 0.5).float() if multi_label else torch.randint(0, C, (N,), generator=generator)
    return labels, {name: torch.randn(N, C, generator=generator) for name in "abt"}


def batches(labels):
    for begin in range(0, N, SIZE):
        rows = torch.arange(begin, min(begin + SIZE, N))
        keys = torch.stack([rows, torch.zeros_like(rows)]).T
        images = torch.zeros(len(rows), 1, 4, 4, dtype=torch.uint8)
        yield Batch(images, labels[rows], len(rows), len(rows), keys_B2=keys)


class Seen:
    """Keeps what it is given."""

    def __init__(self):
        self.batches = []

    def add(self, scored):
        self.batches.append(scored)


def counted(device, *, multi_label):
    """What two evaluations give; the second one is watched."""
    comm, options = Communicator(0, 1, device), {"num_classes": C, "multi_label": multi_label}
    evaluator = Evaluator(("a", "b"), ("a", "b"), device=device, **options)
    kept = KeptOutputs(["t"], num_images=N, **options)
    pairs = PairMeter([("a", "t"), ("a", "b"), ("b", "t")], comm, kept, **options)
    churn = ChurnMeter(evaluator.class_numbers, comm, num_images=N, multi_label=multi_label)
    details = DetailsMeter(comm, evaluator.class_numbers, multi_label=multi_label)
    for seed in (0, 1):
        labels, logits = drawn(multi_label=multi_label, seed=seed)
        logits = {name: each.to(device) for name, each in logits.items()}
        if seed == 0:
            for batch in batches(labels):
                first = int(batch.keys_B2[0, 0])
                rows = logits["t"][first : first + batch.num_valid]
                with no_host_sync(device):
                    kept.keep(batch, {"t": rows})

        def predict(_, batch, logits=logits):
            first = int(batch.keys_B2[0, 0])
            return {name: logits[name][first : first + batch.num_valid] for name in "ab"}

        seen = Seen()
        evaluator(predict, batches(labels), observers=[seen])
        for scored in seen.batches:
            with no_host_sync(device):
                for observer in (churn, pairs, details):
                    observer.add(scored)
        changed = churn.finish()
    scores = pairs.scores()
    return changed, scores, details.details(scores, ("a", "b", "t"), known_classes={}), churn.state_dict()


@pytest.mark.parametrize("multi_label", [False, True])
def test_what_evaluations_count_is_that_of_a_cpu(device, multi_label):
    changed, scores, details, predictions = counted(device, multi_label=multi_label)
    expected = counted(torch.device("cpu"), multi_label=multi_label)
    assert changed == expected[0]
    assert scores == pytest.approx(expected[1], abs=1e-6)
    for name, member in expected[2].members.items():
        found = details.members[name]
        assert torch.equal(found.reliability.counts_K, member.reliability.counts_K)
        torch.testing.assert_close(found.reliability.confidence_sums_K, member.reliability.confidence_sums_K, rtol=1e-6, atol=1e-6)
        assert multi_label or torch.equal(found.confusion_CC, member.confusion_CC)
    assert all(torch.equal(each.cpu(), expected[3][name]) for name, each in predictions.items())
