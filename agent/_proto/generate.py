"""Generate the modules beside the .proto files: `python -m agent._proto.generate [TARGET]`.

Needs grpcio-tools (the dev extra). TARGET is the folder that stands for the
project's root, default the current one.
"""

import importlib.resources
import pathlib
import subprocess
import sys


def generate(root: pathlib.Path, target: pathlib.Path) -> None:
    """Compile every .proto below `root`/agent/_proto into `target`/agent/_proto."""
    sources = sorted(path.relative_to(root) for path in root.glob("agent/_proto/**/*.proto"))
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-I.",
            f"-I{well_known}",
            f"--python_out={target}",
            f"--pyi_out={target}",
            f"--grpc_python_out={target}",
            *map(str, sources),
        ],
        cwd=root,
        check=True,
    )


if __name__ == "__main__":
    project = pathlib.Path(__file__).resolve().parents[2]
    generate(project, pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else project).resolve())
