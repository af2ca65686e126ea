"""Addresses to listen on, as people write them: HOST:PORT."""


def split(text: str, *, without_host: str = "127.0.0.1") -> tuple[str, int]:
    """Host and port; raise ValueError. Without a host only this machine can connect by default.

    An IPv6 address stands in brackets: [::1]:9465.
    """
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"expected HOST:PORT, not {text!r}")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"an IPv6 address is written in brackets: [{host}]:{port}")
    return host.strip("[]") or without_host, int(port)


def join(host: str, port: int) -> str:
    """As `split` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
