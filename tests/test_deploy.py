"""``examples/deploy``: what stands in those files fits Kubernetes, and fits exotrio."""

from __future__ import annotations

import importlib
import json
import re
import urllib.error
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

import exotrio
from exotrio import monitoring
from exotrio._util import deadlines
from exotrio._util.settings import KEY_VARIABLE, URI_VARIABLE
from exotrio.cli import health_server
from exotrio.cli.load import load
from exotrio.manager.store.sqlite.store import CLOSING_GRACE
from tests.support.processes import EXAMPLES, KEY, Processes, ended

DEPLOY = EXAMPLES / "deploy"
PACKAGE = Path(exotrio.__file__).parent
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


def find(kind: str, name: str) -> dict[str, Any]:
    (found,) = [body for body in manifests() if (body["kind"], body["metadata"]["name"]) == (kind, name)]
    return found


WORKLOADS = {"runtime": find("Deployment", "greeter"), "server": find("StatefulSet", "exotrio-server")}


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = WORKLOADS[name]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    (found,) = pod(name)["containers"]
    assert isinstance(found, dict)
    return found


def instructions(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile and their text, in order."""
    text = re.sub(r"\\\n", " ", (DEPLOY / f"{name}.Dockerfile").read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def last(name: str, word: str) -> str:
    return [text for found, text in instructions(name) if found == word][-1]


def options(name: str, arguments: list[str]) -> dict[str, Any]:
    """Return the values that the command takes from what an image begins with.

    Fails if it has no such option.
    """
    entry = json.loads(last(name, "ENTRYPOINT"))
    assert entry[:4] == ["python", "-m", "exotrio", COMMAND[name]]
    command: click.Command = importlib.import_module(f"exotrio.cli.commands.{COMMAND[name]}").command
    with command.make_context(COMMAND[name], [*entry[4:], *arguments]) as context:
        return context.params


def drain_total() -> float:
    """Return the most seconds that a runtime of the example takes to stop."""
    runtime = load(str(DEPLOY / "app.py")).runtime()
    return deadlines.longest_stop(runtime.shutdown_grace)


def stop_total(server: dict[str, Any]) -> float:
    return float(server["grace"]) + CLOSING_GRACE


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)s", text)
    assert found is not None
    return float(found[1])


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
    for source in [each for one in sources for each in one if not each.startswith(("--from", "/venv"))]:
        assert (EXAMPLES.parent / source).exists(), f"{source} is copied, and does not exist"
        assert f"!{source}" in kept, f"{source} is copied, and left out of what docker gets"


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
def test_a_manifest_is_what_kubernetes_takes(body: dict[str, Any]) -> None:
    kubernetes_validate.validate(body, KUBERNETES, strict=True)


def test_the_runtime_has_longer_to_stop_than_its_drain_may_take() -> None:
    assert drain_total() == 28.5
    assert pod("runtime")["terminationGracePeriodSeconds"] >= drain_total() + health_server.GRACE
    assert "lifecycle" not in container("runtime"), "a preStop hook would take its time from the drain"


def test_the_server_has_longer_to_stop_than_it_may_take() -> None:
    server = options("server", container("server")["args"])
    assert pod("server")["terminationGracePeriodSeconds"] > stop_total(server)
    assert WORKLOADS["server"]["spec"]["replicas"] == 1


@pytest.mark.parametrize("name", IMAGES)
def test_probes_ask_a_path_that_exists_on_the_port_that_is_served(name: str) -> None:
    given = options(name, container(name)["args"])
    ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
    served = given["health_port"] if name == "runtime" else given["port"]
    for kind, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        probe = container(name)[kind]
        assert probe["httpGet"]["path"] == path
        assert ports[probe["httpGet"]["port"]] == served
        sent = {header["name"]: header["value"] for header in probe["httpGet"].get("httpHeaders", [])}
        assert name == "runtime" or sent["Host"] in given["allowed_hosts"]
    annotations = WORKLOADS[name]["spec"]["template"]["metadata"]["annotations"]
    scraped = served if name == "runtime" else given["metrics_port"]
    assert annotations["prometheus.io/port"] == str(scraped)
    assert scraped in ports.values()
    assert name == "runtime" or not given["open_metrics"], "metrics have a port of their own"


@pytest.mark.parametrize("name", IMAGES)
def test_a_pod_has_a_limit_of_memory(name: str) -> None:
    assert container(name)["resources"]["limits"]["memory"]


def test_a_hiccup_does_not_restart_a_runtime_and_a_hang_does_within_a_minute() -> None:
    probe = container("runtime")["livenessProbe"]
    patience = monitoring.MAX_LAG + probe["periodSeconds"] * (probe["failureThreshold"] - 1)
    assert 20 < patience < 60


@pytest.mark.parametrize("name", IMAGES)
def test_a_pod_is_locked_down_as_its_image_allows(name: str) -> None:
    user, group = last(name, "USER").split(":")
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
    given = options("server", container("server")["args"])
    mounts = {mount["mountPath"]: mount["name"] for mount in container("server")["volumeMounts"]}
    (claim,) = WORKLOADS["server"]["spec"]["volumeClaimTemplates"]
    assert mounts[str(Path(given["db"]).parent)] == claim["metadata"]["name"]
    assert pod("server")["securityContext"]["fsGroup"] == pod("server")["securityContext"]["runAsGroup"]
    (volume,) = pod("server")["volumes"]
    assert mounts[str(given["key_file"].parent)] == volume["name"]
    assert given["key_file"].name in [item["path"] for item in volume["secret"]["items"]]


def test_secrets_are_named_and_never_written_down() -> None:
    assert not [body for body in manifests() if body["kind"] == "Secret"]
    for name in IMAGES:
        for variable in container(name).get("env", []):
            secret = re.search("KEY|SECRET", variable["name"]) is not None
            assert ("valueFrom" in variable) is secret, variable["name"]
    named = {variable["name"]: variable for variable in container("runtime")["env"]}
    assert set(named) == {URI_VARIABLE, KEY_VARIABLE}
    key = named[KEY_VARIABLE]["valueFrom"]["secretKeyRef"]
    (volume,) = pod("server")["volumes"]
    assert volume["secret"]["secretName"] == key["name"]
    assert volume["secret"]["items"][0]["key"] == key["key"], "both sides have the same key"


def test_what_refers_to_a_pod_finds_it() -> None:
    labels = {name: WORKLOADS[name]["spec"]["template"]["metadata"]["labels"] for name in IMAGES}
    for name, workload in WORKLOADS.items():
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels[name].items()
    service = find("Service", "exotrio-server")
    assert service["spec"]["selector"].items() <= labels["server"].items()
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] in [each["name"] for each in container("server")["ports"]]
    named = {variable["name"]: variable for variable in container("runtime")["env"]}
    assert named[URI_VARIABLE]["value"] == f"http://{service['metadata']['name']}:{port['port']}"
    budget = find("PodDisruptionBudget", "greeter")["spec"]
    assert budget["selector"]["matchLabels"].items() <= labels["runtime"].items()
    assert 0 < budget["minAvailable"] < WORKLOADS["runtime"]["spec"]["replicas"] == 3
    policy = find("NetworkPolicy", "exotrio-server")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels["server"].items()
    runtimes = policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    assert runtimes.items() <= labels["runtime"].items(), "the runtimes reach the server"
    assert policy["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port["port"]}]
    given = options("server", container("server")["args"])
    assert service["metadata"]["name"] in given["allowed_hosts"]
    assert policy["ingress"][1]["ports"] == [{"protocol": "TCP", "port": given["metrics_port"]}]
    assert len(policy["ingress"][1]["from"]) == 1, "who scrapes does not reach the API"


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
    found = re.fullmatch(r'sum\((\w+)\{namespace="(\w+)"\}\)', trigger["metadata"]["query"])
    assert found is not None
    assert found[2] == load(str(DEPLOY / "app.py")).runtime().namespace
    assert f'"{found[1]}"' in (PACKAGE / "manager/api/metrics.py").read_text("utf-8")


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
    assert [name for name in server if server[name] != image[name]] == ["key_file", "allowed_hosts"]
    assert {"server", "127.0.0.1"} < set(server["allowed_hosts"]), "runtimes and the healthcheck reach it"
    assert seconds(services["server"]["stop_grace_period"]) > stop_total(server)
    assert seconds(services["runtime"]["stop_grace_period"]) > drain_total()
    assert services["runtime"]["environment"][URI_VARIABLE] == f"http://server:{last('server', 'EXPOSE')}"
    assert services["runtime"]["environment"][KEY_VARIABLE].startswith(f"${{{KEY_VARIABLE}:?"), "from outside"
    (secret,) = services["server"]["secrets"]
    assert str(server["key_file"]) == f"/run/secrets/{secret}"
    assert "environment" not in services["server"], "the key is a file"
    assert composed["secrets"][secret] == {"environment": KEY_VARIABLE}, "both sides have the same key"
    ((source, target),) = (volume.split(":") for volume in services["server"]["volumes"])
    assert target == last("server", "VOLUME")
    assert source == "state"
    assert all(port.startswith("127.0.0.1:") for port in services["server"]["ports"])


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


def test_the_page_names_numbers_that_are_so() -> None:
    page = (DEPLOY / "README.md").read_text("utf-8")
    assert f"**{drain_total():g} s**" in page
    assert f"| {deadlines.CLEAN_UP:.0f} s |" in page
    assert f"| {deadlines.FLUSH:.0f} s |" in page
    period = pod("runtime")["terminationGracePeriodSeconds"]
    assert f"`terminationGracePeriodSeconds`, `stop_grace_period` | {period} s" in page
    assert f"503 after {monitoring.MAX_LAG:.0f} s of lag" in page
    assert f"503 after {monitoring.POLL_MEMORY:.0f} s without a claim that succeeds" in page
    for name in re.findall(r"exotrio_\w+", page):
        places = [*PACKAGE.rglob("*metrics.py"), PACKAGE / "monitoring.py"]
        files = [path.read_text("utf-8") for path in places]
        assert any(f'"{name}"' in text for text in files), f"there is no metric {name}"
    for file in re.findall(r"`([\w/]+\.(?:yaml|Dockerfile|py))`", page):
        assert (DEPLOY / file).exists()
