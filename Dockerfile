# syntax=docker/dockerfile:1
# Two stages: the first builds the environment from the lock files, the second holds it and nothing to build with.
FROM python:3.11-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/aiopsd
COPY deploy/requirements/run.txt deploy/requirements/build.txt /src/deploy/requirements/
RUN /opt/aiopsd/bin/pip install --require-hashes --only-binary :all: -r /src/deploy/requirements/run.txt
RUN python -m venv /opt/build && /opt/build/bin/pip install --require-hashes -r /src/deploy/requirements/build.txt
COPY pyproject.toml README.md LICENSE /src/
COPY aiopsd /src/aiopsd
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel /src \
    && /opt/aiopsd/bin/pip install --no-deps /wheel/*.whl \
    && /opt/aiopsd/bin/python -m compileall -q /opt/aiopsd/lib

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10095 --home-dir /var/lib/aiopsd --create-home aiopsd
COPY --from=build /opt/aiopsd /opt/aiopsd
COPY rules /usr/share/aiopsd/rules
ENV PATH=/opt/aiopsd/bin:$PATH PYTHONUNBUFFERED=1
USER 10095:10095
WORKDIR /var/lib/aiopsd
VOLUME /var/lib/aiopsd
EXPOSE 9095
# alive is the event loop answering; ready (/-/ready) may take as long as a broker is away
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=4 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9095/-/healthy', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["aiopsd"]
CMD ["run", "-c", "/etc/aiopsd/aiopsd.yaml"]
