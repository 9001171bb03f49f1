"""The files for clusters: they parse, the commands in them are ours, and names agree between them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from typer.main import get_command

from guard.cli import app

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
IMAGE = "guard-ray"


def kuberay():
    return list(yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text(encoding="utf-8")))


def skypilot():
    return yaml.safe_load((DEPLOY / "skypilot.yaml").read_text(encoding="utf-8"))


def understood(command: str) -> dict[str, object]:
    """The options of a `guard scan` line, as our command line understands them."""
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("guard", "scan")
    scan = get_command(app).commands[name]
    return scan.make_context(name, arguments).params


def templates(job):
    groups = [job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_the_job_of_kuberay_scans_what_all_its_machines_share():
    job, claim = kuberay()
    assert (job["apiVersion"], job["kind"], claim["kind"]) == ("ray.io/v1", "RayJob", "PersistentVolumeClaim")
    options = understood(job["spec"]["entrypoint"])
    assert options["ray"] == "auto"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in templates(job):
        (container,), (volume,) = pod["containers"], pod["volumes"]
        assert container["image"] == IMAGE
        (mount,) = container["volumeMounts"]
        assert mount["name"] == volume["name"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        for name in (*options["source"], options["out"]):
            assert Path(name).is_relative_to(mount["mountPath"])
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_task_of_skypilot_scans_on_the_cluster_that_it_starts():
    task = skypilot()
    assert task["num_nodes"] > 1
    (line,) = [line for line in task["run"].splitlines() if line.strip().startswith("guard ")]
    options = understood(line.replace("$BUCKET", task["envs"]["BUCKET"]).replace("$head", "10.0.0.1"))
    assert options["ray"] == "10.0.0.1:6379"
    assert all(name.startswith("s3://") for name in (*options["source"], options["out"]))
    extras = re.search(r"'\.\[(.*)\]'", task["setup"])[1].split(",")
    assert set(extras) <= set(project()["optional-dependencies"])
    for script in (task["setup"], task["run"]):
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_image_has_the_versions_of_the_package_and_passes_its_linter():
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (ours,) = project()["optional-dependencies"]["ray"]
    assert ours.partition("]")[2] == re.search(r'"ray\[[a-z,]*\]([^"]*)"', text)[1]
    assert f"-t {IMAGE} deploy" in text and f"-t {IMAGE} deploy" in (DEPLOY / "README.md").read_text(encoding="utf-8")
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([str(hadolint), str(DEPLOY / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_readme_names_every_file_and_links_lead_somewhere():
    text = (DEPLOY / "README.md").read_text(encoding="utf-8")
    assert all(path.name in text for path in DEPLOY.iterdir() if path.name != "README.md")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (DEPLOY / target).exists()
