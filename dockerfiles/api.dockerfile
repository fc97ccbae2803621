# The server: ONNX Runtime, no PyTorch, no compiler.
#   baked   the tested model of bundle/, which `invoke build --model REF` puts beside the sources
#   server  no model: it takes the one that is in production in its registry, once there is one
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
        --group serve --group signing --group postgres \
    && /opt/uv/bin/uv export --locked --quiet --no-default-groups \
        --group serve --group signing --group postgres \
        --format cyclonedx1.5 --preview-features sbom-export --output-file sbom.cdx.json \
    && sed -i '/"serialNumber":/d; /"timestamp":/d' sbom.cdx.json
# What no server uses: tests, tools for graphs, other databases, what compilers read, and ONNX Runtime
# once more, for programs in C.
RUN find /opt/venv/lib -type d \( -name tests -o -path '*/onnxruntime/quantization' \
        -o -path '*/onnxruntime/tools' -o -path '*/onnxruntime/transformers' \
        -o -path '*/pydicom/data/test_files' -o -path '*/sqlalchemy/testing' \
        -o -path '*/sqlalchemy/dialects/m*sql' -o -path '*/sqlalchemy/dialects/oracle' \) \
        -prune -exec rm -r {} + \
    && find /opt/venv/lib -type f \( -name 'libonnxruntime.so.*' -o -name '*.a' -o -name '*.h' \
        -o -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' \) -delete
COPY main.py ./
COPY src src
# What is compiled never depends on a file's time; a server colours no source code.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash -x /pygments/ /opt/venv/lib src \
    && chmod -R u=rwX,go=rX /app && mkdir /state

FROM ${BASE_IMAGE} AS server
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="Pulmo API" \
    org.opencontainers.image.description="Answers for pictures, by a model that has passed its tests" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.revision="${COMMIT}"
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app/src PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    HOME=/tmp USER=pulmo
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
COPY --from=build --chown=10001:10001 /state /state
WORKDIR /state
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os; from urllib.request import urlopen; urlopen('http://127.0.0.1:' + os.environ.get('PORT', '8000') + '/readyz', timeout=4)"]
ENTRYPOINT ["python", "/app/main.py"]
CMD ["serve", "--host", "0.0.0.0", "--wait"]

FROM build AS model
ARG MODEL_DIGEST
COPY bundle /bundle
RUN chmod -R u=rwX,go=rX /bundle \
    && PYTHONPATH=/app/src /opt/venv/bin/python -c "import pathlib, sys; \
from pulmo.core.bundle import verify; \
found = verify(pathlib.Path('/bundle')).info.model_digest; \
sys.exit(None if found == '${MODEL_DIGEST}' else f'/bundle holds {found}')"

FROM server AS baked
ARG MODEL_DIGEST
ARG MODEL_NAME
LABEL dev.pulmo.model.digest="${MODEL_DIGEST}" dev.pulmo.model.name="${MODEL_NAME}"
ENV PULMO_LOG_URL=stdout
COPY --from=model /bundle /bundle
CMD ["serve", "--host", "0.0.0.0", "--model", "/bundle"]
