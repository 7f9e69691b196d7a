"""diagnose: all facts of this launch in the order in which they are found, so that each is known whatever fails behind it."""

from __future__ import annotations

import os
import socket
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch

from mutual.engine.diagnosis.devices import Devices, device_identity, read_devices
from mutual.engine.diagnosis.findings import (
    Finding,
    Level,
    device_findings,
    disk_findings,
    launch_findings,
    machine_findings,
    package_findings,
    rank_findings,
    thread_findings,
)
from mutual.engine.diagnosis.launch import Launch, launcher_name, shown_variables
from mutual.engine.diagnosis.machine import Machine, read_machine
from mutual.engine.diagnosis.ranks import (
    Links,
    RankFacts,
    Ranks,
    differences,
    host_numbers,
    measure_links,
    rank_names,
    shared_devices,
)
from mutual.engine.diagnosis.redaction import redact_error
from mutual.engine.diagnosis.rendezvous import Rendezvous, run_with_timeout
from mutual.engine.diagnosis.run_disk import RunDisk, measure_run_disk
from mutual.engine.diagnosis.versions import Package, TorchBuild, read_packages, read_torch_build
from mutual.engine.runtime import Environment, LaunchSettings, init_environment, is_lone_process, restore_switches
from mutual.recipe import InputError, Recipe, parse_recipe

_PATIENCE = 10
"""A collective's own limit, in those of the diagnosis: whoever waits here is asked for no longer before it ends the process."""
_DISK_SECONDS = 30.0


@dataclass(frozen=True)
class Diagnosis:
    """What this launch runs on, and what is to be said of it.

    Attributes:
        packages: versions of mutual and what it needs or can use.
        torch_build: what torch was built with.
        machine: of the first process that arrived, as are devices, launch and disk.
        devices: those that it has looked at.
        launch: what the launcher started and set.
        disk: the disk of the run folder.
        ranks: the processes beside each other.
        findings: what is broken, or slower than it need be.
    """

    packages: tuple[Package, ...]
    torch_build: TorchBuild
    machine: Machine
    devices: Devices
    launch: Launch
    disk: RunDisk
    ranks: Ranks
    findings: tuple[Finding, ...]

    def document(self) -> dict[str, Any]:
        """Returns it as a JSON value, whose keys are those of the classes."""
        return {"format": 1, **asdict(self)}


@dataclass(frozen=True)
class DiagnosisResult:
    """What a process has of a diagnosis.

    Attributes:
        diagnosis: the whole, on the first process that arrived; None on the others.
        broken: a line that says what is broken, the same on all, or None.
        is_joined: whether all processes have met in collectives, and may so again.
        rendezvous: the store that they met in, which process 0 may keep for the others.
    """

    diagnosis: Diagnosis | None
    broken: str | None
    is_joined: bool
    rendezvous: Rendezvous


@dataclass(frozen=True)
class _LocalFacts:
    """What a process knows before it has met another."""

    packages: tuple[Package, ...]
    machine: Machine
    devices: Devices

    def facts(self) -> dict[str, Any]:
        """Returns it as it is sent to the others; what stands under `alike` should be the same on all."""
        tested = self.devices.tested
        model = ", ".join(device.model for device in tested)
        errors = [
            f"{device.name}: a product in {precision} fails: {line}"
            for device in tested
            for precision, line in device.errors.items()
            if device.should_compute_in(precision)
        ]
        return {
            "host": socket.gethostname(),
            "alike": {
                "Python": self.machine.python,
                **{package.name: package.version for package in self.packages},
                "the NVIDIA driver": self.devices.driver,
                "the device": model,
                "cores": self.machine.usable_cores,
            },
            "model": model,
            "identity": device_identity(torch.device(tested[0].name)) if len(tested) == 1 else None,
            "errors": errors + ([] if self.devices.error is None else [self.devices.error]),
        }


@dataclass(frozen=True)
class _LaunchFacts:
    """What the processes have sent each other, by rank, and whether their collectives work."""

    facts: dict[int, Any]
    joined: dict[int, Any]
    linked: dict[int, Any]
    backend: str | None = None
    is_joined: bool = False


def diagnose(output: Path, *, version: str, timeout: float = 30.0) -> DiagnosisResult:
    """Looks at this process, its machine and the disk of `output`, and at the other processes of its launch. Collective.

    Args:
        output: the folder of runs, which need not be there; it is left as it is.
        version: mutual's own.
        timeout: seconds that each step may take which other processes take part in.
    """
    rendezvous = Rendezvous.of_launch(timeout)
    present = set(rendezvous.exchange("present", None, timeout=timeout))
    own = _LocalFacts(read_packages(version), read_machine(), _read_devices(timeout))
    with restore_switches():
        launch_facts = _connect(rendezvous, own, present, timeout)
    reporter = min(launch_facts.facts)
    arrived = {reporter}
    if rendezvous.rank != reporter:
        verdict = rendezvous.exchange("verdict", None, timeout=timeout + _DISK_SECONDS, ranks=arrived).get(reporter)
        return DiagnosisResult(None, verdict, launch_facts.is_joined, rendezvous)
    diagnosis = _diagnosis(rendezvous, own, launch_facts, measure_run_disk(output, timeout=_DISK_SECONDS))
    broken = _broken_line(diagnosis.findings)
    rendezvous.exchange("verdict", broken, timeout=timeout, ranks=arrived)
    return DiagnosisResult(diagnosis, broken, launch_facts.is_joined, rendezvous)


def _read_devices(timeout: float) -> Devices:
    """Returns the devices of this process; one that hangs is one that has failed."""
    local_rank = os.environ.get("LOCAL_RANK", "0")
    try:
        return run_with_timeout(timeout, lambda: read_devices(int(local_rank) if local_rank.isdecimal() else 0))
    except TimeoutError as error:
        return Devices(0, None, (), error=str(error))


def _connect(rendezvous: Rendezvous, own: _LocalFacts, present: set[int], timeout: float) -> _LaunchFacts:
    """Lets the processes meet in the store, in the process group, and in collectives, for as long as none is missing."""
    facts = rendezvous.exchange("facts", own.facts(), timeout=2 * timeout, ranks=present)
    if len(facts) < rendezvous.size:
        return _LaunchFacts(facts, {}, {})
    recipe = _placeholder_recipe(timeout)
    environment, joined = _join(recipe, timeout)
    all_joined = rendezvous.exchange("joined", joined, timeout=2 * timeout)
    if environment is None or len(all_joined) < rendezvous.size or any(each["error"] for each in all_joined.values()):
        return _LaunchFacts(facts, all_joined, {})
    all_linked = rendezvous.exchange("linked", _link(recipe, environment, timeout), timeout=2 * timeout)
    is_joined = len(all_linked) == rendezvous.size and not any(each["error"] for each in all_linked.values())
    return _LaunchFacts(facts, all_joined, all_linked, environment.comm.backend, is_joined)


def _placeholder_recipe(timeout: float) -> Recipe:
    """Returns a recipe that chooses nothing, for what a training takes of its launcher."""
    peers = {"a": {"model": "small_cnn"}}
    return parse_recipe(
        {"name": "diagnosis", "peers": peers, "objectives": [{"loss": "cross_entropy"}], "train": {"timeout_seconds": _PATIENCE * timeout}}
    )


def _join(recipe: Recipe, timeout: float) -> tuple[Environment | None, dict[str, Any]]:
    """Joins the processes as a training does; returns None where they do not, and what the others are sent of it."""
    environment, error, device, is_refused = None, None, None, False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the launcher was asked for several processes")  # it is a finding
        try:
            environment = run_with_timeout(timeout, lambda: init_environment(recipe))
            device = environment.comm.device
            if device.type == "cuda":
                torch.cuda.set_device(device)  # of this thread
        except (InputError, OSError, RuntimeError) as raised:
            error, is_refused = redact_error(raised), isinstance(raised, InputError)
    identity = None if device is None else device_identity(device)
    joined = {"error": error, "is_refused": is_refused, "device": None if device is None else str(device), "identity": identity}
    return environment, joined


def _link(recipe: Recipe, environment: Environment, timeout: float) -> dict[str, Any]:
    """Returns what a training takes of its launcher, and what collectives take, as it is sent to the others."""
    comm = environment.comm

    def communicate() -> dict[str, Any]:
        threads = LaunchSettings.of(recipe, comm).threads
        links = asdict(measure_links(comm)) if comm.size > 1 else None
        return {"error": None, "precision": environment.precision, "threads": threads, "links": links}

    try:
        return run_with_timeout(timeout, communicate)
    except (InputError, OSError, RuntimeError) as error:
        return {"error": redact_error(error)}


def _diagnosis(rendezvous: Rendezvous, own: _LocalFacts, launch_facts: _LaunchFacts, disk: RunDisk) -> Diagnosis:
    launch, ranks, build = _launch(rendezvous, launch_facts), _ranks(rendezvous, launch_facts), read_torch_build()
    num_local = sum(facts["host"] == launch_facts.facts[rendezvous.rank]["host"] for facts in launch_facts.facts.values())
    machine = replace(own.machine, processes=max(own.machine.processes, num_local))  # not every launcher says it
    findings = (
        *rank_findings(ranks),
        *launch_findings(launch, own.devices),
        *package_findings(own.packages, build, own.devices),
        *device_findings(own.devices, launch),
        *machine_findings(machine),
        *thread_findings(machine, launch, own.devices),
        *disk_findings(disk),
    )
    in_order = tuple(sorted(findings, key=lambda finding: get_args(Level).index(finding.level)))
    return Diagnosis(own.packages, build, machine, own.devices, launch, disk, ranks, in_order)


def _launch(rendezvous: Rendezvous, launch_facts: _LaunchFacts) -> Launch:
    launch = Launch(launcher_name(), rendezvous.size, is_lone=is_lone_process(), variables=shown_variables())
    refusals = [joined["error"] for joined in launch_facts.joined.values() if joined["is_refused"]]
    own = launch_facts.linked.get(rendezvous.rank, {})
    if refusals or rendezvous.size == 1:  # what several processes fail at otherwise is said of them
        launch = replace(launch, error=refusals[0] if refusals else launch_facts.joined[rendezvous.rank]["error"] or own.get("error"))
    if not launch_facts.is_joined:
        return launch
    return replace(launch, joined=rendezvous.size, precision=own["precision"], threads=own["threads"])


def _ranks(rendezvous: Rendezvous, launch_facts: _LaunchFacts) -> Ranks:
    hosts = {rank: facts["host"] for rank, facts in launch_facts.facts.items()}
    numbers = host_numbers(hosts)
    arrived, places = [], {}
    for rank, facts in launch_facts.facts.items():
        joined, linked = launch_facts.joined.get(rank, {}), launch_facts.linked.get(rank, {})
        device = joined.get("device")
        arrived.append(RankFacts(rank, numbers[rank], device, facts["model"], linked.get("threads"), tuple(facts["errors"])))
        places[rank] = (hosts[rank], facts["identity"] if device is None else joined["identity"])
    links = launch_facts.linked.get(rendezvous.rank, {}).get("links") if launch_facts.is_joined else None
    return Ranks(
        size=rendezvous.size,
        backend=launch_facts.backend,
        arrived=tuple(arrived),
        missing=tuple(rank for rank in range(rendezvous.size) if rank not in launch_facts.facts),
        differences=tuple(differences({rank: facts["alike"] for rank, facts in launch_facts.facts.items()})),
        shared_devices=shared_devices(places),
        links=None if links is None else Links(**links),
        error=_link_error(rendezvous, launch_facts),
    )


def _link_error(rendezvous: Rendezvous, launch_facts: _LaunchFacts) -> str | None:
    """Returns why processes that have all come do not see each other, or None."""
    if rendezvous.size == 1 or len(launch_facts.facts) < rendezvous.size or launch_facts.is_joined:
        return None
    if any(joined["is_refused"] for joined in launch_facts.joined.values()):  # the launch is refused, and not for what is between them
        return None
    results = launch_facts.linked or launch_facts.joined
    missing = [rank for rank in range(rendezvous.size) if rank not in results]
    if missing:
        return f"{rank_names(missing)} ended or hangs in a collective"
    ranks_of: dict[str, list[int]] = {}
    for rank, each in results.items():
        if each["error"]:
            ranks_of.setdefault(each["error"], []).append(rank)
    return "; ".join(f"{rank_names(ranks)}: {line}" for line, ranks in ranks_of.items())


def _broken_line(findings: tuple[Finding, ...]) -> str | None:
    """Returns what is broken in a line, or None."""
    broken = [finding for finding in findings if finding.level == "broken"]
    if not broken:
        return None
    remedy = "" if broken[0].remedy is None else f"; {broken[0].remedy}"
    return f"{broken[0].what}{remedy}" + (f" (and {len(broken) - 1} more, see above)" if len(broken) > 1 else "")
