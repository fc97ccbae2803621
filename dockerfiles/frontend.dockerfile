# The page for people: Streamlit, a client of the API (PULMO_API_URL) and nothing else.
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
    /opt/uv/bin/uv sync --locked --quiet --only-group frontend \
    && /opt/uv/bin/uv export --locked --quiet --only-group frontend \
        --format cyclonedx1.5 --preview-features sbom-export --output-file sbom.cdx.json \
    && sed -i '/"serialNumber":/d; /"timestamp":/d' sbom.cdx.json
COPY frontend frontend
# What is compiled never depends on a file's time.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib frontend \
    && chmod -R u=rwX,go=rX /app

FROM ${BASE_IMAGE}
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="Pulmo frontend" \
    org.opencontainers.image.description="Pictures dropped on a page, answered by Pulmo's API" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.revision="${COMMIT}"
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp USER=pulmo \
    STREAMLIT_SERVER_ADDRESS=0.0.0.0 STREAMLIT_SERVER_PORT=8501
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
WORKDIR /app/frontend
USER 10001:10001
EXPOSE 8501
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os; from urllib.request import urlopen; urlopen('http://127.0.0.1:' + os.environ['STREAMLIT_SERVER_PORT'] + '/_stcore/health', timeout=4)"]
CMD ["streamlit", "run", "app.py"]
