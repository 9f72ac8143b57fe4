# The service as a container image: docker build --tag llm-analytics-ingest .
# It holds no database: DB_URL says where that is. `docker compose up` brings both.

# A Python 3.11 or newer with venv. README.md says how to make one where no registry answers.
ARG BASE_IMAGE=python:3.13-slim-bookworm

FROM ${BASE_IMAGE} AS build
# An index of your own, for this stage only: docker build --build-arg PIP_INDEX_URL=…
ARG PIP_INDEX_URL
WORKDIR /src
# What comes from elsewhere is pinned by version and hash; SECURITY.md says how the files are renewed. One package is published
# as source only, and is built, as ours is, by what is pinned too.
COPY deploy/*.lock deploy/
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: --requirement deploy/build.lock \
    && /opt/build/bin/pip wheel --no-cache-dir --require-hashes --only-binary :all: --no-binary openapi-ui-bundles \
        --no-build-isolation --requirement deploy/requirements.lock --wheel-dir /dist
COPY . .
# pip has done its work then and leaves: nothing is installed in an image that runs.
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist . \
    && python3 -m venv /opt/ingest \
    && /opt/ingest/bin/pip install --no-cache-dir --no-deps --no-index /dist/*.whl \
    && /opt/ingest/bin/pip check \
    && /opt/ingest/bin/pip uninstall --yes pip
# Parts of packages that nothing here uses, 12 MB: highlighters for 500 languages, which come with rich, other pages for the API than
# the one that /docs shows, and tests. What uses them all the same fails here, or in CI, which asks a container for /docs.
RUN cd /opt/ingest/lib/python3*/site-packages \
    && find pygments/lexers -name '[a-z]*.py*' -delete \
    && rm -r openapi_ui_bundles/rapidoc/vendor openapi_ui_bundles/redoc/vendor yoyo/tests \
    && /opt/ingest/bin/python -c 'import ingest.app, ingest.web.docs, rich.table, yoyo' \
    && /opt/ingest/bin/ingest --help

FROM ${BASE_IMAGE}
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin ingest
COPY --from=build /opt/ingest /opt/ingest
# Unbuffered, so that what the program says is in the log when it says it.
ENV PATH=/opt/ingest/bin:$PATH PYTHONUNBUFFERED=1
# By number, because Kubernetes' runAsNonRoot can't look a name up.
USER 10001:10001
EXPOSE 8000
# Liveness, not readiness: a service that waits for its database is not ill. The empty ProxyHandler keeps a proxy that the
# environment names out of a connection to ourselves.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 CMD ["python3", "-c", "\
from urllib.request import ProxyHandler, build_opener; \
build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/livez', timeout=3)"]
ENTRYPOINT ["ingest"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
