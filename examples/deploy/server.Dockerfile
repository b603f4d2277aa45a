# The state manager. From the root of this repository:
#   docker build -f examples/deploy/server.Dockerfile -t exotrio-server .
FROM python:3.13.7-slim-bookworm AS build
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml README.md ./
COPY examples/README.md examples/README.md
COPY examples/deploy/README.md examples/deploy/README.md
COPY tests/README.md tests/README.md
COPY exotrio exotrio
RUN pip install --no-cache-dir '.[postgres]'

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
