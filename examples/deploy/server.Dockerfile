# The state manager. From the root of this repository:
#   docker build -f examples/deploy/server.Dockerfile -t exotrio-server .
FROM python:3.13.7-slim-bookworm AS build
RUN python -m venv /build && python -m venv /venv
WORKDIR /src
# Nothing is installed but what these files name, with its hash: also what builds the wheel, which stays here.
COPY examples/deploy/build.lock examples/deploy/server.lock ./
RUN /build/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r build.lock
RUN /venv/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r server.lock
COPY pyproject.toml README.md ./
COPY examples/README.md examples/CHANGES.md examples/
COPY examples/deploy/README.md examples/deploy/README.md
COPY tests/README.md tests/README.md
COPY exotrio exotrio
RUN /build/bin/pip wheel --no-cache-dir --no-index --no-build-isolation --no-deps --wheel-dir /wheels .
RUN /venv/bin/pip install --no-cache-dir --no-index --no-deps /wheels/*.whl

FROM python:3.13.7-slim-bookworm
COPY --from=build /venv /venv
# The one place that is written to. A volume that is mounted here begins with this owner.
RUN install -d -o 10001 -g 10001 -m 0700 /data
WORKDIR /data
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
VOLUME /data
EXPOSE 8000
# As a list: a shell in between would keep SIGTERM for itself.
ENTRYPOINT ["python", "-m", "exotrio", "server"]
CMD ["--host", "0.0.0.0", "--port", "8000", "--db", "/data/state.db", "--log-format", "json"]
