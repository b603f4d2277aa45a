"""``examples/deploy``: what stands in those files fits Kubernetes, and fits exotrio."""

from __future__ import annotations

import http.client
import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
import tomllib
import urllib.error
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import psycopg
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import exotrio
from exotrio import monitoring
from exotrio._shared import deadlines
from exotrio._shared.settings import (
    DATABASE_VARIABLE,
    KEY_FILE_VARIABLE,
    KEY_VARIABLE,
    SECRETS_KEY_VARIABLE,
    URI_VARIABLE,
)
from exotrio._util.database_url import parse_database_url
from exotrio._wire.vocabulary import KEY_HEADER, MAX_WAIT_MS
from exotrio.cli import health_server
from exotrio.cli.load import load
from exotrio.graph import pinned_name
from exotrio.manager.api.metrics import GAUGES
from exotrio.manager.store.postgres.server import MIN_VERSION
from exotrio.manager.store.postgres.start import STARTUP_TIMEOUT
from tests.support import postgres
from tests.support.helpers import free_port
from tests.support.pages import PAGES
from tests.support.processes import EXAMPLES, KEY, Processes, ended

DEPLOY = EXAMPLES / "deploy"
PACKAGE = Path(exotrio.__file__).parent
INIT = DEPLOY / "postgres-init.sh"
IMAGES = ("runtime", "server")
COMMAND = {"runtime": "worker", "server": "server"}
KUBERNETES = "1.31"
"""The oldest release that is still maintained somewhere; fields of newer ones would be refused."""


def manifests(*names: str) -> list[dict[str, Any]]:
    return [
        body
        for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
        if not names or path.stem in names
        for body in yaml.safe_load_all(path.read_text("utf-8"))
    ]


def find(kind: str, name: str, *files: str) -> dict[str, Any]:
    (matching,) = [
        body for body in manifests(*files) if (body["kind"], body["metadata"]["name"]) == (kind, name)
    ]
    return matching


WORKLOADS = {
    "runtime": find("Deployment", "greeter"),
    "server": find("StatefulSet", "exotrio-server"),
    "server-postgres": find("Deployment", "exotrio-server"),
}
IMAGE = {"runtime": "runtime", "server": "server", "server-postgres": "server"}
"""Which of the images a workload runs, and below, in which file the rest is that belongs to it."""
SERVERS = ("server", "server-postgres")


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = WORKLOADS[name]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    (matching,) = pod(name)["containers"]
    assert isinstance(matching, dict)
    return matching


def instructions(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile and their text, in order."""
    text = re.sub(r"\\\n", " ", (DEPLOY / f"{name}.Dockerfile").read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def last(name: str, word: str) -> str:
    return [text for instruction, text in instructions(name) if instruction == word][-1]


def options(name: str, arguments: list[str]) -> dict[str, Any]:
    """Return the values that the command takes from what an image begins with.

    Fails if it has no such option.
    """
    name = IMAGE[name]
    entry = json.loads(last(name, "ENTRYPOINT"))
    assert entry[:4] == ["python", "-m", "exotrio", COMMAND[name]]
    command: click.Command = importlib.import_module(f"exotrio.cli.commands.{COMMAND[name]}").command
    with command.make_context(COMMAND[name], [*entry[4:], *arguments]) as context:
        return context.params


def drain_total() -> float:
    """Return the most seconds that a runtime of the example takes to stop."""
    runtime = load(str(DEPLOY / "app.py")).runtime()
    return deadlines.max_stop(runtime.shutdown_grace)


def stop_total(server: dict[str, Any]) -> float:
    """Return the most seconds that a state manager takes to stop: for requests, and for the last writes."""
    return 2 * float(server["grace"])


def seconds(text: str) -> float:
    matching = re.fullmatch(r"(\d+)s", text)
    assert matching is not None
    return float(matching[1])


# -- the app


def test_the_app_runs_and_all_that_is_logged_is_json(tmp_path: Path) -> None:
    options = ("-i", "name=Ada", "--db", ":memory:", "--log-format", "json")
    end = ended("run", DEPLOY / "app.py", *options, cwd=tmp_path)
    assert (end.code, end.out.splitlines()[-1].strip()) == (0, "text: Hello, Ada!"), end
    lines = {line["message"]: line for line in map(json.loads, end.err.splitlines())}
    greeting = lines["greeting Ada"]
    assert (greeting["logger"], greeting["node"], greeting["attempt"]) == ("greeter", "Greet", 1)
    assert f"run {greeting['run']} of graph 'greeting'" in lines, "what is shown elsewhere is logged"


# -- the images


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_built_in_stages_runs_as_a_numbered_user_and_gets_its_signals(name: str) -> None:
    stages = [text for word, text in instructions(name) if word == "FROM"]
    assert len(stages) == 2
    bases = {stage.partition(" ")[0] for stage in stages}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", bases.pop()), "pinned to a version"
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last(name, "USER"))
    assert isinstance(json.loads(last(name, "ENTRYPOINT")), list), "a shell keeps SIGTERM for itself"
    assert isinstance(json.loads(last(name, "CMD")), list)
    kept = (DEPLOY / f"{name}.Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert "*" in kept
    sources = [text.split()[:-1] for word, text in instructions(name) if word == "COPY"]
    copied = [each for one in sources for each in one if not each.startswith(("--from", "/venv"))]
    assert set(PAGES) < set(copied), "the package has links to them, for the dashboard"
    for source in copied:
        assert (EXAMPLES.parent / source).exists(), f"{source} is copied, and does not exist"
        assert f"!{source}" in kept, f"{source} is copied, and left out of what docker gets"


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_installs_nothing_but_locked_files(name: str) -> None:
    installs = [text for word, text in instructions(name) if word == "RUN" and "pip " in text]
    assert len(installs) == 4
    for line in installs:
        locked = re.search(r"--require-hashes --only-binary=:all: -r (\w+)\.lock$", line)
        assert locked or "--no-index" in line, line
        assert locked is None or locked[1] in ("build", name)


@pytest.mark.parametrize("name", ["build", *IMAGES])
def test_a_lock_fits_what_pyproject_asks_for(name: str) -> None:
    project = tomllib.loads((EXAMPLES.parent / "pyproject.toml").read_text("utf-8"))
    extra = {"server": project["project"]["optional-dependencies"]["postgres"]}.get(name, [])
    required = project["build-system"]["requires"] if name == "build" else project["project"]["dependencies"]
    text = (DEPLOY / f"{name}.lock").read_text("utf-8")
    assert "://" not in text, "it names no server"
    locked: dict[str, str] = {}
    for entry in re.sub(r"\\\n", " ", text).splitlines():
        if entry.startswith("#"):
            continue
        requirement, *hashes = entry.split()
        package, _, version = requirement.partition("==")
        locked[canonicalize_name(package)] = version
        assert hashes, package
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), package
    for needed in map(Requirement, [*required, *extra]):
        version = locked.get(canonicalize_name(needed.name), "")
        assert version, f"{needed.name} is missing: run {DEPLOY / 'lock.sh'}"
        assert needed.specifier.contains(version), f"{needed}: run {DEPLOY / 'lock.sh'}"
    assert ("psycopg-binary" in locked) is (name == "server")


def test_an_image_begins_with_options_that_exist_and_serves_the_port_it_exposes() -> None:
    runtime = options("runtime", json.loads(last("runtime", "CMD")))
    assert str(runtime["health_port"]) == last("runtime", "EXPOSE")
    assert runtime["health_host"] == "0.0.0.0"
    assert runtime["target"] == "app.py"
    server = options("server", json.loads(last("server", "CMD")))
    assert str(server["port"]) == last("server", "EXPOSE")
    assert server["host"] == "0.0.0.0"
    assert server["db"].startswith(f"{last('server', 'VOLUME')}/")


# -- Kubernetes


@pytest.mark.parametrize(
    "body", [body for body in manifests() if "keda" not in body["apiVersion"]], ids=lambda b: b["kind"]
)
def test_a_manifest_is_valid_for_kubernetes(body: dict[str, Any]) -> None:
    kubernetes_validate.validate(body, KUBERNETES, strict=True)


def test_the_runtime_has_longer_to_stop_than_its_drain_may_take() -> None:
    assert drain_total() == 28.5
    assert pod("runtime")["terminationGracePeriodSeconds"] >= drain_total() + health_server.GRACE
    assert "lifecycle" not in container("runtime"), "a preStop hook would take its time from the drain"


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_has_longer_to_stop_than_it_may_take(name: str) -> None:
    parameters = options(name, container(name)["args"])
    hook = container(name).get("lifecycle", {}).get("preStop")
    waits = float(hook["exec"]["command"][1]) if hook else 0
    assert pod(name)["terminationGracePeriodSeconds"] > stop_total(parameters) + waits
    assert bool(waits) is (name == "server-postgres"), "while one goes, others are there for its requests"


def test_a_file_has_one_state_manager_and_a_postgresql_has_three() -> None:
    one, three = (WORKLOADS[name]["spec"] for name in SERVERS)
    assert (one["replicas"], three["replicas"]) == (1, 3)
    assert three["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    budget = find("PodDisruptionBudget", "exotrio-server")["spec"]
    assert budget["minAvailable"] == 2
    labels = three["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    (spread,) = pod("server-postgres")["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()


def test_a_server_on_postgresql_has_time_to_wait_for_it_and_is_not_restarted_when_it_is_away() -> None:
    probe = container("server-postgres")["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 4 * STARTUP_TIMEOUT
    assert container("server-postgres")["livenessProbe"]["httpGet"]["path"] == "/livez"


@pytest.mark.parametrize("name", WORKLOADS)
def test_probes_ask_a_path_that_exists_on_the_port_that_is_served(name: str) -> None:
    parameters = options(name, container(name)["args"])
    ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
    served = parameters["health_port"] if name == "runtime" else parameters["port"]
    expected = {"livenessProbe": "/livez", "readinessProbe": "/readyz", "startupProbe": "/livez"}
    for kind, path in expected.items():
        if kind == "startupProbe" and name != "server-postgres":
            assert kind not in container(name)
            continue
        probe = container(name)[kind]
        assert probe["httpGet"]["path"] == path
        assert ports[probe["httpGet"]["port"]] == served
        sent = {header["name"]: header["value"] for header in probe["httpGet"].get("httpHeaders", [])}
        assert name == "runtime" or sent["Host"] in parameters["allowed_hosts"]
    annotations = WORKLOADS[name]["spec"]["template"]["metadata"]["annotations"]
    scraped = served if name == "runtime" else parameters["metrics_port"]
    assert annotations["prometheus.io/port"] == str(scraped)
    assert scraped in ports.values()
    assert name == "runtime" or not parameters["open_metrics"], "metrics have a separate port"


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_has_a_limit_of_memory(name: str) -> None:
    assert container(name)["resources"]["limits"]["memory"]


def test_a_short_lag_does_not_restart_a_runtime_and_a_hang_does_within_a_minute() -> None:
    probe = container("runtime")["livenessProbe"]
    max_hang = monitoring.MAX_LAG + probe["periodSeconds"] * (probe["failureThreshold"] - 1)
    assert 20 < max_hang < 60


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_is_locked_down_as_its_image_allows(name: str) -> None:
    user, group = last(IMAGE[name], "USER").split(":")
    context = pod(name)["securityContext"]
    assert context["runAsNonRoot"] is True
    assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(name)["automountServiceAccountToken"] is False


def test_the_server_writes_to_its_volume_and_reads_its_key_from_a_secret() -> None:
    parameters = options("server", container("server")["args"])
    mounts = {mount["mountPath"]: mount["name"] for mount in container("server")["volumeMounts"]}
    (claim,) = WORKLOADS["server"]["spec"]["volumeClaimTemplates"]
    assert mounts[str(Path(parameters["db"]).parent)] == claim["metadata"]["name"]
    assert pod("server")["securityContext"]["fsGroup"] == pod("server")["securityContext"]["runAsGroup"]
    (volume,) = pod("server")["volumes"]
    assert mounts[str(parameters["key_file"].parent)] == volume["name"]
    assert parameters["key_file"].name in [item["path"] for item in volume["secret"]["items"]]


def test_a_server_on_postgresql_writes_nothing_and_has_its_url_and_its_keys_from_a_secret() -> None:
    parameters = options("server-postgres", container("server-postgres")["args"])
    assert parameters["db"] is None, "a URL with a password has no place in arguments"
    variables = {
        each["name"]: each["valueFrom"]["secretKeyRef"] for each in container("server-postgres")["env"]
    }
    assert set(variables) == {DATABASE_VARIABLE, SECRETS_KEY_VARIABLE}
    (volume,) = pod("server-postgres")["volumes"]
    assert {mount["name"] for mount in container("server-postgres")["volumeMounts"]} == {volume["name"]}
    assert parameters["key_file"].name in [item["path"] for item in volume["secret"]["items"]]
    assert {key["name"] for key in variables.values()} == {volume["secret"]["secretName"]}


def test_secrets_are_named_and_never_written_down() -> None:
    assert not [body for body in manifests() if body["kind"] == "Secret"]
    used = set()
    for body in manifests():
        for one in body.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
            for variable in one.get("env", []):
                is_file = variable["name"].endswith("_FILE")
                secret = not is_file and re.search("KEY|SECRET|PASSWORD|DATABASE_URL", variable["name"])
                assert ("valueFrom" in variable) == bool(secret), variable["name"]
                used |= {variable["valueFrom"]["secretKeyRef"]["key"]} if secret else set()
    page = (DEPLOY / "README.md").read_text("utf-8")
    used |= {item["key"] for item in _key_volume("server")["items"]}
    assert used == set(re.findall(r"--from-literal=([\w-]+)=", page)), "the page makes each of them"
    named = {variable["name"]: variable for variable in container("runtime")["env"]}
    assert set(named) == {URI_VARIABLE, KEY_FILE_VARIABLE}
    root, own = _key_volume("server"), _key_volume("runtime")
    assert root["secretName"] != own["secretName"], "each part has a separate key"
    made = re.search(r"create secret generic (\w+) --from-file=([\w-]+)=(\S+)", page)
    assert made is not None
    assert (made[1], made[2]) == (own["secretName"], own["items"][0]["key"])
    assert f">{made[3]}\n" in page
    (mount,) = container("runtime")["volumeMounts"]
    assert named[KEY_FILE_VARIABLE]["value"] == f"{mount['mountPath']}/{own['items'][0]['path']}"


def _key_volume(name: str) -> dict[str, Any]:
    (volume,) = pod(name)["volumes"]
    secret: dict[str, Any] = volume["secret"]
    return secret


@pytest.mark.parametrize("server", SERVERS)
def test_selectors_match_the_labels_of_their_pods(server: str) -> None:
    labels = {name: WORKLOADS[name]["spec"]["template"]["metadata"]["labels"] for name in WORKLOADS}
    for name, workload in WORKLOADS.items():
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels[name].items()
    service = find("Service", "exotrio-server", server)
    assert service["spec"]["selector"].items() <= labels[server].items()
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] in [each["name"] for each in container(server)["ports"]]
    named = {variable["name"]: variable for variable in container("runtime")["env"]}
    assert named[URI_VARIABLE]["value"] == f"http://{service['metadata']['name']}:{port['port']}"
    budget = find("PodDisruptionBudget", "greeter")["spec"]
    assert budget["selector"]["matchLabels"].items() <= labels["runtime"].items()
    assert 0 < budget["minAvailable"] < WORKLOADS["runtime"]["spec"]["replicas"] == 3
    policy = find("NetworkPolicy", "exotrio-server", server)["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels[server].items()
    runtimes = policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert runtimes.items() <= labels["runtime"].items(), "the runtimes reach the server"
    assert policy["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port["port"]}]
    parameters = options(server, container(server)["args"])
    assert service["metadata"]["name"] in parameters["allowed_hosts"]
    assert policy["ingress"][1]["ports"] == [{"protocol": "TCP", "port": parameters["metrics_port"]}]
    assert len(policy["ingress"][1]["from"]) == 1, "who scrapes does not reach the API"


def test_the_postgresql_is_reached_by_the_servers_alone_and_keeps_what_it_writes() -> None:
    stateful = find("StatefulSet", "exotrio-postgres")["spec"]
    labels = stateful["template"]["metadata"]["labels"]
    assert stateful["selector"]["matchLabels"].items() <= labels.items()
    service = find("Service", "exotrio-postgres")
    assert service["spec"]["selector"].items() <= labels.items()
    policy = find("NetworkPolicy", "exotrio-postgres")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    (rule,) = policy["ingress"]
    allowed = rule["from"][0]["podSelector"]["matchLabels"]
    assert allowed.items() <= WORKLOADS["server-postgres"]["spec"]["template"]["metadata"]["labels"].items()
    assert rule["ports"] == [{"protocol": "TCP", "port": service["spec"]["ports"][0]["port"]}]
    (one,) = stateful["template"]["spec"]["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in one["volumeMounts"]}
    (claim,) = stateful["volumeClaimTemplates"]
    assert mounts["/var/lib/postgresql"] == claim["metadata"]["name"]
    assert one["securityContext"]["readOnlyRootFilesystem"] is True
    assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert one["securityContext"]["allowPrivilegeEscalation"] is False
    assert stateful["template"]["spec"]["securityContext"]["runAsUser"] == 999
    assert one["resources"]["limits"]["memory"]
    page = (DEPLOY / "README.md").read_text("utf-8")
    assert {each["name"] for each in one["env"]} == {"POSTGRES_PASSWORD"}, "the superuser has its usual name"
    script = find("ConfigMap", "exotrio-postgres")
    assert script["data"] == {"init.sh": INIT.read_text("utf-8")}
    (volume,) = [each for each in stateful["template"]["spec"]["volumes"] if "configMap" in each]
    assert mounts["/docker-entrypoint-initdb.d"] == volume["name"]
    assert volume["configMap"]["name"] == script["metadata"]["name"]
    url = f"postgresql://exotrio:$PASSWORD@{service['metadata']['name']}/exotrio?sslmode=require"
    assert f"--from-literal=database-url={url}" in page


def test_state_managers_reach_postgresql_with_tls_by_a_role_that_is_no_superuser() -> None:
    script = INIT.read_text("utf-8")
    (rules,) = re.findall(r"pg_hba.conf\" <<'HBA'\n(.*?)HBA\n", script, re.DOTALL)
    assert rules.splitlines() == ["local all all trust", "hostssl exotrio exotrio all scram-sha-256"]
    assert 'echo "ssl = on"' in script
    (sql,) = re.findall(r"<<'SQL'\n(.*?)SQL\n", script, re.DOTALL)
    server = postgres.server()
    # Under other names than those of the tests; the password has characters that have to be quoted.
    sql = sql.replace("ROLE exotrio", "ROLE deployed").replace(
        "DATABASE exotrio OWNER exotrio", "DATABASE deployed OWNER deployed"
    )
    assert "exotrio" not in sql
    psql = [str(server.binaries / "psql"), "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--username=postgres"]
    try:
        subprocess.run(
            [*psql, f"--host={server.folder}", f"--port={server.port}", "--dbname=postgres"],
            input=sql,
            env={**os.environ, "POSTGRES_PASSWORD": 'it\'s "a" pass:word'},
            text=True,
            check=True,
        )
        where = f"host=127.0.0.1 port={server.port} dbname=deployed user=deployed"
        with psycopg.connect(where, password='it\'s "a" pass:word') as connection:
            row = connection.execute(
                "SELECT rolsuper, rolcreaterole, rolcreatedb, pg_get_userbyid(datdba)"
                " FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()"
            ).fetchone()
        assert row == (False, False, False, "deployed")
    finally:
        server.execute("DROP DATABASE IF EXISTS deployed")
        server.execute("DROP ROLE IF EXISTS deployed")


def test_the_autoscaler_follows_a_metric_that_exists_of_a_namespace_that_does() -> None:
    scaler = find("ScaledObject", "greeter")
    assert scaler["apiVersion"] == "keda.sh/v1alpha1"
    spec = scaler["spec"]
    assert spec["scaleTargetRef"]["name"] == WORKLOADS["runtime"]["metadata"]["name"]
    assert spec["minReplicaCount"] == WORKLOADS["runtime"]["spec"]["replicas"] < spec["maxReplicaCount"]
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "prometheus"
    assert set(trigger["metadata"]) == {"serverAddress", "query", "threshold"}
    assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes text only"
    matching = re.fullmatch(
        r'max\(sum by \(instance\) \((\w+)\{namespace="(\w+)"\}\)\)', trigger["metadata"]["query"]
    )
    assert matching is not None, "of three state managers each counts all of the database"
    assert matching[2] == load(str(DEPLOY / "app.py")).runtime().namespace
    assert f'"{matching[1]}"' in (PACKAGE / "manager/api/metrics.py").read_text("utf-8")


def test_two_versions_run_next_to_each_other_as_one_does() -> None:
    base = container("runtime")
    for version in ("1", "2"):
        body = find("Deployment", f"greeter-{version}", "versions")
        labels = body["spec"]["template"]["metadata"]["labels"]
        assert labels == {"app": "greeter", "exotrio": "runtime", "version": version}
        assert body["spec"]["selector"]["matchLabels"] == {"app": "greeter", "version": version}
        for kind, selector in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
            assert find(kind, "greeter")["spec"][selector]["matchLabels"].items() <= labels.items()
        spec = body["spec"]["template"]["spec"]
        (one,) = spec["containers"]
        assert one["image"] == f"registry.example/greeter:{version}"
        assert one["args"] == [f"--code-version={version}", *base["args"]]
        assert options("runtime", one["args"])["code_version"] == version
        same = {**spec, "containers": [{**one, "image": base["image"], "args": base["args"]}]}
        assert same == pod("runtime"), "all else is as in runtime.yaml"
        assert "replicas" not in body["spec"], "the autoscaler sets them"


def test_a_version_is_not_scaled_to_zero_while_runs_need_it_or_nothing_is_known() -> None:
    gauges = {name: set(labels) for name, _, labels in GAUGES}
    for version, others in (("1", []), ("2", ["Greet"])):
        spec = find("ScaledObject", f"greeter-{version}", "versions")["spec"]
        assert spec["scaleTargetRef"]["name"] == f"greeter-{version}"
        runs, load = (trigger["metadata"] for trigger in spec["triggers"])
        assert {trigger["type"] for trigger in spec["triggers"]} == {"prometheus"}
        assert all(isinstance(value, str) for value in (*runs.values(), *load.values())), (
            "KEDA takes text only"
        )
        needed = f'max(exotrio_manager_version_runs{{namespace="Greeter",version="{version}"}})'
        known = '0 * count(exotrio_manager_states{namespace="Greeter"})'
        assert runs["query"] == f"{needed} or {known}", "no result while the state manager gives no numbers"
        assert runs["ignoreNullValues"] == "false", "and no result is an error, not a zero"
        assert runs["activationThreshold"] == "0"
        assert gauges["exotrio_manager_version_runs"] == {"namespace", "version"}
        assert gauges["exotrio_manager_eligible_states"] == {"namespace", "node"}
        matching = re.search(r'eligible_states\{namespace="Greeter",node=~"(.+)"\}', load["query"])
        assert matching is not None
        nodes = ["Greet", *(pinned_name("Greet", each) for each in ("1", "2", "12"))]
        assert [node for node in nodes if re.fullmatch(matching[1], node)] == [
            *others,
            pinned_name("Greet", version),
        ]
    assert find("ScaledObject", "greeter-1")["spec"]["minReplicaCount"] == 0
    usual = find("ScaledObject", "greeter", "autoscaling")["spec"]["minReplicaCount"]
    assert find("ScaledObject", "greeter-2")["spec"]["minReplicaCount"] == usual


# -- compose


def test_the_compose_file_fits_the_images() -> None:
    composed = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    services = composed["services"]
    assert set(services) == set(IMAGES)
    for name, service in services.items():
        context = (DEPLOY / service["build"]["context"]).resolve()
        assert context == EXAMPLES.parent.resolve()
        assert (context / service["build"]["dockerfile"]).samefile(DEPLOY / f"{name}.Dockerfile")
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["healthcheck"]["test"][0] == "CMD"
        assert f"127.0.0.1:{last(name, 'EXPOSE')}/" in service["healthcheck"]["test"][-1]
        assert service["mem_limit"]
        assert service["pids_limit"]
    assert "command" not in services["runtime"]
    server = options("server", services["server"]["command"])
    image = options("server", json.loads(last("server", "CMD")))
    assert [name for name in server if server[name] != image[name]] == ["allowed_hosts"]
    assert {"server", "127.0.0.1"} < set(server["allowed_hosts"]), "runtimes and the healthcheck reach it"
    assert seconds(services["server"]["stop_grace_period"]) > stop_total(server)
    assert seconds(services["runtime"]["stop_grace_period"]) > drain_total()
    assert services["runtime"]["environment"][URI_VARIABLE] == f"http://server:{last('server', 'EXPOSE')}"
    assert services["server"]["environment"][KEY_VARIABLE].startswith(f"${{{KEY_VARIABLE}:?"), "from outside"
    assert services["runtime"]["environment"][KEY_VARIABLE] == "${RUNTIME_API_KEY:-}", "made by the page"
    assert "secrets" not in composed, "from variables, compose refuses them where the root is read-only"
    ((source, target),) = (volume.split(":") for volume in services["server"]["volumes"])
    assert target == last("server", "VOLUME")
    assert source == "state"
    assert all(port.startswith("127.0.0.1:") for port in services["server"]["ports"])


def test_the_compose_file_with_postgresql_fits_the_images_and_the_proxy() -> None:
    composed = yaml.safe_load((DEPLOY / "compose.postgres.yaml").read_text("utf-8"))
    simple = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    services = composed["services"]
    names = [name for name in services if name.startswith("server-")]
    assert names == ["server-1", "server-2", "server-3"]
    server = services["server-1"]
    assert all(services[name] == server for name in names)
    assert services["runtime"] == simple["runtime"]
    differs = {"command", "environment", "healthcheck", "volumes", "ports"}
    assert {each: value for each, value in server.items() if each not in differs} == {
        each: value for each, value in simple["server"].items() if each not in differs
    }
    assert server["healthcheck"]["test"] == simple["server"]["healthcheck"]["test"]
    assert seconds(server["healthcheck"]["start_period"]) >= 4 * STARTUP_TIMEOUT
    parameters = options("server", server["command"])
    assert parameters["db"] is None
    assert seconds(server["stop_grace_period"]) > stop_total(parameters)
    assert server["environment"][KEY_VARIABLE] == simple["server"]["environment"][KEY_VARIABLE]
    assert "secrets" not in composed
    url = parse_database_url(server["environment"][DATABASE_VARIABLE])
    assert (url.hosts, url.secrets) == (("postgres",), ())
    assert url.text == "postgresql://exotrio@postgres/exotrio?sslmode=require"
    assert url.unencrypted_sslmode is None
    database = services["postgres"]
    assert set(database["environment"]) == {"POSTGRES_PASSWORD"}, "the superuser has its usual name"
    assert database["user"] == "999:999"
    assert database["cap_drop"] == ["ALL"]
    assert database["security_opt"] == ["no-new-privileges:true"]
    assert database["read_only"] is True
    (init,) = database["configs"]
    assert init["target"] == "/docker-entrypoint-initdb.d/init.sh"
    assert DEPLOY / composed["configs"][init["source"]]["file"] == INIT
    variables = re.findall(r"\$\{(\w+):\?", json.dumps(composed))
    text = (DEPLOY / "compose.postgres.yaml").read_text("utf-8")
    assert all(f"{variable}=$(openssl" in text for variable in variables), "each is in the command at the top"
    assert (
        database["image"]
        == find("StatefulSet", "exotrio-postgres")["spec"]["template"]["spec"]["containers"][0]["image"]
    )
    proxy = services["proxy"]
    assert proxy["networks"]["default"]["aliases"] == ["server"], "runtimes call it as they call one server"
    assert all(port.startswith("127.0.0.1:") for port in proxy["ports"])
    (config,) = proxy["configs"]
    lines = (DEPLOY / composed["configs"][config["source"]]["file"]).read_text("utf-8")
    assert re.findall(r"server (server-\d) (\S+)\n", lines) == [
        (name, f"{name}:{last('server', 'EXPOSE')}") for name in names
    ]
    assert "uri /readyz" in lines
    (checked,) = re.findall(r"hdr Host (\S+)", lines)
    assert checked in parameters["allowed_hosts"]
    for wait in ("client", "server"):
        (limit,) = re.findall(rf"timeout {wait} (\d+)s", lines)
        assert float(limit) * 1000 > 2 * MAX_WAIT_MS, "a poll that waits is not cut"


@contextmanager
def proxied(folder: Path) -> Iterator[int]:
    """Give the port of HAProxy before a state manager, with our file, but few connections and one thread."""
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("haproxy is not installed; as root: apt-get install haproxy")
    port = free_port()
    text = (DEPLOY / "haproxy.cfg").read_text("utf-8")
    with Processes() as processes:
        place = processes.server(folder).uri.removeprefix("http://")
        text = re.sub(r"\n    server server-[23] .*", "", text)
        for old, new in {
            "\nglobal\n": "\nglobal\n    nbthread 1\n",
            "maxconn 4000": "maxconn 40",
            "gt 2000 ": "gt 20 ",
            "gt 200 ": "gt 8 ",
            "bind :8000": f"bind 127.0.0.1:{port}",
            "hdr Host server": "hdr Host localhost",
            "server-1:8000": place,
        }.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (folder / "haproxy.cfg").write_text(text)
        command = [program, "-db", "-f", str(folder / "haproxy.cfg")]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as proxy:
            try:
                yield port
            finally:
                proxy.kill()


def answer(
    port: int, address: str, *, key: str = "", path: str = "/v0/namespaces"
) -> tuple[int, bool] | None:
    """Return the status of an answer to a request from this address, and whether the connection stays open.

    None if there is no answer.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30, source_address=(address, 0))
    with closing(connection), suppress(ConnectionError):
        connection.request("GET", path, headers={KEY_HEADER: key} if key else {})
        response = connection.getresponse()
        return response.status, not response.will_close
    return None


def test_the_proxy_keeps_connections_for_clients_with_the_key(tmp_path: Path) -> None:
    with proxied(tmp_path) as port, ExitStack() as connections:

        def connect(address: str) -> None:
            opened = socket.create_connection(("127.0.0.1", port), source_address=(address, 0))
            connections.enter_context(opened)

        give_up_at = time.monotonic() + 30
        while answer(port, "127.0.0.2", key=KEY) != (200, True):
            assert time.monotonic() < give_up_at
            time.sleep(0.05)
        wrong = "a wrong key"
        assert answer(port, "127.0.0.9", key=wrong, path="/health") == (200, False)
        assert answer(port, "127.0.0.9", key=wrong) == (401, False)
        for _ in range(8):
            connect("127.0.0.3")
        assert answer(port, "127.0.0.3") is None, "more than the share of one address"
        for address in ("127.0.0.4", "127.0.0.5"):
            for _ in range(6):
                connect(address)
        assert answer(port, "127.0.0.9") is None, "more than the share of all of them"
        for _ in range(12):
            assert answer(port, "127.0.0.2", key=KEY) == (200, True)
            connect("127.0.0.2")


def test_the_healthchecks_of_the_compose_file_work(tmp_path: Path) -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    with Processes() as processes:
        server = processes.server(tmp_path)
        code = services["server"]["healthcheck"]["test"][-1]
        assert "/readyz" in code
        exec(code.replace("http://127.0.0.1:8000", server.uri), {})
    with pytest.raises(urllib.error.URLError):
        exec(code.replace("http://127.0.0.1:8000", server.uri), {})
    assert KEY not in code


def test_the_numbers_on_the_page_are_true() -> None:
    page = (DEPLOY / "README.md").read_text("utf-8")
    assert f"**{drain_total():g} s**" in page
    assert f"| {deadlines.CLEAN_UP:.0f} s |" in page
    assert f"| {deadlines.FLUSH:.0f} s |" in page
    period = pod("runtime")["terminationGracePeriodSeconds"]
    assert f"`terminationGracePeriodSeconds`, `stop_grace_period` | {period} s" in page
    hook = container("server-postgres")["lifecycle"]["preStop"]["exec"]["command"]
    assert f"{hook[1]} s before that (`preStop`)" in page
    probe = container("server-postgres")["startupProbe"]
    assert f"{probe['periodSeconds'] * probe['failureThreshold']} s to start" in page
    assert f"a PostgreSQL {MIN_VERSION} or newer" in page
    assert f"503 after {monitoring.MAX_LAG:.0f} s of lag" in page
    assert f"503 after {monitoring.POLL_MEMORY:.0f} s without a claim that succeeds" in page
    for name in re.findall(r"exotrio_\w+", page):
        places = [*PACKAGE.rglob("*metrics.py"), PACKAGE / "monitoring.py"]
        files = [path.read_text("utf-8") for path in places]
        metric = name.removesuffix("_bucket")  # of a histogram
        assert any(f'"{metric}"' in text for text in files), f"there is no metric {metric}"
    for file in re.findall(r"`([\w/]+\.(?:yaml|Dockerfile|py))`", page):
        assert (DEPLOY / file).exists()
