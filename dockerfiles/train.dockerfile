# Training, evaluation and staged tests, on CPUs or NVIDIA's GPUs: every verb, no server.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${BASE_IMAGE} AS build
ENV UV_LINK_MODE=copy UV_PROJECT_ENVIRONMENT=/opt/venv UV_PYTHON=python3 UV_PYTHON_DOWNLOADS=never \
    PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
WORKDIR /app
COPY dockerfiles/uv.txt /tmp/
RUN python3 -m venv /opt/uv \
    && /opt/uv/bin/pip install --quiet --no-cache-dir --require-hashes -r /tmp/uv.txt
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    /opt/uv/bin/uv sync --locked --quiet --no-install-project --no-default-groups \
        --group train --group signing --group postgres --group gcs --group wandb \
    && /opt/uv/bin/uv export --locked --quiet --no-default-groups \
        --group train --group signing --group postgres --group gcs --group wandb \
        --format cyclonedx1.5 --preview-features sbom-export --output-file sbom.cdx.json \
    && sed -i '/"serialNumber":/d; /"timestamp":/d' sbom.cdx.json
COPY main.py COMMIT* ./
COPY configs configs
COPY staged_model_tests staged_model_tests
COPY src src
# What is compiled never depends on a file's time. PyTorch's own tests are written for newer Pythons too.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash -x /torch/testing/_internal/ \
        /opt/venv/lib src staged_model_tests \
    && chmod -R u=rwX,go=rX /app && mkdir -p /state/data /state/models /state/runs

FROM ${BASE_IMAGE}
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="Pulmo training" \
    org.opencontainers.image.description="From labelled pictures to a tested model" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.revision="${COMMIT}"
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app/src PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/tmp USER=pulmo
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
COPY --from=build --chown=10001:10001 /state /state
WORKDIR /state
USER 10001:10001
# It runs one verb and ends: its exit code tells how that went.
HEALTHCHECK NONE
ENTRYPOINT ["python", "/app/main.py"]
CMD ["--help"]
