"""`mutual.doctor` as a whole: what it prints, its exit code, what it leaves behind and what it keeps to itself; alone and as two ranks."""

import getpass
import json
import socket
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from support import environment, run, run_launched, start

from mutual import doctor
from mutual.engine.diagnosis import diagnosis as module
from mutual.engine.diagnosis import diagnosis_text, run_disk
from mutual.engine.diagnosis.devices import Device, Devices
from mutual.engine.diagnosis.findings import Finding
from mutual.engine.diagnosis.rendezvous import Rendezvous
from mutual.recipe import InputError

SECTIONS = ["versions", "machine", "devices", "launch", "run folder", "ranks", "findings", "what to set"]
KEYS = {
    "": "devices disk findings format launch machine packages ranks torch_build",
    "packages": "extra name required version",
    "torch_build": "cuda cudnn nccl rocm",
    "machine": "affine_cores available_bytes cpu_quota libc load logical_cores memory_bytes memory_limit_bytes most_open_files open_files "
    "processes processor python shared_bytes shared_free_bytes system usable_cores",
    "devices": "driver error reason tested visible",
    "devices.tested": "capability errors free_bytes has_bf16 has_tf32 memory_bytes model name products",
    "launch": "error is_lone joined launcher precision started threads variables",
    "disk": "bytes_per_second error file_system folder free_bytes lock_seconds locks_hold measured save_seconds total_bytes written_bytes",
    "ranks": "arrived backend differences error links missing shared_devices size",
    "ranks.arrived": "device errors host model rank threads",
    "findings": "level remedy what",
}
"""The keys of the JSON document; whoever changes one raises `format`."""
FREE = ("launch.variables", "devices.tested.errors", "ranks.links")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No launcher, and a small file for the speed of the disk."""
    kept = environment()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        assert name not in kept
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(run_disk, "_WHOLE", run_disk._FIRST)


def keys_of(value, path=""):
    """Yields the path and the keys of each object of a JSON value."""
    if isinstance(value, dict):
        if path not in FREE:
            yield path, " ".join(sorted(value))
        for key, each in value.items():
            yield from keys_of(each, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for each in value:
            yield from keys_of(each, path)


def ranks_section(output):
    return output.partition("\nranks\n")[2].partition("\nfindings\n")[0]


def test_the_report_has_its_sections_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert doctor.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == SECTIONS
    assert not any(tmp_path.iterdir())


def test_the_json_document_keeps_its_keys(tmp_path, capsys):
    assert doctor.main(["--output", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == 1
    found = dict(keys_of(document))
    assert {path: keys for path, keys in KEYS.items() if path != "findings"} == {
        path: keys for path, keys in found.items() if path != "findings"
    }
    assert found.get("findings", KEYS["findings"]) == KEYS["findings"]
    assert document["launch"]["joined"] == 1


def test_the_report_names_neither_user_nor_machine_nor_secrets(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(getpass, "getuser", lambda: "alice_of_the_lab")
    monkeypatch.setattr(socket, "gethostname", lambda: "machine-of-alice")
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a-secret-value")
    for words in ([], ["--json"]):
        assert doctor.main(["--output", str(tmp_path / "alice_of_the_lab"), *words]) == 0
        out = capsys.readouterr().out
        assert "~/USER" in out
        for name in (str(tmp_path), "alice_of_the_lab", "machine-of-alice", "a-secret-value", str(Path.cwd())):
            assert name not in out


def test_what_is_broken_is_one_line_on_stderr(tmp_path, capsys):
    (tmp_path / "runs").write_text("")
    assert doctor.main(["--output", str(tmp_path / "runs")]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.endswith(
        "nothing can be written there: Not a directory; output: a folder that can be written, with space for checkpoints\n"
    )
    assert "  output: a folder that can be written" in captured.out


def test_a_device_that_fails_is_named_and_the_rest_is_reported(tmp_path, monkeypatch, capsys):
    broken = Device("cuda:0", "GPU", "9.0", has_bf16=True, products=("fp32",), errors={"fp16": "CUDA error: x", "bf16": "CUDA error: x"})
    monkeypatch.setattr(module, "read_devices", lambda local_rank: Devices(2, "550.1", (broken, Device("cuda:1", "GPU"))))
    assert doctor.main(["--output", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.err == "mutual: cuda:0: a product in fp16 fails: CUDA error: x (and 1 more, see above)\n"
    assert "products in fp32 are right, failed in fp16, bf16" in captured.out


def test_a_training_that_would_not_begin_is_broken(tmp_path, monkeypatch, capsys):
    def init_environment(recipe):
        raise InputError("train: DeepSpeed holds one model")

    monkeypatch.setattr(module, "init_environment", init_environment)
    monkeypatch.setattr(module, "thread_findings", lambda *facts: ())
    assert doctor.main(["--output", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.err == "mutual: a training would not begin: train: DeepSpeed holds one model\n"
    assert "they do not join" in captured.out
    assert captured.out.endswith("what to set\n  what is broken says what would be right\n")


def test_one_process_of_several_that_were_asked_for_is_a_finding(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert doctor.main(["--output", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "the launcher was asked for several processes, and has started one" in captured.out
    assert "  torchrun --nproc_per_node N -m mutual.train RECIPE" in captured.out
    assert captured.err == "", "it is a finding, and said once"


def test_findings_come_by_their_level_and_remedies_once(tmp_path):
    diagnosis = module.diagnose(tmp_path, version="1.2.3").diagnosis
    assert diagnosis_text(replace(diagnosis, findings=())).endswith("\n  nothing to set")
    findings = (Finding("hint", "slow", "set this"), Finding("hint", "slow as well", "set this"), Finding("warning", "strange"))
    text = diagnosis_text(replace(diagnosis, findings=findings))
    assert text.endswith("\nwhat to set\n  set this")
    assert "slow as well" in text
    assert "  mutual " in text
    assert "1.2.3" in text


@pytest.mark.parametrize("words", [["--timeout", "0"], ["--timeout", "soon"], ["--timeout", "nan"]])
def test_a_wrong_timeout_is_refused(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        doctor.main(words)
    assert "--timeout" in capsys.readouterr().err


def test_processes_that_fail_alike_are_named_together():
    met = module._LaunchFacts(
        {0: {}, 1: {}, 2: {}},
        {rank: {"error": None, "is_refused": False} for rank in range(3)},
        {0: {"error": "x"}, 1: {"error": None}, 2: {"error": "x"}},
    )
    assert module._link_error(Rendezvous(0, 3), met) == "ranks 0, 2: x"
    assert (
        module._link_error(Rendezvous(0, 3), replace(met, linked={0: {"error": "x"}, 2: {"error": "x"}}))
        == "rank 1 ended or hangs in a collective"
    )
    assert module._link_error(Rendezvous(0, 3), replace(met, is_joined=True)) is None
    assert module._link_error(Rendezvous(0, 4), met) is None, "who did not come at all is named as missing"


def test_a_rank_beyond_the_world_is_what_a_training_says_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert doctor.main(["--output", str(tmp_path)]) == 1
    assert "a training would not begin: the environment says RANK=3 and WORLD_SIZE=1" in capsys.readouterr().out


def test_a_launch_that_is_refused_is_not_said_to_be_disconnected():
    refused = {rank: {"error": "train.precision: 'fp8' is none", "is_refused": True} for rank in range(2)}
    met = module._LaunchFacts({0: {}, 1: {}}, refused, {})
    assert module._link_error(Rendezvous(0, 2), met) is None
    assert module._launch(Rendezvous(0, 2), met).error == "train.precision: 'fp8' is none"


def test_a_device_that_hangs_has_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "read_devices", lambda local_rank: time.sleep(0.5))
    devices = module._read_devices(0.05)
    assert (devices.tested, devices.error) == ((), "no answer within 0.05 s")
    time.sleep(0.6)  # until the thread has ended


@pytest.mark.slow
def test_two_ranks_see_each_other(tmp_path):
    done = run_launched("mutual.doctor", "--output", tmp_path, "--json", processes=2)
    document = json.loads(done.stdout)
    ranks = document["ranks"]
    assert (ranks["size"], ranks["backend"], ranks["missing"], ranks["error"]) == (2, "gloo", [], None)
    assert [(rank["rank"], rank["host"], rank["device"]) for rank in ranks["arrived"]] == [(0, 0, "cpu:0"), (1, 0, "cpu:0")]
    assert (document["launch"]["started"], document["launch"]["joined"]) == (2, 2)
    assert ranks["links"]["is_right"]
    assert min(ranks["links"]["latency_seconds"], ranks["links"]["bytes_per_second"]) > 0
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_two_processes_that_no_launcher_keeps_a_store_for_see_each_other(tmp_path):
    """As `srun` starts them with these variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    jobs = [start("mutual.doctor", "--output", tmp_path, **launched, RANK=rank, LOCAL_RANK=rank) for rank in "01"]
    assert [job.wait(timeout=120) for job in jobs] == [0, 0], [job.stdout + job.stderr for job in jobs]
    first, second = (job.stdout + job.stderr for job in jobs)
    assert "launcher      another one, 2 started, 2 joined" in first
    assert "all-reduce" in ranks_section(first)
    assert second == ""


@pytest.mark.slow
def test_a_rank_that_does_not_come_is_named_within_seconds(tmp_path):
    done = run(
        "mutual.doctor", "--output", tmp_path, "--timeout", "1", processes=2, expect=1, prepare=partial(time.sleep, 600), timeout=120
    )
    assert "rank 0" in ranks_section(done.stdout)
    assert "missing" in ranks_section(done.stdout)
    assert "rank 0 of 2 did not come" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_what_is_broken_on_one_rank_ends_all_with_one_line(tmp_path):
    (tmp_path / "runs").write_text("")
    done = run("mutual.doctor", "--output", tmp_path / "runs", processes=2, expect=1)
    assert done.stderr.count("mutual: ") == 1
    assert done.stderr.startswith("mutual: ")
    assert "nothing can be written there: Not a directory" in done.stderr
    assert "all-reduce" in ranks_section(done.stdout)


def hang_in_collectives():
    """On one rank, nothing comes out of the first collective."""
    module.measure_links = lambda comm: time.sleep(600)


@pytest.mark.slow
def test_ranks_whose_collectives_hang_end_within_seconds(tmp_path):
    done = run("mutual.doctor", "--output", tmp_path, "--timeout", "3", processes=2, expect=1, prepare=hang_in_collectives, timeout=120)
    assert "the processes do not see each other: ranks 0, 1: no answer within 3 s" in done.stdout
    assert "Traceback" not in done.stderr
