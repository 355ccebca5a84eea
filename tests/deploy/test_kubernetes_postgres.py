"""deploy/kubernetes-postgres: the manifests of one receiver, patched for several ones that are replaced in turn."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from receiver.commands.serve import _LIMIT_SECONDS
from receiver.settings import Settings
from tests.deploy.files import DEPLOY, PAGE, settings_in
from tests.deploy.test_kubernetes import MANIFESTS as OF_ONE

FOLDER = DEPLOY / "kubernetes-postgres"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
SETTINGS = settings_in((FOLDER / "settings.env").read_text(), active=True)


def loaded(name: str) -> dict[str, Any]:
    """Return the manifest or patch in a file."""
    manifest: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return manifest


def merged(value: Any, patch: Any) -> Any:
    """Return a value after a strategic merge patch. Items of lists are merged by their path or name."""
    if isinstance(value, dict) and isinstance(patch, dict):
        return value | {name: merged(value.get(name), item) for name, item in patch.items()}
    if isinstance(value, list) and isinstance(patch, list):
        patches = {key_of(item): item for item in patch}
        kept = [item for item in value if "$patch" not in patches.get(key_of(item), {})]
        changed = [merged(item, patches.pop(key_of(item), item)) for item in kept]
        return changed + [item for item in patches.values() if "$patch" not in item]
    return patch


def key_of(item: dict[str, Any]) -> str:
    """Return the field by which the API merges such items."""
    return str(item["mountPath"] if "mountPath" in item else item["name"])


def built() -> list[dict[str, Any]]:
    """Return all manifests as kustomize makes them, but for the names of settings and secrets."""
    manifests = {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in deepcopy(OF_ONE)}
    for name in KUSTOMIZATION["resources"][1:]:
        added = loaded(name)
        manifests[added["kind"], added["metadata"]["name"]] = added
    for named in KUSTOMIZATION["patches"]:
        patch = loaded(named["path"])
        place = patch["kind"], patch["metadata"]["name"]
        assert place in manifests, place
        before = manifests.pop(place)
        if patch.get("$patch") != "delete":
            manifests[place] = merged(before, patch)
    return list(manifests.values())


BUILT = built()


def of_kind(kind: str) -> dict[str, Any]:
    """Return the only manifest of a kind."""
    (found,) = [manifest for manifest in BUILT if manifest["kind"] == kind]
    return found


POD: dict[str, Any] = of_kind("Deployment")["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


@pytest.mark.parametrize("manifest", BUILT, ids=lambda manifest: f"{manifest['kind']}-{manifest['metadata']['name']}")
def test_the_api_knows_every_field(manifest: dict[str, Any]) -> None:
    """The newest schema allows each manifest after its patch, without unknown fields."""
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_every_file_is_used() -> None:
    """The kustomization names all files. The secrets are not in the repository, and the page says how to make them."""
    (secrets,) = KUSTOMIZATION["secretGenerator"]
    patches = [patch["path"] for patch in KUSTOMIZATION["patches"]]
    ignored = (DEPLOY.parent / ".gitignore").read_text().splitlines()

    assert KUSTOMIZATION["resources"][0] == "../kubernetes"
    assert {path.name for path in FOLDER.glob("*.yaml")} == {
        "kustomization.yaml",
        *KUSTOMIZATION["resources"][1:],
        *patches,
    }
    assert secrets["files"] == ["secrets/RECEIVER_DATABASE"]
    assert "deploy/kubernetes-postgres/secrets/" in ignored
    assert "deploy/kubernetes-postgres/secrets/RECEIVER_DATABASE" in PAGE


def test_an_update_always_leaves_all_receivers() -> None:
    """A new one is ready before an old one ends. Drained nodes take one at a time."""
    spec = of_kind("Deployment")["spec"]

    assert spec["replicas"] >= 2
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert of_kind("PodDisruptionBudget")["spec"]["selector"] == spec["selector"]
    assert of_kind("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_a_receiver_that_ends_gets_no_requests() -> None:
    """The endpoints forget it while it still serves, and it is killed only after its longest time to end."""
    delay = float(SETTINGS["RECEIVER_STOP_DELAY_SECONDS"])
    probe = CONTAINER["readinessProbe"]

    assert of_kind("Service")["spec"]["publishNotReadyAddresses"] is False
    assert probe["httpGet"] == {"path": "/healthz", "port": "http"}
    assert delay > probe["periodSeconds"] * probe["failureThreshold"]
    assert POD["terminationGracePeriodSeconds"] > delay + _LIMIT_SECONDS


def test_nothing_is_on_a_disk() -> None:
    """No volume of the single receiver is left but those for secrets and temporary files."""
    mounted = {mount["name"] for mount in CONTAINER["volumeMounts"]}

    assert mounted == {volume["name"] for volume in POD["volumes"]} == {"secrets", "temporary"}
    assert not [manifest for manifest in BUILT if manifest["kind"] == "PersistentVolumeClaim"]


def test_the_url_of_the_database_is_a_file() -> None:
    """No variable names it, so that the file of the secret holds. All settings are real ones."""
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    names = {name.removeprefix("RECEIVER_").lower() for name in SETTINGS}

    assert names - {"secrets_dir"} <= Settings.model_fields.keys() - {"database"}
    assert SETTINGS["RECEIVER_SECRETS_DIR"] == mounts["secrets"]
    assert KUSTOMIZATION["configMapGenerator"][0]["behavior"] == "replace"
    assert "RECEIVER_DATABASE" not in (DEPLOY / "container" / "Dockerfile").read_text().split("ENV")[1].split("USER")[0]
    assert Path(SETTINGS["RECEIVER_SECRETS_DIR"]).is_absolute()
