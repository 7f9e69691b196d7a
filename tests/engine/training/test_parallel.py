"""Peers on ranks of their own train, resume and score as peers on every rank do."""

import json
import re
import shutil
import signal

import pytest
import safetensors.torch
import torch
import yaml
from support import charted, run, run_and_kill, tiny_document

from mutual.commandline import failures

pytestmark = pytest.mark.slow

PEERS = {"a": {"model": "support:double"}, "b": {"model": "support:double", "args": {"width": 6}}}
HINT = [{"loss": "cross_entropy"}, {"loss": "dml"}, {"loss": "hint", "at": "body"}]


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_parallel_equals_replicated(tmp_path, processes):
    """Invariant 5, case by case in tests/placement_checks.py: losses, metrics and weights."""
    done = run("placement_checks", processes, tmp_path, processes=processes)
    assert done.stdout.count("equal: ") == {2: 10, 3: 6, 4: 1}[processes]
    scored = [line for line in done.stdout.splitlines() if line.endswith("nearest training images")]
    assert len(scored) == {2: 2, 3: 2, 4: 0}[processes]
    assert len(set(scored)) <= 1, "a teacher without a head has the same neighbours in both"


def written(tmp_path, **sections):
    train = {"epochs": 2, "progress": False, "ema": 0.9}
    document = tiny_document(**{"peers": PEERS, "objectives": HINT, "train": train, **sections})
    document["checkpoint"] = {"every_steps": 3}
    document["data"] |= {"num_train": 45, "batch_size": 4}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "recipe.yaml"


def weights(output):
    return {path.stem: safetensors.torch.load_file(path) for path in sorted((output / "tiny" / "last").iterdir())}


def evaluations(output):
    return [json.loads(line)["eval"] for line in (output / "tiny" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("placement", "continuations"),
    [
        ("parallel", {"same": (2, []), "replicated": (2, ["placement=replicated"]), "alone": (1, ["data.batch_size=8"])}),
        ("replicated", {"parallel": (2, ["placement=parallel"])}),
    ],
)
def test_a_run_resumes_in_another_placement_and_on_another_number_of_ranks(tmp_path, placement, continuations):
    """Bitwise where it was, and exactly elsewhere: the batches are the same, and so are the updates."""
    taught = {**PEERS, "t": {"model": "support:double", "frozen": True}}
    objectives = [*HINT, {"loss": "kd", "sources": ["t"], "learners": ["b"]}]
    recipe = written(tmp_path, placement=placement, peers=taught, objectives=objectives, train={"epochs": 3, "progress": False, "ema": 0.9})
    run("mutual.train", recipe, f"output={tmp_path / 'whole'}", processes=2)
    expected, history = weights(tmp_path / "whole"), evaluations(tmp_path / "whole")
    assert "churn" in history[-1]["ensemble"]
    assert len(history[-1]["pairs"]) == 2 + 3 + 6, "the teacher among them, whose outputs are computed once more on resume"
    cut = tmp_path / "cut"

    def written_twice():
        return (cut / "tiny" / "checkpoints" / "step_00000006").exists()

    assert run_and_kill("mutual.train", recipe, f"output={cut}", when=written_twice, processes=2) == 1, "it was cut"
    for name, (processes, overrides) in continuations.items():
        shutil.copytree(cut, tmp_path / name)
        run("mutual.train", recipe, f"output={tmp_path / name}", "--resume", *overrides, processes=processes)
        for peer, tensors in weights(tmp_path / name).items():
            for key, tensor in tensors.items():
                if name == "same":
                    assert torch.equal(tensor, expected[peer][key]), (peer, key)
                torch.testing.assert_close(tensor, expected[peer][key], rtol=1e-10, atol=1e-10)
        found = evaluations(tmp_path / name)
        assert name != "same" or found == history
        for rows, wanted in zip(found, history, strict=True):
            for member, row in wanted.items():
                assert rows[member] == pytest.approx(row, abs=1e-6), "the evaluation before is that of the other ranks"
    done = run("mutual.train", recipe, f"output={cut}", "--resume", "train.accumulate=1", "data.batch_size=3", processes=2, expect=1)
    assert "the checkpoint's updates are of 8 images" in done.stderr


def report_soon():
    """Makes rank 0 wait only briefly for a report of the killed rank; that torchrun itself ends both is tested in test_failures.py."""
    failures.REPORT_TIMEOUT = 0.5


@pytest.mark.parametrize("placement", ["replicated", "parallel"])
def test_a_rank_that_dies_ends_the_job_and_the_run_resumes(tmp_path, placement):
    """No process waits for the dead one: the launcher ends the job within a minute, with a code that is not 0."""
    document = tiny_document(peers={name: {"model": "process_models:mortal"} for name in "ab"}, placement=placement)
    document |= {"checkpoint": {"every_steps": 2}, "train": {"epochs": 6, "progress": False, "pictures": False}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    cut = f"output={tmp_path / 'cut'}"
    done = run("mutual.train", tmp_path / "recipe.yaml", cut, processes=2, expect=1, prepare=report_soon, MORTAL="1")
    assert done.exit_codes[0] != -signal.SIGKILL, "it has ended by itself"
    assert list((tmp_path / "cut" / "tiny" / "checkpoints").glob("step_*"))
    run("mutual.train", tmp_path / "recipe.yaml", cut, "--resume", processes=2)
    run("mutual.train", tmp_path / "recipe.yaml", f"output={tmp_path / 'whole'}", processes=2)
    for peer, tensors in weights(tmp_path / "whole").items():
        for key, tensor in tensors.items():
            assert torch.equal(weights(tmp_path / "cut")[peer][key], tensor), (peer, key)


def test_auto_takes_the_placement_with_the_shorter_updates_and_keeps_it(tmp_path):
    recipe = written(tmp_path, placement="auto")
    done = run("mutual.train", recipe, f"output={tmp_path}", processes=2)
    chosen = yaml.safe_load((tmp_path / "tiny" / "recipe.yaml").read_text())["placement"]
    lines = [line for line in done.stdout.splitlines() if line.startswith("placement")]
    reported = [
        re.fullmatch(r"placement (\w+): ([\d.]+) ms .*holds ([\d.]+) MB \(([\d.]+)\) and sends ([\d.]+) MB \(([\d.]+)\)", line)
        for line in lines[:2]
    ]
    milliseconds = {found[1]: float(found[2]) for found in reported}
    assert set(milliseconds) == {"replicated", "parallel"}
    assert lines[2] == f"placement: {chosen}"
    assert milliseconds[chosen] == min(milliseconds.values())
    for found in reported:
        assert found[5] == found[6], "what is sent is predicted to the byte"
        assert float(found[4]) == pytest.approx(float(found[3]), rel=0.3, abs=0.1)
    again = run("mutual.train", recipe, f"output={tmp_path}", "--resume", processes=2)
    assert "placement " not in again.stdout, "what was begun goes on where it was"


def test_costs_are_measured_once_and_kept_with_the_run(tmp_path):
    """Three ranks for two peers: the costlier peer gets two of them, and keeps them when the run is resumed."""
    recipe = written(tmp_path, placement="parallel")
    done = run("mutual.train", recipe, f"output={tmp_path}", "peers.b.model=process_models:costly", processes=3)
    assert "costs, microseconds an image: a " in done.stdout
    assert re.search(r"b \(.*rank 1, 2\)", done.stdout)
    costs = {name: peer["cost"] for name, peer in yaml.safe_load((tmp_path / "tiny" / "recipe.yaml").read_text())["peers"].items()}
    assert costs["b"] > 2 * costs["a"]
    again = run("mutual.train", recipe, f"output={tmp_path}", "peers.b.model=process_models:costly", "--resume", processes=3)
    assert "microseconds an image" not in again.stdout
    assert yaml.safe_load((tmp_path / "tiny" / "recipe.yaml").read_text())["peers"]["b"]["cost"] == costs["b"]


def charts(folder):
    return {tag: [event.value for event in events] for tag, events in charted(folder).items()}


def test_the_traffic_is_what_the_mathematics_asks_for(tmp_path):
    """N peers of P parameters: parallel sends no gradients where a peer has one rank, and B * C logits for each edge."""
    document = tiny_document(peers=PEERS, train={"epochs": 1, "progress": False})
    document["data"] |= {"num_train": 32, "batch_size": 4}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    for placement in ("replicated", "parallel"):
        run("mutual.train", tmp_path / "recipe.yaml", f"output={tmp_path / placement}", f"placement={placement}", processes=2)
    found = {placement: charts(tmp_path / placement / "tiny") for placement in ("replicated", "parallel")}
    parameters = sum(tensor.numel() for peer in weights(tmp_path / "parallel").values() for tensor in peer.values())
    assert found["replicated"]["traffic/gradients_mb"][-1] * 1e6 == pytest.approx(8 * parameters)
    assert found["replicated"]["traffic/exchange_mb"][-1] == 0
    assert found["parallel"]["traffic/gradients_mb"][-1] == 0
    assert found["parallel"]["traffic/exchange_mb"][-1] * 1e6 == pytest.approx(8 * (4 * 2) * 4)
    assert {"optimizer/learning_rate/b", "optimizer/grad_norm/b"} <= set(found["parallel"]), "what another rank's peer does is told, too"
    peers = "peers={a: {model: support:tiny}, b: {model: support:tiny}}"
    half = [f"output={tmp_path / 'half'}", "placement=parallel", "train.precision=bf16", peers]
    run("mutual.train", tmp_path / "recipe.yaml", *half, processes=2)
    assert charts(tmp_path / "half" / "tiny")["traffic/exchange_mb"][-1] * 1e6 == pytest.approx(2 * (4 * 2) * 4), "as autocast gives them"


def test_feature_maps_that_travel_are_named_with_their_bytes(tmp_path):
    done = run("mutual.train", written(tmp_path, placement="parallel"), f"output={tmp_path}", "train.epochs=1", processes=2)
    assert "warning: a.body travels as feature maps, 128 bytes an image" in done.stderr
    assert "warning: b.body travels as feature maps, 192 bytes an image" in done.stderr


def test_feature_maps_that_are_averaged_travel_as_vectors(tmp_path):
    """What an edge reads of a source is known before it is sent."""
    recipe = written(tmp_path, placement="parallel")
    sent = {}
    for loss in ("crd", "hint"):
        overrides = [f"objectives=[{{loss: cross_entropy}}, {{loss: {loss}, at: body}}]", "train.epochs=1", "data.num_train=32"]
        done = run("mutual.train", recipe, f"output={tmp_path / loss}", *overrides, processes=2)
        sent[loss] = charts(tmp_path / loss / "tiny")["traffic/exchange_mb"][-1] * 1e6
        assert ("travels as feature maps" in done.stderr) == (loss == "hint")
    mean_width = (4 + 6) / 2
    assert sent["crd"] == pytest.approx(8 * 8 * mean_width)
    assert sent["hint"] == pytest.approx(4 * sent["crd"]), "maps of 2x2 positions"


def test_distances_between_images_travel_in_place_of_the_outputs(tmp_path):
    """Relational losses read these alone; a rank that computes all images has all of them, and trains as one process does."""
    objectives = "objectives=[{loss: cross_entropy}, {loss: rkd_distance, at: body, weight: 3}, {loss: rkd_angle, at: body, gate: correct}]"
    recipe = written(tmp_path, placement="parallel")
    run("mutual.train", recipe, f"output={tmp_path / 'two'}", objectives, "data.num_train=40", processes=2)
    run("mutual.train", recipe, f"output={tmp_path / 'one'}", objectives, "data.num_train=40", "data.batch_size=8")
    for peer, tensors in weights(tmp_path / "one").items():
        for key, tensor in tensors.items():
            torch.testing.assert_close(weights(tmp_path / "two")[peer][key], tensor, rtol=1e-10, atol=1e-10)
    sent = charts(tmp_path / "two" / "tiny")["traffic/exchange_mb"][-1] * 1e6
    assert sent == pytest.approx(8 * (8 * 8 + 8 * 4)), "distances of 8 images, and the logits that the gate reads; maps would be 8 x 16"


def test_export_and_evaluate_work_on_a_parallel_run(tmp_path):
    run("mutual.train", written(tmp_path, placement="parallel"), f"output={tmp_path}", processes=2)
    scores = json.loads(run("mutual.evaluate", tmp_path / "tiny", "--json", "--peer", "b", "--factory", "support:double").stdout)
    best = json.loads((tmp_path / "tiny" / "best" / "best.json").read_text())
    assert scores["b"]["nll"] == pytest.approx(best["peers"]["b"]["nll"], abs=1e-6)
    run("mutual.export", tmp_path / "tiny", "--format", "safetensors", "--factory", "support:double")
    assert list((tmp_path / "tiny" / "export").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("peers.b.model=support:tinny", "peers.b.model: 'support:tinny'.*did you mean 'tiny'"),
        ("peers.b.optimizer={name: sdg}", "peers.b.optimizer: 'sdg' is no optimizer"),
        ("objectives.2.at=head", "cannot be joined|needs"),
        ("peers.b.ranks=2", "their ranks do not fit"),
        ("peers.b.rank=own", "peers.b.rank: 'b' is trained and has ranks of its own anyway"),
        ("peers.c={model: pplcnet_x0_25, args: {strides: 3}}", "peers.c.model: pplcnet_x0_25"),
        ("objectives.2={loss: ofd, at: [stem]}", "BatchNorm, and there is none at 'stem'"),
    ],
)
def test_a_mistake_that_one_rank_sees_ends_all_with_one_line(tmp_path, override, message):
    """Without an agreement the other ranks would wait for ever."""
    recipe = written(tmp_path, placement="parallel")
    if override == "objectives.2.at=head":
        override = "objectives.2.at={a: head, b: body}"
    done = run("mutual.train", recipe, f"output={tmp_path}", override, processes=2, expect=1)
    lines = [line for line in done.stderr.splitlines() if line.startswith("mutual: ")]
    assert len(lines) == 1, lines

    assert re.search(message, lines[0]), lines[0]
    assert not (tmp_path / "tiny").exists()


def test_a_lower_precision_on_the_wire_is_close(tmp_path):
    recipe = written(tmp_path, placement="parallel")
    for dtype in ("exact", "bf16"):
        run(
            "mutual.train",
            recipe,
            f"output={tmp_path / dtype}",
            f"exchange.dtype={dtype}",
            "optimizer.lr=0.05",
            "train.epochs=1",
            processes=2,
        )
    exact, rounded = (weights(tmp_path / dtype) for dtype in ("exact", "bf16"))
    for key, tensor in exact["a"].items():
        assert not torch.equal(tensor, rounded["a"][key])
        torch.testing.assert_close(tensor, rounded["a"][key], rtol=0.1, atol=0.1)
