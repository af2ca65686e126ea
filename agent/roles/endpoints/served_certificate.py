"""A certificate from files that are replaced while it is served."""

import asyncio
import logging

from agent.kits.web import tls

logger = logging.getLogger(__name__)

_SECONDS = 10.0


async def renew(certificate: tls.Certificate | None) -> None:
    """Load a certificate that was replaced, for ever; open connections keep the old one."""
    while True:
        await asyncio.sleep(_SECONDS)
        try:
            if certificate is not None and certificate.refresh():
                logger.info("the certificate was replaced")
        except OSError as error:  # of the files, or of what is in them
            logger.warning("the new certificate cannot be used", extra={"reason": str(error)})
