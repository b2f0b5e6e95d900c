"""Where the arithmetic will run: versions and devices, and an error when an accelerator is there but not used."""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import jax
import numpy as np

from bdal.errors import AcceleratorError, ConfigError

TPU_VARIABLES = ("TPU_NAME", "COLAB_TPU_ADDR", "TPU_ACCELERATOR_TYPE")


def doctor() -> dict[str, str]:
    """Print versions, backend and devices; return them.

    Raises `AcceleratorError` if a TPU or an NVIDIA GPU seems to be attached but JAX runs on the CPU, as it does without
    a word when its libtpu or CUDA plugin does not fit, unless JAX_PLATFORMS=cpu asked for it.

    >>> facts = doctor()  # doctest: +ELLIPSIS
    python ...
    >>> sorted(facts)[:3]
    ['backend', 'bdal', 'devices']
    """
    facts = versions()
    if (libtpu := package_version("libtpu")) != "not installed":
        facts["libtpu"] = libtpu
    platforms = chosen_platforms()
    try:
        facts["backend"] = jax.default_backend()
        devices = jax.devices()
    except RuntimeError as error:
        raise AcceleratorError(f"JAX cannot start the backend of JAX_PLATFORMS={platforms}: {error}") from error
    facts["devices"] = f"{len(devices)} x {', '.join(sorted({device.device_kind for device in devices}))}"

    attached = attached_accelerator()
    unused = attached is not None and facts["backend"] == "cpu"
    if unused and platforms == "cpu":
        facts["note"] = f"{attached}; JAX_PLATFORMS=cpu keeps JAX on the CPU, as asked"

    width = max(map(len, facts))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in facts.items()), flush=True)
    if unused and platforms != "cpu":
        raise AcceleratorError(
            f"{attached}, but JAX {facts['jax']} runs on the CPU: install the jax that fits it "
            "(docs.jax.dev/en/latest/installation.html) and restart Python, or set JAX_PLATFORMS=cpu to use the CPU"
        )
    return facts


def chosen_platforms() -> str | None:
    """The platforms that the user told JAX to use: JAX_PLATFORMS, or `jax.config`."""
    return getattr(jax.config, "jax_platforms", None) or None


def attached_accelerator(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> str | None:
    """What says that this machine has a TPU or an NVIDIA GPU, or None; asks the system, not JAX."""
    variables = [name for name in TPU_VARIABLES if environment.get(name)]
    libtpu = importlib.util.find_spec("libtpu") is not None
    if chips := sorted(devices.glob("accel[0-9]*")):
        return f"a TPU is attached ({chips[0]})"
    if (variables or libtpu) and (chips := sorted(devices.glob("vfio/[0-9]*"))):  # other devices use vfio too
        return f"a TPU is attached ({chips[0]})"
    if variables and libtpu:
        return f"a TPU is attached ({variables[0]} is set)"
    if (devices / "nvidia0").exists():
        return f"an NVIDIA GPU is attached ({devices / 'nvidia0'})"
    if gpus := _nvidia_smi():
        return f"an NVIDIA GPU is attached (nvidia-smi lists {gpus[0]})"
    return None


def _nvidia_smi() -> list[str]:
    """The GPUs that `nvidia-smi -L` lists; none without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listed.splitlines() if line.startswith("GPU ")]


def expanded(path: str | Path) -> Path:
    """A path with `~` replaced by the home directory. Raises `ConfigError` where that is not known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{path}: expected a path, found ~ for a home directory that is not known (no such user, or HOME is not "
            "set); write the path in full"
        ) from None


def check_hosts_agree(digest: str) -> None:
    """Refuse to start where the processes of one `jax.distributed` program were given different things to run.

    Every process calls it with its own digest, of its configuration and its data say, and all of them wait for each
    other. Every process raises, so that none is left waiting. With one process it does nothing.

    Args:
      digest: any text.

    Raises:
      ConfigError: the texts differ; names the processes that agree with process 0, and those that do not.

    >>> check_hosts_agree("config 5f2c, data 9a31")
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils  # slow to load, and only for several processes

    mine = np.frombuffer(hashlib.sha256(digest.encode()).digest(), np.uint8)
    everyones = np.asarray(multihost_utils.process_allgather(mine)).reshape(jax.process_count(), -1)
    others = np.flatnonzero((everyones != everyones[0]).any(1))
    if others.size:
        like = [process for process in range(len(everyones)) if process not in others]
        raise ConfigError(
            f"hosts: expected the same configuration and data on all {len(everyones)} processes, got other ones on "
            f"{_processes(others)} than on {_processes(like)}; this is process {jax.process_index()}, with {digest!r}"
        )


def _processes(numbers) -> str:
    return f"{'process' if len(numbers) == 1 else 'processes'} {', '.join(map(str, numbers))}"


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version()} | {
        name: package_version(name) for name in ("bdal", "jax", "jaxlib", "flax", "optax", "numpy")
    }


def package_version(name: str) -> str:
    """An installed package's version, or "not installed"."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
