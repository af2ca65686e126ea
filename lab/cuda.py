"""Images of gigabytes: PyTorch with its CUDA libraries, and the same with TensorFlow beside it.

All of it is real: a Debian root, and the wheels that `pip install` takes from PyPI, of fixed
versions. `python -m lab.cuda` makes lab/torch:1 (3 GB compressed) in the storage of the lab's
registry, `python -m lab.cuda both` also lab/tensorflow:1 (more than 5 GB). Neither is part of
`lab/setup`: they take minutes to make, and only the benchmarks need them.
"""

import fcntl
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence

from lab import places
from lab.samples import images, large, pushing
from lab.web import registries

BOOKWORM = large.Release("bookworm", "3.11")
FOLDER = places.LAB / "cuda"
"""Where the layers lie until they are pushed."""

TORCH, TENSORFLOW = "lab/torch:1", "lab/tensorflow:1"

# One list per layer, as a Dockerfile of several steps has it.
TORCH_WHEELS = (
    (
        *("nvidia-cublas==13.1.1.3", "nvidia-cufft==12.0.0.61", "nvidia-curand==10.4.0.35"),
        *("nvidia-cusolver==12.0.4.66", "nvidia-cusparse==12.6.3.3"),
        *("nvidia-cusparselt-cu13==0.8.1", "nvidia-nvjitlink==13.5.37"),
    ),
    (
        *("nvidia-cudnn-cu13==9.24.0.43", "nvidia-nccl-cu13==2.30.7"),
        *("nvidia-nvshmem-cu13==3.4.5", "nvidia-cuda-nvrtc==13.0.88"),
        *("nvidia-cuda-cupti==13.0.85", "nvidia-cuda-runtime==13.0.96"),
        *("nvidia-cufile==1.15.1.6", "nvidia-nvtx==13.0.85", "cuda-bindings==13.5.0"),
        *("cuda-pathfinder==1.9.1", "cuda-toolkit==13.0.3.0"),
    ),
    ("triton==3.8.0",),
    (
        *("torch==2.14.1", "sympy==1.14.0", "networkx==3.6.1", "setuptools==84.2.1"),
        *("mpmath==1.3.0", "filelock==4.3.1", "fsspec==2026.9.0", "jinja2==3.1.6"),
        *("typing-extensions==4.16.0", "markupsafe==3.0.4"),
    ),
)

# One layer for all, as a Dockerfile with one step has it.
TENSORFLOW_WHEELS = (
    *("nvidia-cublas-cu12==12.9.3.13", "nvidia-cuda-cupti-cu12==12.9.79"),
    *("nvidia-cuda-nvcc-cu12==12.9.86", "nvidia-cuda-nvrtc-cu12==12.9.86"),
    *("nvidia-cuda-runtime-cu12==12.9.79", "nvidia-cudnn-cu12==9.28.0.42"),
    *("nvidia-cufft-cu12==11.4.1.4", "nvidia-curand-cu12==10.3.10.19"),
    *("nvidia-cusolver-cu12==11.7.5.82", "nvidia-cusparse-cu12==12.5.10.65"),
    *("nvidia-nccl-cu12==2.32.3", "nvidia-nvjitlink-cu12==12.9.86", "tensorflow==2.21.0"),
    *("numpy==2.4.6", "h5py==3.14.0", "keras==3.15.1", "libclang==18.1.1", "grpcio==1.85.3"),
)

HELLO = """\
#!/usr/bin/python3
# What a training job does first: import its library, and say so.
import torch

total = torch.ones(64, 64).matmul(torch.eye(64)).sum().item()
print(f"torch {torch.__version__} cuda {torch.version.cuda}")
print(f"ready {total}", flush=True)
"""


def main() -> None:
    """Make what is missing."""
    make([TORCH, TENSORFLOW] if sys.argv[1:] == ["both"] else [TORCH])


def make(names: list[str]) -> None:
    """Make those of these images that are missing; one process at a time."""
    places.LAB.mkdir(parents=True, exist_ok=True)
    with (places.LAB / "cuda.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in names:
            if not is_there(name):
                print(f"lab: making {name} of wheels from PyPI (minutes)", flush=True)
                started = time.monotonic()
                _make(name)
                print(f"lab: made in {time.monotonic() - started:.0f} s")


def is_there(name: str) -> bool:
    """Whether the lab has an image as this module makes it."""
    record = registries.catalogue().get(name)
    return record is not None and record["stamp"] == images.stamp(images.CUDA)


def _make(name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    if name == TORCH:
        layers = [large.root_layer(FOLDER, BOOKWORM)]
        layers += [_libraries(f"torch-{at}", group) for at, group in enumerate(TORCH_WHEELS)]
        layers.append(pushing.layer(large.programs(HELLO)))
    else:
        layers = [*_stored(TORCH), _libraries("tensorflow", TENSORFLOW_WHEELS)]
    with (
        tempfile.TemporaryDirectory(prefix="lab-") as folder,
        registries.Registry(pathlib.Path(folder), storage=places.STORAGE) as registry,
    ):
        pusher = pushing.Pusher(registry.address)
        repository, _, tag = name.partition(":")
        pushed = pusher.image(repository, tag, layers, command=("hello",))
        images.add(name, pushed.record(images.stamp(images.CUDA)))
        pusher.close()
    shutil.rmtree(FOLDER)


def _stored(name: str) -> list[pushing.Layer]:
    """Return the layers of an image that is in the storage; the first has the tar bytes of all."""
    record = registries.catalogue()[name]
    layers: list[pushing.Layer] = []
    for digest, diff_id in zip(record["layers"], record["diff_ids"], strict=True):
        path = registries.stored(digest)
        tar_size = 0 if layers else record["unpacked"]
        layers.append(pushing.Layer(path, digest, path.stat().st_size, diff_id, tar_size))
    return layers


def _libraries(name: str, wheels: Sequence[str]) -> pushing.Layer:
    """Return a layer of wheels; their files are gigabytes that nothing else needs."""
    files = [large.download(wheel, BOOKWORM) for wheel in wheels]
    layer = large.wheel_layer(FOLDER / f"{name}.tar.gz", files, BOOKWORM)
    for file in files:
        file.unlink()
    return layer


if __name__ == "__main__":
    main()
