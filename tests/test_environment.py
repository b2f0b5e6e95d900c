import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

import bdal.environment
from bdal.environment import attached_accelerator, check_hosts_agree, doctor
from bdal.errors import AcceleratorError, ConfigError


@pytest.fixture
def machine(monkeypatch):
    """Says what is attached, what JAX uses, and what the user chose."""

    def make(attached: str | None, backend: str, kind: str, chosen: str | None = None) -> None:
        monkeypatch.setattr(bdal.environment, "attached_accelerator", lambda: attached)
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=kind)] * 2)
        monkeypatch.setattr(bdal.environment, "chosen_platforms", lambda: chosen)

    return make


TPU = "a TPU is attached (/dev/accel0)"


@pytest.mark.parametrize(
    ("attached", "backend", "kind"),
    [(None, "cpu", "cpu"), (TPU, "tpu", "TPU v5 lite"), ("a GPU", "gpu", "NVIDIA H200")],
)
def test_healthy(machine, capsys, attached, backend, kind):
    machine(attached, backend, kind)
    facts = doctor()
    assert facts.keys() >= {"python", "bdal", "jax", "jaxlib", "flax", "optax", "numpy", "backend", "devices"}
    assert (facts["backend"], facts["devices"]) == (backend, f"2 x {kind}")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(facts)
    assert len({line.index(value) for line, value in zip(lines, facts.values(), strict=True)}) == 1  # aligned


def test_an_accelerator_that_is_not_used(machine, capsys):
    machine(TPU, "cpu", "cpu")
    with pytest.raises(AcceleratorError, match=r"a TPU is attached \(/dev/accel0\), but JAX [\d.]+\S* runs on the CPU"):
        doctor()
    assert "backend  cpu" in capsys.readouterr().out  # the table is printed before


def test_the_cpu_by_choice(machine, capsys):
    machine(TPU, "cpu", "cpu", "cpu")
    assert doctor()["note"] == f"{TPU}; JAX_PLATFORMS=cpu keeps JAX on the CPU, as asked"
    assert "as asked" in capsys.readouterr().out


def test_a_backend_that_does_not_start(machine, monkeypatch):
    machine(TPU, "tpu", "TPU v5 lite", "tpu")

    def fail():
        raise RuntimeError("Unable to initialize backend 'tpu'")

    monkeypatch.setattr(jax, "default_backend", fail)
    with pytest.raises(AcceleratorError, match="cannot start the backend of JAX_PLATFORMS=tpu: Unable to initialize"):
        doctor()


def test_libtpu_is_listed(machine, monkeypatch):
    machine(None, "cpu", "cpu")
    monkeypatch.setattr(bdal.environment, "package_version", lambda name: {"libtpu": "0.0.42"}.get(name, "1.0"))
    assert doctor()["libtpu"] == "0.0.42"


@pytest.mark.parametrize(
    ("files", "variables", "libtpu", "gpus", "found"),
    [
        ([], [], False, [], None),
        ([], [], True, [], None),
        (["accel0", "accel1"], [], False, [], "a TPU is attached ({}/accel0)"),
        (["vfio/0"], [], False, [], None),  # any device may be passed through
        (["vfio/0", "vfio/vfio"], ["TPU_ACCELERATOR_TYPE"], False, [], "a TPU is attached ({}/vfio/0)"),
        (["vfio/0"], [], True, [], "a TPU is attached ({}/vfio/0)"),
        (["vfio/vfio"], [], True, [], None),
        ([], ["TPU_NAME"], False, [], None),  # the name of a machine somewhere else
        ([], ["COLAB_TPU_ADDR"], True, [], "a TPU is attached (COLAB_TPU_ADDR is set)"),
        (["nvidia0"], [], False, [], "an NVIDIA GPU is attached ({}/nvidia0)"),
        ([], [], False, ["GPU 0: NVIDIA H200"], "an NVIDIA GPU is attached (nvidia-smi lists GPU 0: NVIDIA H200)"),
    ],
)
def test_what_counts_as_attached(tmp_path, monkeypatch, files, variables, libtpu, gpus, found):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if libtpu else None)
    monkeypatch.setattr(bdal.environment, "_nvidia_smi", lambda: gpus)
    expected = found and found.format(tmp_path)
    assert attached_accelerator(dict.fromkeys(variables, "x"), tmp_path) == expected


@pytest.mark.parametrize(
    ("script", "gpus"),
    [
        ("echo 'GPU 0: NVIDIA L4 (UUID: GPU-1)'; echo '  MIG 1g'", ["GPU 0: NVIDIA L4 (UUID: GPU-1)"]),
        ("echo 'NVIDIA-SMI has failed'; exit 9", []),
        ("echo 'No devices found.'", []),
    ],
)
def test_nvidia_smi(tmp_path, monkeypatch, script, gpus):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert bdal.environment._nvidia_smi() == gpus


def test_no_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bdal.environment._nvidia_smi() == []


# -- several processes ------------------------------------------------------------------------------------------------

HOST = """
import sys
from pathlib import Path

import jax

port, process, digest = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
told = Path(sys.argv[4])  # the collectives write to the standard output
address = f"127.0.0.1:{port}"
jax.distributed.initialize(
    address, num_processes=2, process_id=process, coordinator_bind_address=address, initialization_timeout=60,
    heartbeat_timeout_seconds=20, shutdown_timeout_seconds=20,
)

from bdal.environment import check_hosts_agree
from bdal.errors import ConfigError

try:
    check_hosts_agree(digest)
    told.write_text(f"{jax.process_count()} processes agree")
except ConfigError as error:
    told.write_text(str(error))
    sys.exit(1)
finally:
    jax.distributed.shutdown()
"""


def two_processes(digests, folder):
    """Exit code and message of two real processes that meet over loopback, and end by themselves.

    On a busy machine gloo's processes may wait for each other for ever while they connect, or one of them for what the
    other has sent; then another pair is started.
    """
    for attempt in range(3):
        (folder / str(attempt)).mkdir()
        if (outcome := one_pair(digests, folder / str(attempt))) is not None:
            return outcome
    raise AssertionError("three pairs of processes did not end")


def one_pair(digests, folder):
    """What two processes came to, or None if they did not end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    told = [folder / "0", folder / "1"]
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, str(port), str(process), digest, str(told[process])],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for process, digest in enumerate(digests)
    ]  # fmt: skip
    try:
        printed = [host.communicate(timeout=120)[0] for host in hosts]
    except subprocess.TimeoutExpired:
        return None
    finally:
        for host in hosts:
            host.kill()
            host.communicate()
    assert all(file.exists() for file in told), printed
    return [(host.returncode, file.read_text()) for host, file in zip(hosts, told, strict=True)]


@pytest.mark.slow
def test_two_processes_with_the_same_experiment_start(tmp_path):
    assert two_processes(["config 5f2c"] * 2, tmp_path) == [(0, "2 processes agree")] * 2


@pytest.mark.slow
def test_two_processes_with_different_experiments_both_stop(tmp_path):
    line = (
        "hosts: expected the same configuration and data on all 2 processes, got other ones on process 1 than on "
        "process 0; this is process {}, with '{}'"
    )
    digests = ["config 5f2c, seed 0", "config 9a31"]  # of other lengths too
    expected = [(1, line.format(process, digest)) for process, digest in enumerate(digests)]
    assert two_processes(digests, tmp_path) == expected


@pytest.mark.parametrize(
    ("digests", "message"),
    [
        ("aaaa", None),
        ("aaba", "got other ones on process 2 than on processes 0, 1, 3; this is process 2, with 'b'"),
        ("abca", "got other ones on processes 1, 2 than on processes 0, 3; this is process 2, with 'c'"),
        ("abbb", "got other ones on processes 1, 2, 3 than on process 0; this is process 2, with 'b'"),
    ],
)
def test_processes_that_differ_are_named(monkeypatch, digests, message):
    monkeypatch.setattr(jax, "process_count", lambda: len(digests))
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    gather = lambda mine: np.stack([mine ^ (ord(digest) ^ ord(digests[2])) for digest in digests])  # noqa: E731
    monkeypatch.setattr(multihost_utils, "process_allgather", gather)
    if message is None:
        check_hosts_agree(digests[2])
        return
    with pytest.raises(ConfigError, match=message):
        check_hosts_agree(digests[2])


def test_one_process_agrees_with_itself(monkeypatch):
    monkeypatch.setattr(multihost_utils, "process_allgather", None)
    check_hosts_agree("anything")
