# Your nodes with the runtime. From the root of this repository:
#   docker build -f examples/deploy/runtime.Dockerfile -t greeter .
FROM python:3.13.7-slim-bookworm AS build
RUN python -m venv /build && python -m venv /venv
WORKDIR /src
# Nothing is installed but what these files name, with its hash: also what builds the wheel, which stays here.
COPY examples/deploy/build.lock examples/deploy/runtime.lock ./
RUN /build/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r build.lock
RUN /venv/bin/pip install --no-cache-dir --require-hashes --only-binary=:all: -r runtime.lock
COPY pyproject.toml README.md ./
COPY examples/README.md examples/CHANGES.md examples/
COPY examples/deploy/README.md examples/deploy/README.md
COPY tests/README.md tests/README.md
COPY exotrio exotrio
RUN /build/bin/pip wheel --no-cache-dir --no-index --no-build-isolation --no-deps --wheel-dir /wheels .
RUN /venv/bin/pip install --no-cache-dir --no-index --no-deps /wheels/*.whl

FROM python:3.13.7-slim-bookworm
COPY --from=build /venv /venv
WORKDIR /app
COPY examples/deploy/app.py app.py
# Nothing is written below /: the root file system may be read-only.
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# As a number: Kubernetes cannot tell whether a name is root.
USER 10001:10001
EXPOSE 8080
# As a list: a shell in between would keep SIGTERM for itself, and nothing would be drained.
ENTRYPOINT ["python", "-m", "exotrio", "worker", "app.py"]
CMD ["--health-host", "0.0.0.0", "--health-port", "8080", "--log-format", "json"]
