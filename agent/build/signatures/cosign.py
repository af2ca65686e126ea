"""Verification of images' signatures, by the program cosign.

Invariant: what is verified is the digest that is built. The caller has resolved the tag; cosign is
asked about the digest of those very bytes.
"""

import logging
import os
import pathlib
import tempfile
from collections.abc import Mapping

from agent import errors
from agent.build.signatures import signature_policy, signature_proxy
from agent.kits.processes import programs
from agent.model import images

logger = logging.getLogger(__name__)

DEADLINE = 120.0
"""Seconds that cosign may take for one key or identity; the trusted root may be fetched first."""

_REASON_SHOWN = 500
_PASSED_ON = ("PATH", "HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")


class NotSigned(errors.PermanentError):
    """An image lacks the signature that the policy wants. `digest` is what was looked at."""

    def __init__(self, reference: str, digest: str, reason: str) -> None:
        super().__init__(
            f"{reference} ({digest}) may not be built by the signature policy: {reason}"
        )
        self.reference = reference
        self.digest = digest


class VerifierMissing(errors.PermanentError):
    """cosign cannot be started, so nothing that needs a signature is built."""


class Verifier:
    """Checks images by a policy before they are built."""

    def __init__(
        self,
        policy: signature_policy.Policy,
        registry: signature_proxy.Registry,
        *,
        program: str = "cosign",
        deadline: float = DEADLINE,
    ) -> None:
        self._policy = policy
        self._registry = registry
        self._program = program
        self._deadline = deadline

    async def check(self, reference: images.Reference, digest: str) -> None:
        """Return if the manifest or index of this digest may be built.

        Raises NotSigned, VerifierMissing, and a TemporaryError where the registry does not answer.
        """
        demand = self._policy.demand(reference)
        if not demand.pattern:
            raise NotSigned(str(reference), digest, "no rule of it is for this image")
        if demand.unsigned:
            return
        reasons = []
        for signer in demand.signers:
            reason = await self._reason_against(reference, digest, signer)
            if not reason:
                logger.info(
                    "an image's signature is verified",
                    extra={"image": str(reference), "digest": digest, "signer": signer.name},
                )
                return
            reasons.append(f"{signer.name}: {reason}")
        raise NotSigned(
            str(reference), digest, f"the rule for {demand.pattern}: {'; '.join(reasons)}"
        )

    async def _reason_against(
        self, reference: images.Reference, digest: str, signer: signature_policy.Signer
    ) -> str:
        """Why a signer's signature is not there; "" where it is."""
        async with signature_proxy.serving(self._registry, reference) as proxy:
            with tempfile.TemporaryDirectory(prefix="uimgacc-cosign-") as home:
                try:
                    ended = await programs.run(
                        self._program,
                        ("verify", *signer.arguments, f"{proxy.repository}@{digest}"),
                        environment=_environment(pathlib.Path(home)),
                        bounds=programs.Bounds(deadline=self._deadline),
                    )
                except TimeoutError:
                    return f"cosign gave no answer within {self._deadline:g} s"
                except OSError as error:
                    raise VerifierMissing(
                        f"{self._program} cannot be started, which verifies signatures:"
                        f" {error.strerror}"
                    ) from error
        if not ended.status:
            return ""
        if proxy.failure is not None:
            raise proxy.failure
        return _reason(ended).replace(proxy.repository, reference.name)


def _reason(ended: programs.Ended) -> str:
    """The last line that cosign wrote: those before it are warnings, and the same once more."""
    lines = ended.complaint.decode(errors="replace").splitlines()
    said = [" ".join(line.split()) for line in lines if line.strip()] or ["cosign says nothing"]
    return said[-1].removeprefix("error during command execution: ")[:_REASON_SHOWN]


def _environment(home: pathlib.Path) -> Mapping[str, str]:
    """What cosign sees: no credentials, and no other settings of its own than the arguments."""
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    own = {"HOME": str(home), "DOCKER_CONFIG": str(home), "TUF_ROOT": str(home / "tuf")}
    return {**passed, **own, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
