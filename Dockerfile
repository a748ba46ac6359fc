# check=skip=RedundantTargetPlatform
# The worker's image. Built for any platform on any other: what differs between platforms (compiled wheels) is chosen by
# pip in a stage of the building machine's own platform, and the last stage only copies.
#
#   docker buildx build --platform linux/arm64 -t s3nsync .
#
# BASE is any image with Python >= 3.11 as python3, its pip, and certificate authorities. For builds that can be repeated
# name it with its digest: --build-arg BASE=python:3.13-slim@sha256:...

ARG BASE=python:3.13-slim

FROM --platform=$BUILDPLATFORM ${BASE} AS build
ARG TARGETARCH
WORKDIR /build

# The oldest glibc (2.28) and the wheel tags of each platform that is supported; anything else stops here.
COPY requirements/runtime.txt .
RUN case "$TARGETARCH" in \
      amd64) machine=x86_64 ;; \
      arm64) machine=aarch64 ;; \
      *) echo "no wheels for TARGETARCH='$TARGETARCH': build for linux/amd64 or linux/arm64" >&2; exit 1 ;; \
    esac && \
    python3 -m pip install --no-cache-dir --no-compile --disable-pip-version-check --root-user-action=ignore \
      --target app --only-binary=:all: --require-hashes -r runtime.txt \
      --platform "manylinux_2_28_$machine" --platform "manylinux2014_$machine" && \
    rm -rf app/bin

# Of our own package the sources only, whatever lies between them in a working copy, and whatever modes they have there.
# Bytecode is made here, because the root file system may be read-only later. It names no time, so the same sources give
# the same files, and it is never held against the sources, which cannot change in an image.
COPY LICENSE app/
COPY src/s3nsync app/s3nsync
RUN find app/s3nsync -type f ! -name '*.py' ! -name py.typed -delete && \
    python3 -m compileall -q --invalidation-mode unchecked-hash -s app -p /app app && \
    chmod -R u=rwX,go=rX app

# --- the result: no RUN from here on -------------------------------------------------------------------------------
# The target's platform is BuildKit's default, but buildah 1.28 would go on with the platform of the stage before.
# hadolint ignore=DL3065
FROM --platform=$TARGETPLATFORM ${BASE}

LABEL org.opencontainers.image.title="s3nsync" \
      org.opencontainers.image.description="Keeps an Akamai NetStorage directory equal to an Amazon S3 bucket." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"

COPY --from=build /build/app /app

# Safe path: nothing is imported from the working directory.
ENV PYTHONPATH=/app \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 CMD ["python3", "-m", "s3nsync.health"]
ENTRYPOINT ["python3", "-m", "s3nsync"]
CMD ["run"]
