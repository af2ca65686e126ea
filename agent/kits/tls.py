"""TLS to servers of other people's clusters."""

import ssl


def client_context(*, authority: str | None = None) -> ssl.SSLContext:
    """Verify servers as Go's programs do; `authority` are PEM certificates, None the system's.

    Python 3.13 began to refuse authorities that lack a key usage or a key identifier
    (VERIFY_X509_STRICT). Those of many clusters and private registries do, and kubectl,
    kubelet and containerd take them: we would be the one part that does not start.
    """
    context = ssl.create_default_context(cadata=authority)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
