"""deploy/kubernetes: manifests that the API knows, with one receiver on one database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from receiver.app import create_app
from receiver.settings import Settings
from tests.deploy.files import DEPLOY, PAGE, settings_in
from tests.deploy.test_container import instructions

FOLDER = DEPLOY / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = [
    manifest for name in KUSTOMIZATION["resources"] for manifest in yaml.safe_load_all((FOLDER / name).read_text())
]
SETTINGS = settings_in((FOLDER / "settings.env").read_text(), active=True)


def of_kind(kind: str) -> list[dict[str, Any]]:
    """Return the manifests of a kind."""
    return [manifest for manifest in MANIFESTS if manifest["kind"] == kind]


POD: dict[str, Any] = of_kind("Deployment")[0]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


@pytest.mark.parametrize(
    "manifest", MANIFESTS, ids=lambda manifest: f"{manifest['kind']}-{manifest['metadata']['name']}"
)
def test_the_api_knows_every_field(manifest: dict[str, Any]) -> None:
    """The newest schema allows each manifest, without unknown fields."""
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_every_file_is_used() -> None:
    """The kustomization names all manifests, and the settings. The secrets are not in the repository."""
    (secrets,) = KUSTOMIZATION["secretGenerator"]
    ignored = (DEPLOY.parent / ".gitignore").read_text().splitlines()

    assert {path.name for path in FOLDER.glob("*.yaml")} == {"kustomization.yaml", *KUSTOMIZATION["resources"]}
    assert KUSTOMIZATION["configMapGenerator"] == [{"name": "callback-receiver", "envs": ["settings.env"]}]
    assert all(Path(name).name.startswith("RECEIVER_") for name in secrets["files"])
    assert {f"deploy/kubernetes/{Path(name).parent}/" for name in secrets["files"]} <= set(ignored)
    assert all(f"deploy/kubernetes/{name}" in PAGE for name in secrets["files"])


def test_one_process_owns_the_database() -> None:
    """The old receiver ends before the new one starts, and has the time for it."""
    (deployment,) = of_kind("Deployment")

    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert POD["terminationGracePeriodSeconds"] > 10


def test_the_receiver_is_shut_in() -> None:
    """It runs as the user of the image, and writes to its volume and to /tmp alone."""
    user = POD["securityContext"]

    assert [f"{user['runAsUser']}:{user['runAsGroup']}"] == instructions("USER")
    assert (user["runAsNonRoot"], user["seccompProfile"]["type"]) == (True, "RuntimeDefault")
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["automountServiceAccountToken"] is False


def test_the_settings_fit_the_manifests() -> None:
    """Each is a real one, and ports and paths are those of the container."""
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}

    assert {name.removeprefix("RECEIVER_").lower() for name in SETTINGS} - {
        "secrets_dir"
    } <= Settings.model_fields.keys()
    assert SETTINGS["RECEIVER_SECRETS_DIR"] == mounts["secrets"]
    assert Path(SETTINGS["RECEIVER_DATABASE"]).parent == Path(mounts["database"])
    assert {"http": int(SETTINGS["RECEIVER_PORT"])} == ports
    assert SETTINGS["RECEIVER_PUBLIC_URL"] == f"https://{of_kind('Ingress')[0]['spec']['rules'][0]['host']}"
    assert POD["enableServiceLinks"] is False


def test_the_probes_are_routes(tmp_path: Path) -> None:
    """A receiver that cannot store is unready, and is not restarted for it."""
    app = create_app(Settings(database=tmp_path / "receiver.db", _env_file=None))
    routes = {resource.canonical for resource in app.router.resources()}
    probes = {name: CONTAINER[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}

    assert probes == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    assert set(probes.values()) <= routes


def test_callbacks_are_not_redirected() -> None:
    """They have an ingress of their own. No ingress logs their addresses."""
    ingresses = {
        ingress["spec"]["rules"][0]["http"]["paths"][0]["path"]: ingress["metadata"]["annotations"]
        for ingress in of_kind("Ingress")
    }
    prefix = "nginx.ingress.kubernetes.io/"

    assert ingresses.keys() == {"/", "/callback"}
    assert ingresses["/callback"][f"{prefix}ssl-redirect"] == "false"
    assert f"{prefix}ssl-redirect" not in ingresses["/"]
    assert {annotations[f"{prefix}enable-access-log"] for annotations in ingresses.values()} == {"false"}
