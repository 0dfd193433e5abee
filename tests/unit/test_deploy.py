"""What we hand to packagers and operators fits the tree: lock files, Dockerfile, unit, compose, Kubernetes."""

import fnmatch
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from aiopsd.config import Config, load
from aiopsd.testing.services import require

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = "1.31"


def pinned(lock: str) -> dict[str, list[Requirement]]:
    """Requirements of a lock file by name; one name may be pinned twice, for different Pythons."""
    found: dict[str, list[Requirement]] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", (ROOT / "deploy" / "requirements" / lock).read_text()):
        if entry.startswith("#"):
            continue
        requirement = Requirement(entry.split("\\")[0].split("\n")[0].strip())
        assert "--hash=sha256:" in entry, f"{requirement} has no hash"
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def version(requirement: Requirement) -> str:
    (pin,) = requirement.specifier
    assert pin.operator == "=="
    return pin.version


@pytest.mark.parametrize("lock", ["run.txt", "dev.txt", "build.txt"])
def test_lock_files_name_no_index(lock: str) -> None:
    """A lock file works with any index: it names versions and hashes, no host."""
    text = (ROOT / "deploy" / "requirements" / lock).read_text()

    assert [] == re.findall(r"(?:https?|file)://\S+|--(?:extra-)?index-url.*|--find-links.*", text)


@pytest.mark.parametrize(("lock", "extra"), [("run.txt", ""), ("dev.txt", "dev")])
def test_lock_files_are_up_to_date(lock: str, extra: str) -> None:
    """Every dependency of pyproject.toml is pinned to a version that it allows; else: make lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else [])]
    pins = pinned(lock)

    for requirement in map(Requirement, wanted):
        found = pins.get(canonicalize_name(requirement.name))
        assert found, f"{requirement} is not in {lock}: make lock"
        assert all(requirement.specifier.contains(version(pin)) for pin in found), f"{requirement}: make lock"


def test_tests_run_what_is_shipped() -> None:
    """The development lock pins the same versions as the one that production installs."""
    run, dev = pinned("run.txt"), pinned("dev.txt")

    assert {n: sorted(map(version, pins)) for n, pins in run.items()} == {n: sorted(map(version, dev[n])) for n in run}


def tracked() -> list[str]:
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def ignored_by_docker(path: str) -> bool:
    """Docker's rule: the last pattern that matches the path or a parent of it decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        keep, pattern = pattern.startswith("!"), pattern.removeprefix("!").removeprefix("**/")
        parts = path.split("/")
        if any(fnmatch.fnmatch("/".join(parts[: i + 1]), pattern) for i in range(len(parts))):
            ignored = not keep
    return ignored


def test_the_dockerfile_copies_what_is_there() -> None:
    """Every source of a COPY is in the repository and reaches the build; nothing else is sent to it."""
    sources = [
        source
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    files = tracked()

    assert {"aiopsd", "deploy/requirements/run.txt", "pyproject.toml"} <= set(sources)
    for source in sources:
        matching = [f for f in files if f == source or f.startswith(source + "/")]
        assert matching, f"COPY {source}: not in the repository"
        assert not any(ignored_by_docker(f) for f in matching if not f.endswith(".pyc"))
    assert ignored_by_docker("tests/conftest.py")
    assert ignored_by_docker(".git/config")


def test_the_dockerfile_runs_as_nobody_special() -> None:
    """The image ends as a user that is not root, with a health check and a declared entry point."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert "USER 10095:10095" in lines[lines.index("FROM python:3.11-slim-bookworm") :]
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert 'ENTRYPOINT ["aiopsd"]' in lines
    assert "aiopsd" in project["scripts"]


def documents(path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "deploy" / path).read_text()))


def test_kubernetes_manifests_are_valid() -> None:
    """Every manifest passes the schema of its kind, strictly: no unknown field."""
    kinds = []
    for document in documents("kubernetes/aiopsd.yaml"):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        kinds.append(document["kind"])

    assert ["ConfigMap", "Service", "StatefulSet"] == kinds


def test_kubernetes_parts_fit_together() -> None:
    """Selector, ports, volumes, user and data folder agree with each other, the Dockerfile and the configuration."""
    config_map, service, stateful_set = documents("kubernetes/aiopsd.yaml")
    pod = stateful_set["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    mounts = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    data_dir = yaml.safe_load(config_map["data"]["aiopsd.yaml"])["data_dir"]

    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert 1 == stateful_set["spec"]["replicas"]
    assert data_dir == mounts["data"]
    assert set(mounts) == {v["name"] for v in pod["spec"]["volumes"]} | {
        claim["metadata"]["name"] for claim in stateful_set["spec"]["volumeClaimTemplates"]
    }
    assert f"USER {pod['spec']['securityContext']['runAsUser']}:" in (ROOT / "Dockerfile").read_text()
    assert service["spec"]["publishNotReadyAddresses"] is True


def configurations(tmp_path: Path) -> dict[str, Config]:
    """Every configuration that deploy/ ships, loaded; secret files are made up."""
    (tmp_path / "token").write_text("t")
    in_kubernetes = documents("kubernetes/aiopsd.yaml")[0]["data"]["aiopsd.yaml"]
    return {
        "kubernetes": load(in_kubernetes.replace("/etc/aiopsd-secret/token", str(tmp_path / "token"))),
        "compose": load((ROOT / "deploy/compose/aiopsd.yaml").read_text()),
        "systemd": load((ROOT / "deploy/systemd/aiopsd.yaml").read_text()),
    }


def test_shipped_configurations_load(tmp_path: Path) -> None:
    """Each loads; those that listen beyond the machine carry a token, or are published on loopback only."""
    configs = configurations(tmp_path)
    compose = documents("compose/compose.yaml")[0]["services"]["aiopsd"]

    assert {"/var/lib/aiopsd"} == {c.data_dir for c in configs.values()}
    assert configs["systemd"].http.listen.startswith("127.0.0.1:")
    assert configs["kubernetes"].http.token is not None
    assert all(port.startswith("127.0.0.1:") for port in compose["ports"])


def test_compose_mounts_what_is_there() -> None:
    """Files that the compose file mounts exist, and every named volume is declared."""
    (compose,) = documents("compose/compose.yaml")
    mounts = [m.split(":")[0] for service in compose["services"].values() for m in service["volumes"]]

    assert all((ROOT / "deploy/compose" / m).is_file() for m in mounts if m.startswith("."))
    assert {m for m in mounts if not m.startswith(".")} == set(compose["volumes"])
    assert (ROOT / "deploy/compose" / compose["services"]["aiopsd"]["build"] / "Dockerfile").is_file()


@pytest.mark.services
def test_the_systemd_unit_is_valid(tmp_path: Path) -> None:
    """systemd-analyze finds nothing wrong with the unit (its programs replaced by one that is here)."""
    analyze = require("systemd-analyze")
    unit = (ROOT / "deploy/systemd/aiopsd.service").read_text()
    copy = tmp_path / "aiopsd.service"
    copy.write_text(unit.replace("/opt/aiopsd/bin/aiopsd", "/bin/true"))

    done = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, "".join(line for line in done.stderr.splitlines() if "aiopsd.service" in line))
