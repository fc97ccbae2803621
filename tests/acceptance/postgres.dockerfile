# Postgres from Debian's packages, as far as deploy/compose.yaml uses the official image.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ENV PATH=/usr/lib/postgresql/15/bin:$PATH PGDATA=/var/lib/postgresql/data/inner LC_ALL=C.UTF-8
RUN apt-get update -q && apt-get install -y -q --no-install-recommends postgresql-15 \
    && rm -rf /var/lib/apt/lists/*
COPY postgres.sh /
ENTRYPOINT ["sh", "/postgres.sh"]
