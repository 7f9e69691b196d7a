"""Which runs of a comparison are trained, how, and what becomes of them when one fails or the comparison ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from stand_in_runs import launcher, recipe_document, write_run

from mutual.engine.comparison import Arm, ComparisonFolder, RunSettings, guard, plan_arms, train_arms
from mutual.engine.comparison.training import check_arms, make_slots
from mutual.engine.runtime import StoppedError
from mutual.engine.storage import RunFolder
from mutual.recipe import InputError, RunError, load_recipe


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Where the launcher's behaviour is, and which threads nobody chose."""
    monkeypatch.setenv("STAND_IN", "{}")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[3]), str(Path(__file__).parents[2])]))


@pytest.fixture
def arms(tmp_path):
    file = tmp_path / "pair.yaml"
    file.write_text(yaml.safe_dump(recipe_document()))
    return plan_arms([str(file)], ["objectives.1.temperature=1,4"])


@pytest.fixture
def folder(tmp_path):
    return ComparisonFolder(tmp_path / "runs" / "compare")


def train(arms, folder, *, seeds=(0, 1), jobs=2, overwrite=False, **behaviour):
    """Trains with the stand-in launcher and returns the names of the runs in the order in which they were started."""
    record = folder.path / "starts.txt"
    record.unlink(missing_ok=True)
    settings = RunSettings(jobs=jobs, launcher=launcher(**behaviour), overwrite=overwrite)
    try:
        train_arms(arms, seeds, folder, settings)
    finally:
        starts = [line.split()[0] for line in record.read_text().splitlines()] if record.exists() else []
    return starts


@pytest.mark.slow
def test_runs_are_trained_seed_by_seed_and_finished_ones_are_left_alone(arms, folder, capfd):
    assert train(arms, folder, jobs=1) == [f"pair-temperature-{value}-seed{seed}" for seed in (0, 1) for value in (1, 4)]
    err = capfd.readouterr().err.splitlines()
    assert err[0] == f"{folder.path}: 2 arms x 2 seeds = 4 runs; 1 at a time"
    assert err[4].startswith("pair-temperature-4-seed1: done in ")
    assert err[4].endswith(" s (4 of 4 runs)")
    run = folder.run("pair-temperature-4", 1)
    recipe = run.recipe()
    assert (recipe.seed, recipe.objectives[1].temperature, recipe.name) == (1, 4, "pair-temperature-4-seed1")
    assert load_recipe(folder.recipe_file("pair-temperature-4")).objectives == arms[1].recipe.objectives
    assert folder.log(run).read_text() == "epoch 1 ...\n"
    assert folder.arm_of(run.path.name) == "pair temperature=4"
    assert sorted(train(arms, folder, seeds=(0, 1, 2))) == [f"pair-temperature-{value}-seed2" for value in (1, 4)]
    assert train(arms, folder) == []


def test_an_arm_that_reads_anothers_runs_is_not_trained_and_an_offset_is_added_to_the_seed(arms, folder):
    reader = Arm("reader", arms[0].recipe, runs_of=arms[0].name)
    shifted = Arm("a/a", arms[0].recipe, seed_offset=100)
    assert train([arms[0], reader, shifted], folder, seeds=[3], jobs=1) == ["pair-temperature-1-seed3", "a-a-seed103"]


def test_paired_runs_have_the_same_images_whatever_is_added_to_the_seed(arms, folder):
    data = arms[0].recipe.data.model_copy(update={"subset": 16})
    shifted = Arm("a/a", arms[0].recipe.model_copy(update={"data": data}), seed_offset=100)
    assert train([shifted], folder, seeds=[3], jobs=1) == ["a-a-seed103"]
    recipe = folder.run("a-a", 103).recipe()
    assert (recipe.seed, recipe.data.subset_seed) == (103, 3)
    assert train([shifted], folder, seeds=[3], jobs=1) == [], "it is finished"


@pytest.mark.slow
def test_a_failing_run_is_a_line_and_the_others_write_a_checkpoint(arms, folder):
    names = ["pair-temperature-1-seed0", "pair-temperature-4-seed0"]
    with pytest.raises(RunError) as failure:
        train(arms, folder, wait=names[0], fail=[names[1], 1])
    log = folder.log(folder.run("pair-temperature-4", 0))
    assert str(failure.value) == f"{names[1]} failed with exit code 1: the disk is full (all that it printed is in {log})"
    assert (folder.path / f"{names[0]}.stopped").exists()
    assert train(arms, folder, jobs=1)[0] == names[0]  # goes on with it, and then with the rest


def test_what_is_the_users_mistake_in_a_run_is_so_in_the_comparison(arms, folder):
    with pytest.raises(InputError, match="failed with exit code 2: the disk is full"):
        train(arms, folder, fail=["pair-temperature-1-seed0", 2])


def test_a_run_that_ends_without_being_finished_and_one_that_is_killed_are_lines(arms, folder):
    with pytest.raises(RunError, match="pair-temperature-1-seed0 ended without being finished: the disk is full"):
        train(arms[:1], folder, fail=["pair-temperature-1-seed0", 0])
    with pytest.raises(RunError, match="was ended by SIGKILL"):
        train(arms[:1], folder, fail=["pair-temperature-1-seed0", -9])


def test_a_signal_ends_all_with_their_checkpoints(arms, folder):
    def stop():
        while not (folder.path / "pair-temperature-1-seed0" / "metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(StoppedError, match=r"stopped by SIGTERM: \d of 2 runs are finished; the same command goes on"):
        train(arms, folder, seeds=[0], wait="pair-temperature-1-seed0")
    thread.join()
    assert (folder.path / "pair-temperature-1-seed0.stopped").exists()


@pytest.mark.slow
def test_a_run_of_another_recipe_is_refused_before_anything_is_trained_and_replaced_where_asked_for(arms, folder):
    write_run(folder.path / "pair-temperature-4-seed1", recipe_document(train={"epochs": 9}), seed=1)
    line = r"seed1 was trained with objectives .* and the arm 'pair temperature=4' has .*\(and 1 more field\).*--overwrite"
    with pytest.raises(InputError, match=line):
        train(arms, folder)
    assert not (folder.path / "pair-temperature-1-seed0").exists()
    assert len(train(arms, folder, overwrite=True)) == 4
    assert RunFolder(folder.path / "pair-temperature-4-seed1").recipe().train.epochs == 3
    assert train(arms, folder, overwrite=True) == []


@pytest.mark.parametrize("override", ["data.batch_size=4", "train.accumulate=2", "optimizer.lr=0.3", "data.subset=20", "train.epochs=4"])
def test_whatever_changes_numbers_makes_it_another_recipe(override, arms, folder):
    write_run(folder.path / "pair-temperature-1-seed0", recipe_document(), overrides=[override])
    with pytest.raises(InputError, match=f"was trained with {override.partition('=')[0]} .* and the arm 'pair temperature=1' has"):
        train(arms[:1], folder, seeds=[0])


def test_what_a_run_has_found_out_is_no_other_recipe(arms, folder):
    overrides = ["train.precision='no'", "train.threads=2", "data.workers=1", "optimizer.fused=true", "checkpoint.keep=7"]
    write_run(folder.path / "pair-temperature-1-seed0", recipe_document(), overrides=overrides)
    assert train(arms[:1], folder, seeds=[0]) == []


def test_weights_that_a_run_took_from_a_run_folder_are_the_same_recipe(folder, tmp_path):
    peers = {"a": {"model": "small_cnn"}, "t": {"model": "small_cnn", "frozen": True, "weights": "runs/teacher"}}
    arm = Arm("kd", load_recipe(recipe_document(peers=peers)))
    write_run(folder.path / "kd-seed0", recipe_document(peers=peers), overrides=["peers.t.weights=runs/teacher/best/a.safetensors"])
    assert train([arm], folder, seeds=[0]) == []
    with pytest.raises(InputError, match=r"was trained with peers\.t\.weights 'runs/teacher/best/a.safetensors'"):
        train([Arm("kd", load_recipe(recipe_document(peers=peers), ["peers.t.weights=runs/other"]))], folder, seeds=[0])


def test_a_launcher_that_is_not_there_is_a_line(arms, folder):
    with pytest.raises(InputError, match="--launcher: there is no command 'nowhere --x'"):
        train_arms(arms, [0], folder, RunSettings(launcher="nowhere --x"))
    with pytest.raises(InputError, match=r"--launcher: \"torchrun 'x\" cannot be read: No closing quotation"):
        train_arms(arms, [0], folder, RunSettings(launcher="torchrun 'x"))


def test_peers_of_several_jobs_and_one_of_several_processes_are_refused(arms, monkeypatch):
    stale = recipe_document(exchange={"kind": "stale", "folder": "weights"})
    with pytest.raises(InputError, match=r"exchange\.kind: a comparison knows runs of one job each"):
        check_arms([Arm("stale", load_recipe(stale))])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="give the launcher as --launcher 'torchrun"):
        check_arms(arms)


def test_jobs_share_cores_and_gpus(arms, monkeypatch):
    recipes = [arm.recipe for arm in arms] * 2
    monkeypatch.setattr("mutual.engine.comparison.training.available_cores", lambda: 6)
    monkeypatch.setattr("mutual.engine.comparison.training._visible_gpus", list)
    assert make_slots(RunSettings(), recipes) == [{}]
    assert make_slots(RunSettings(jobs=3), recipes) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert make_slots(RunSettings(jobs=9), recipes) == [{"OMP_NUM_THREADS": "1"}] * 4
    assert make_slots(RunSettings(jobs=2, launcher="torchrun"), recipes) == [{}] * 2
    monkeypatch.setattr("mutual.engine.comparison.training._visible_gpus", lambda: ["0", "1", "5"])
    assert make_slots(RunSettings(), recipes) == [{"CUDA_VISIBLE_DEVICES": each} for each in ("0", "1", "5")]
    assert make_slots(RunSettings(launcher="torchrun"), recipes) == [{}]
    assert make_slots(RunSettings(jobs=4), recipes) == [{"CUDA_VISIBLE_DEVICES": each} for each in ("0", "1", "5", "0")]
    monkeypatch.setattr("mutual.engine.comparison.training._visible_gpus", lambda: ["0", "1", "2", "3"])
    assert make_slots(RunSettings(jobs=2), recipes) == [{"CUDA_VISIBLE_DEVICES": each} for each in ("0,1", "2,3")]
    monkeypatch.setattr("mutual.engine.comparison.training._visible_gpus", list)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert make_slots(RunSettings(jobs=2), recipes) == [{}] * 2


def test_threads_are_left_to_the_recipe_where_it_says_them(arms, monkeypatch):
    monkeypatch.setattr("mutual.engine.comparison.training._visible_gpus", list)
    recipe = load_recipe(recipe_document(train={"threads": 2}))
    assert make_slots(RunSettings(jobs=2), [recipe, recipe]) == [{}] * 2


def test_a_guard_ends_what_it_runs_when_whoever_started_it_is_killed(tmp_path):
    """And what that has started in turn, as a launcher does."""
    child = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], 'w').close(), sys.exit()))\n"
    child += "open(sys.argv[1] + '.ready', 'w').close()\ntime.sleep(60)\n"
    started = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}, *sys.argv[1:]])\ntime.sleep(60)\n"
    words = [sys.executable, "-I", guard.__file__, sys.executable, "-c", started, str(tmp_path / "ended")]
    parent = f"import subprocess, time\nsubprocess.Popen({words!r}, stdin=subprocess.PIPE, start_new_session=True)\ntime.sleep(60)\n"
    process = subprocess.Popen([sys.executable, "-c", parent])
    _wait_for(tmp_path / "ended.ready")
    process.kill()
    process.wait()
    _wait_for(tmp_path / "ended")


def test_a_training_whose_guard_is_killed_writes_a_checkpoint_and_ends(arms, folder):
    def kill():
        while not (folder.path / "pair-temperature-1-seed0" / "metrics.jsonl").exists():
            time.sleep(0.01)
        found = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "guard.py"], capture_output=True, text=True, check=True)
        os.kill(int(found.stdout.split()[0]), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(RunError, match="pair-temperature-1-seed0 was ended by SIGKILL"):
        train(arms[:1], folder, seeds=[0], wait="pair-temperature-1-seed0")
    thread.join()
    assert (folder.path / "pair-temperature-1-seed0.stopped").exists()


def test_a_guard_does_not_wait_for_what_has_ended_and_nobody_waits_for():
    """As in a container whose first process is another program: orphans stay in its list of processes."""
    zombie = "import os, time\nif os.fork() == 0:\n  os.setpgid(0, 0)\n  print(os.getpid(), flush=True)\n  os._exit(0)\ntime.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", zombie], stdout=subprocess.PIPE, text=True) as process:
        group = int(process.stdout.readline())
        start_time = time.monotonic()
        guard.end_group(group)
        process.kill()
    assert time.monotonic() - start_time < guard.GRACE / 10


@pytest.mark.parametrize("name", ["../../elsewhere", "/elsewhere", "..", "-x", ""])
def test_files_of_an_arm_are_in_the_comparisons_folder_whatever_the_mark_says(arms, folder, name):
    train(arms[:1], folder, seeds=[0])
    (folder.path / ".mutual-comparison.json").write_text(json.dumps({"arms": {arms[0].name: name, arms[1].name: name}}))
    assert folder.write_arms(arms) == {"pair temperature=1": "pair-temperature-1", "pair temperature=4": "pair-temperature-4"}
    assert train(arms[:1], folder, seeds=[0]) == []


@pytest.mark.parametrize("name", ["arms", "logs"])
def test_links_in_the_place_of_our_folders_are_refused(arms, folder, name, tmp_path):
    with folder.exclusive_access():
        folder.write_arms(arms[:1])
    (tmp_path / "foreign").mkdir()
    if (folder.path / name).exists():
        (folder.path / name).rename(tmp_path / "moved")
    (folder.path / name).symlink_to(tmp_path / "foreign")
    with pytest.raises(InputError, match="is a link to"), folder.exclusive_access():
        pass


@pytest.mark.parametrize(
    "make", [lambda path, other: path.symlink_to(other), lambda path, _: os.mkfifo(path), lambda path, _: path.mkdir()]
)
def test_a_log_is_no_link_and_no_pipe(arms, folder, make, tmp_path):
    log = folder.log(folder.run("pair-temperature-1", 0))
    log.parent.mkdir(parents=True)
    make(log, folder.path / "foreign.txt")
    with pytest.raises(InputError, match=r"seed0\.log is no file, and what the training prints would go there"):
        train(arms[:1], folder, seeds=[0])
    assert not (folder.path / "foreign.txt").exists()


def test_a_guard_exits_with_the_code_of_what_it_runs():
    for code, line in ((0, "pass"), (2, "sys.exit(2)"), (256 - 9, "os.kill(os.getpid(), 9)")):
        assert _guarded(sys.executable, "-c", f"import os, sys; {line}")[0] == code
    assert _guarded("/nowhere") == (127, "mutual: /nowhere: No such file or directory\n")


def _guarded(*words):
    """The exit code of a guard of these words, and what it has written."""
    command = [sys.executable, "-I", guard.__file__, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        code = process.wait()  # its standard input stays open until then
        return code, process.stderr.read()


def _wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def test_what_was_counted_is_kept_for_a_recipe_whatever_its_seed(folder, arms):
    from mutual.engine.comparison.comparison_folder import Flops

    flops = Flops(flops=1e9, note="", images=120)
    folder.write_flops(arms[0].recipe, flops, epochs=3.0)
    other = arms[0].recipe.model_copy(update={"seed": 5, "name": "x"})
    assert folder.read_flops(other, epochs=3.0) == flops
    assert folder.read_flops(other, epochs=4.0) is None
    assert folder.read_flops(arms[1].recipe, epochs=3.0) is None
    (folder.path / "flops.json").write_text(json.dumps([1]))
    assert folder.read_flops(other, epochs=3.0) is None
