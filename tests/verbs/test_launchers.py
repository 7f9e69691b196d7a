"""The launch files: read by accelerate's own parser, checked by shellcheck where it is installed, and run against a pretended SLURM."""

import os
import shutil
import signal
import subprocess
import time

import pytest
import safetensors.torch
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from support import ROOT, environment, tiny_document

from mutual.data import available_cores

LAUNCH = ROOT / "launch"
CONFIGS = sorted(path.name for path in LAUNCH.glob("*.yaml") if path.name != "pytorchjob.yaml")


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_reads_its_configurations(name):
    config = load_config_from_file(str(LAUNCH / name))
    expected = {
        "cpu.yaml": (1, "no"),
        "cpu_2.yaml": (2, "no"),
        "gpu.yaml": (1, "bf16"),
        "gpu_8_bf16.yaml": (8, "bf16"),
        "nodes_2x8_bf16.yaml": (16, "bf16"),
    }
    assert (config.num_processes, config.mixed_precision) == expected[name]
    assert (LAUNCH / name).read_text().startswith("# ")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "reported"), [("cpu.yaml", "1 process on cpu"), ("cpu_2.yaml", "2 processes on cpu")])
def test_the_cpu_configurations_train(tmp_path, name, reported):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny_document(train={"epochs": 1, "progress": False})))
    command = ["accelerate", "launch", "--config_file", LAUNCH / name, "-m", "mutual.train", tmp_path / "recipe.yaml"]
    without_gpus = environment(CUDA_VISIBLE_DEVICES="")
    del without_gpus["OMP_NUM_THREADS"]
    done = subprocess.run([*command, f"output={tmp_path}"], env=without_gpus, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert reported in done.stdout
    assert (tmp_path / "tiny" / "best" / "best.json").exists()
    threads = yaml.safe_load((tmp_path / "tiny" / "recipe.yaml").read_text())["train"]["threads"]
    assert threads == max(available_cores() // int(reported[0]), 1), "the launcher's 1 is nobody's choice, and processes share the cores"


@pytest.mark.slow
def test_the_gpu_check_says_that_there_is_no_gpu(tmp_path):
    script = [LAUNCH / "gpu_check.sh", tmp_path / "results.txt"]
    without_gpus = environment(CUDA_VISIBLE_DEVICES="", GPU_CHECK_TRY="")
    done = subprocess.run(script, env=without_gpus, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gpu_check: no GPU here: torch.cuda.is_available() is false\n"
    assert not (tmp_path / "results.txt").exists()


def test_the_kubernetes_job_is_a_pytorchjob_that_resumes():
    job = yaml.safe_load((LAUNCH / "pytorchjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    container = worker["template"]["spec"]["containers"][0]
    assert container["name"] == "pytorch", "the operator looks for this name"
    assert container["command"][:3] == ["torchrun", "-m", "mutual.train"]
    assert container["command"][-1] == "--resume"
    assert (ROOT / container["command"][3]).exists()
    assert worker["restartPolicy"] == "OnFailure"
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in worker["template"]["spec"]["volumes"]}


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    done = subprocess.run(["shellcheck", *LAUNCH.glob("*.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


PRETENDED = {
    "scontrol": '#!/bin/sh\nif [ "$1" = show ]; then echo localhost; else echo "$@" >> "$LOG"; fi\n',
    "srun": '#!/bin/bash\nshift\nexport SLURM_PROCID=0 SLURM_LOCALID=0\necho $$ > "$PIDFILE"\nexec "$@"\n',
    "scancel": '#!/bin/sh\nkill -USR1 "$(cat "$PIDFILE")"\n',
}


@pytest.mark.slow
def test_the_slurm_job_writes_a_checkpoint_when_it_is_preempted_and_goes_back_into_the_queue(tmp_path):
    (tmp_path / "bin").mkdir()
    for name, text in PRETENDED.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny_document(train={"epochs": 100000, "progress": False})))
    slurm = {"SLURM_JOB_NODELIST": "n", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "MASTER_PORT": "29471"}
    files = {"LOG": str(tmp_path / "log"), "PIDFILE": str(tmp_path / "pid")}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    command = ["bash", LAUNCH / "slurm.sh", tmp_path / "recipe.yaml", f"output={tmp_path}"]
    job = subprocess.Popen(command, env=environment(**slurm, **files, PATH=path), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("tiny/checkpoints/step_*")):
        assert time.monotonic() < deadline
        assert job.poll() is None, job.stderr.read()
        time.sleep(0.1)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=60) == 0
    assert "stopped by SIGUSR1 after step" in job.stderr.read()
    assert (tmp_path / "log").read_text() == "requeue 7\n"


@pytest.mark.slow
def test_an_elastic_job_goes_on_with_the_same_updates_on_another_number_of_processes(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny_document(train={"epochs": 3, "progress": False})))

    def train(processes, output, *overrides):
        words = ["1:1", str(processes), "8", "localhost:0", tmp_path / "recipe.yaml", f"output={tmp_path / output}", *overrides]
        done = subprocess.run(
            ["bash", LAUNCH / "elastic.sh", *words], env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "1 process on cpu" in train(1, "whole", "checkpoint.every_epochs=1", "checkpoint.keep=9")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in ("step_00000010", "step_00000015"):
        shutil.rmtree(tmp_path / "cut" / "tiny" / "checkpoints" / step)
    assert "2 processes on cpu" in train(2, "cut")
    whole, cut = (safetensors.torch.load_file(tmp_path / name / "tiny" / "last" / "a.safetensors") for name in ("whole", "cut"))
    for key, tensor in whole.items():
        torch.testing.assert_close(cut[key], tensor, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("script", "usage"), [("slurm.sh", "usage: sbatch"), ("elastic.sh", "usage: launch/elastic.sh MIN:MAX")])
def test_a_script_without_a_recipe_says_how_it_is_used(script, usage):
    done = subprocess.run(["bash", LAUNCH / script], capture_output=True, text=True)
    assert done.returncode == 2
    assert usage in done.stderr
