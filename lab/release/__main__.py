"""`make release`: make a release of the checkout's commit, and push it.

python -m lab.release build [--registry REGISTRY] [--key KEY]
python -m lab.release push REGISTRY [--key KEY] [--release FOLDER]
"""

import argparse
import os
import pathlib

from lab import processes
from lab.chart import renderings
from lab.parts import debian
from lab.release import building, signing, sources, uploads

REGISTRY = "registry.example.com"
KEY = "UIMGACC_COSIGN_KEY"


def main() -> None:
    """Do what the command line says; one line says what is wrong."""
    wanted = _arguments()
    try:
        if wanted.command == "build":
            building.make(wanted.registry, key=wanted.key, output=wanted.output)
            return
        folder = wanted.release or building.FOLDER / sources.version().text
        release = uploads.push(folder, wanted.registry, plain_http=wanted.plain_http)
        if wanted.key:
            signing.sign_pushed(
                folder, release, wanted.registry, key=wanted.key, plain_http=wanted.plain_http
            )
        print(
            f"release: {release.image(wanted.registry)} and {release.chart_name(wanted.registry)}"
        )
    except (processes.LabError, debian.PartError, renderings.CannotRenderError) as error:
        raise SystemExit(f"release: {error}") from None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="make the release of the checkout's commit")
    build.add_argument(
        "--registry",
        default=os.environ.get("UIMGACC_RELEASE_REGISTRY") or REGISTRY,
        help="where manifests and chart find the image: HOST[/PATH] (UIMGACC_RELEASE_REGISTRY)",
    )
    build.add_argument("--output", type=pathlib.Path, help="the folder to make")
    push = commands.add_parser("push", help="push a release to a registry, and sign it there")
    push.add_argument("registry", help="HOST[/PATH]; passwords are those of `docker login`")
    push.add_argument("--release", type=pathlib.Path, help="its folder, if not the commit's own")
    push.add_argument("--plain-http", action="store_true", help="the registry has no TLS")
    for command in (build, push):
        command.add_argument(
            "--key",
            default=os.environ.get(KEY, ""),
            help=f"sign with this key of cosign's, a file or the URI of a KMS ({KEY})",
        )
    return parser.parse_args()


if __name__ == "__main__":
    main()
