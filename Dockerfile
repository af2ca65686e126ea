# syntax=docker/dockerfile:1
# The container image, for those who have Docker or BuildKit and a registry. `make image` makes the same
# root without either; both leave the work to lab/image/rootfs.py, and take Python packages by their hashes.
#
# Tags with a date never change. Any Debian 13 or newer does: nothing of it gets into the image.
ARG BASE=debian:trixie-20250811-slim
FROM ${BASE} AS root
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates debian-archive-keyring python3 python3-pip python3-setuptools python3-wheel
WORKDIR /src
COPY pyproject.toml requirements.lock README.md ./
COPY lab ./lab
COPY agent ./agent
# What links in it lead to: `uimgacc enable` applies them.
COPY manifests ./manifests
COPY dashboards ./dashboards
RUN python3 -m lab.image.rootfs /root

FROM scratch
COPY --from=root /root/system/ /
COPY --from=root /root/ours/ /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1
# The node's DaemonSet asks for root where it mounts; nothing else needs it.
USER 65532:65532
WORKDIR /
ENTRYPOINT ["/usr/local/bin/uimgacc"]
LABEL org.opencontainers.image.title=uimgacc
