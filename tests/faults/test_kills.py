"""A run that is killed by SIGKILL, at whatever moment, ends bitwise as the one that was not (invariants 7 and 10)."""

import copy
import random
import signal
import time
from collections import Counter
from functools import partial

import pytest
import yaml
from attacks import die_before_change, die_behind_training, die_in_write, record
from support import digests, run, run_launched, start, tiny_document

pytestmark = [pytest.mark.faults, pytest.mark.slow]

RECIPE = tiny_document(
    data={
        "dataset": "digits",
        "image_size": 8,
        "batch_size": 16,
        "eval_batch_size": 71,
        "subset": 160,
        "augment": [{"name": "random_crop", "padding": 1}],
    },
    peers={
        "a": {"model": "support:tiny", "args": {"norm": True, "dropout": 0.3, "width": 16}},
        "b": {"model": "support:tiny", "args": {"norm": True, "width": 12}, "optimizer": {"name": "adam", "lr": 0.01}},
    },
    objectives=[{"loss": "cross_entropy"}, {"loss": "dml", "schedule": {"name": "ramp_up", "until_epoch": 2}}],
    schedule={"name": "cosine", "warmup_epochs": 1},
    train={"epochs": 3, "accumulate": 2, "progress": False},
    checkpoint={"every_steps": 2, "keep": 2},
)
TEACHER = {"model": "support:tiny", "args": {"norm": True, "width": 8}, "frozen": True}
CONFIGURATIONS = {
    "plain": (1, {}),
    "workers": (1, {"data": {"workers": 2}}),
    "ema": (1, {"train": {"ema": 0.9, "pictures": True}}),
    "mixup": (1, {"data": {"mixup": 0.4}}),
    "bf16": (1, {"train": {"precision": "bf16"}}),
    "a teacher, scored first, and test images": (1, {"peers": {"t": {"model": "support:tiny", "frozen": True}}, "data": {"val": 0.2}}),
    "two ranks": (2, {}),
    "a store": (2, {"peers": {"t": {**TEACHER, "store": {"folder": "is given on the command line", "views": 2, "topk": 3}}}}),
    "all at once": (2, {"data": {"workers": 2, "mixup": 0.4}, "train": {"ema": 0.9, "precision": "bf16"}}),
}
SHORT_FORM = {"plain": (100, 4, 6), "all at once": (3, 1, 2)}
"""By configuration the most kinds of write, of attacks behind the training and of changes that the short form attacks."""
FEWEST = (2, 1, 1)
RANDOM_KILLS, FEWEST_KILLS = {"plain": 8, "all at once": 6}, 4
GRACE = 0.5
"""Seconds that the other ranks have once rank 0 is dead: enough to end what they are doing, too few to report it."""


class Case:
    """A recipe, the processes that train it, and what the run that nobody disturbed has given."""

    def __init__(self, name, folder):
        self.name = name
        self.processes, sections = CONFIGURATIONS[name]
        document = copy.deepcopy(RECIPE)
        for section, values in sections.items():
            document[section] |= values
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump(document))
        log = folder / "log"
        run(*self.arguments(folder), processes=self.processes, prepare=partial(record, folder / "tiny", log))
        self.expected = digests(folder / "tiny")
        lines = [line.split() for line in log.read_text().splitlines()]
        self.writes = [words[1] for words in lines if words[0] == "write"]
        self.num_changes = sum(words[0] == "change" for words in lines)
        begun = time.monotonic()
        run(*self.arguments(folder / "again"), processes=self.processes)
        self.seconds = time.monotonic() - begun

    def arguments(self, output):
        store = [f"peers.t.store.folder={output / 'store'}"] if self.name == "a store" else []
        return ["mutual.train", self.recipe, f"output={output}", *store, "--resume"]

    def start(self, output, prepare=None):
        return start(*self.arguments(output), processes=self.processes, prepare=prepare, grace=GRACE)

    def die(self, output, prepare):
        """Trains in `output` until the attack ends it."""
        job = self.start(output, prepare)
        code = job.wait(180)
        assert code == (-signal.SIGKILL if self.processes == 1 else 1), f"exit code {code}\n{job.stdout}\n{job.stderr}"

    def check(self, output):
        """Goes on in `output` to the end, which is the undisturbed one."""
        run(*self.arguments(output), processes=self.processes)
        assert digests(output / "tiny") == self.expected


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def case(request, tmp_path_factory):
    return Case(request.param, tmp_path_factory.mktemp("whole"))


def sampled(moments, attacks, case, number, *, is_long):
    """Returns the attacks that are made: in the long form all."""
    most = SHORT_FORM.get(case.name, FEWEST)[number]
    return attacks if is_long or most >= len(attacks) else moments.sample(attacks, most)


@pytest.fixture
def is_long(pytestconfig):
    return pytestconfig.getoption("--faults-long")


def test_a_fork_trains_as_processes_that_a_user_starts(tmp_path):
    """What the other tests compare with is what users get."""
    (tmp_path / "whole").mkdir()
    case = Case("all at once", tmp_path / "whole")
    run_launched(*case.arguments(tmp_path), processes=case.processes)
    assert digests(tmp_path / "tiny") == case.expected


def test_killed_at_random_moments(case, tmp_path, is_long):
    """Again and again, also before the first checkpoint and while the last one is written, until nothing is left to do."""
    moments = random.Random(0)
    kills = folders = gone_on = 0
    most = 50 if is_long else RANDOM_KILLS.get(case.name, FEWEST_KILLS)
    while kills < most or (gone_on == 0 and kills < 3 * most):  # on a machine that is busier than before they come too early
        output = tmp_path / str(folders)
        job, until = case.start(output), time.monotonic() + moments.uniform(0, 0.8 * case.seconds)
        while job.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        if job.poll() is None:
            job.kill(rank=moments.randrange(case.processes), alone=moments.random() < 0.5)  # loaders may outlive their training a while
            time.sleep(moments.choice([0, 0.01]))
            job.kill()
            job.wait(180)
            kills += 1
            gone_on += any(output.glob("tiny/checkpoints/step_*"))
        else:
            assert job.poll() == 0, job.stderr
            assert digests(output / "tiny") == case.expected
            folders += 1
    case.check(output)
    assert gone_on > 0, "some came after a checkpoint"


def test_killed_in_each_kind_of_write(case, tmp_path, is_long):
    """Nothing, a part or all of the content is on the disk, and the file has not its name yet."""
    moments = random.Random(1)
    kinds = Counter(case.writes)
    assert {"recipe.yaml", "metrics.jsonl", "last/a.safetensors", "best/b.safetensors", "best/best.json"} <= kinds.keys()
    assert {f"checkpoints/step_/{name}" for name in ("manifest.json", "training.pt", "a.safetensors", "b.pt")} <= kinds.keys()
    chosen = sampled(moments, sorted(kinds), case, 0, is_long=is_long)
    for kind in {*chosen, "initial_scores.json", "test_scores.json"} & kinds.keys():
        for count in range(10 if is_long else 1):
            output = tmp_path / f"{kind.replace('/', '-')}-{count}"
            case.die(output, partial(die_in_write, moments.randint(1, kinds[kind]), moments.choice([0, moments.random(), 1]), kind=kind))
            assert [path for path in output.rglob("*") if "unfinished" in path.name], kind
            case.check(output)


def test_killed_while_a_checkpoint_is_written_behind_the_training(case, tmp_path, is_long):
    """The training has gone on: metrics and weights of the epoch are newer than the last whole checkpoint, or it waits for this one."""
    attacks = [
        ("a.safetensors", "metrics.jsonl"),
        ("training.pt", "best.json"),
        ("b.pt", "a.safetensors"),
        ("manifest.json", "nothing"),
    ]
    moments = random.Random(3)
    checkpoints = case.writes.count("checkpoints/step_/manifest.json")
    for file, other in sampled(moments, attacks, case, 1, is_long=is_long):
        output = tmp_path / file
        case.die(output, partial(die_behind_training, moments.randint(1, checkpoints), file, other))
        assert list(output.rglob(".unfinished-step_*")), file
        case.check(output)


def test_killed_between_two_changes_of_the_folder(case, tmp_path, is_long):
    """Before a file is opened, renamed or removed, before a folder is made or removed."""
    moments = random.Random(2)
    assert case.num_changes > 50
    for number in sampled(moments, range(1, case.num_changes + 1), case, 2, is_long=is_long):
        output = tmp_path / str(number)
        case.die(output, partial(die_before_change, output / "tiny", number))
        case.check(output)
