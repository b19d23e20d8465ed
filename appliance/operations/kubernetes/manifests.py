"""A service and a batch job for the KubeRay operator, commented as `ray_cluster.yaml` is."""

from __future__ import annotations

import importlib
import re
import shlex
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from pathlib import Path

import jinja2

from appliance import storage
from appliance.errors import ConfigError, StorageError

SERVICE_FILE, JOB_FILE = "rayservice.yaml", "rayjob.yaml"
_TEMPLATES = resources.files("appliance.operations.kubernetes") / "templates"
_PROGRAMS = "/opt/venv/bin"  # in an image of `appliance docker`
# Kubernetes allows 63 characters, and KubeRay appends to them.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
# As the OCI distribution specification has names and tags.
_IMAGE = re.compile(
    r"([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)


@dataclass(frozen=True)
class KubernetesPlan:
    """What is to run, and on what.

    Attributes:
        image: Of `appliance docker`, where the nodes of Kubernetes can pull it.
        model: File within the image, as /app/fridge-7.safetensors, or in an object store.
        name: Of the service; the job is NAME-score.
        gpu: Whether there are workers with GPUs, and replicas want one.
        cpu_workers: Most workers without a GPU.
        gpu_workers: Most workers with one.
        worker_cpus: CPUs of a worker.
        pictures: What the job scores.
        scores: Where the job writes to.

    Raises:
        ConfigError: No image, name or model can be called so.
    """

    image: str
    model: str
    name: str = "detection"
    gpu: bool = False
    cpu_workers: int = 4
    gpu_workers: int = 4
    worker_cpus: int = 4
    pictures: str = "s3://bucket/pictures/"
    scores: str = "s3://bucket/scores/"

    def __post_init__(self) -> None:
        if not _IMAGE.fullmatch(self.image):
            raise ConfigError(
                "That is no name of an image",
                got=repr(self.image),
                expected="[REGISTRY/]NAME[:TAG][@sha256:DIGEST], as shop/fridge:7",
            )
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                "That is no name for Kubernetes",
                got=repr(self.name),
                expected="at most 40 small letters, digits and dashes, a letter first",
            )
        if not storage.is_remote(self.model) and not self.model.startswith("/"):
            raise ConfigError(
                "No pod finds this model",
                got=self.model,
                expected="an absolute path within the image, or an address in an object store",
                hint="Images of `appliance docker` have it in /app",
            )


def write_manifests(plan: KubernetesPlan, folder: Path) -> list[Path]:
    """Writes both files into a folder.

    Raises:
        StorageError: One of them is there already, or the folder cannot be written.
    """
    files = [folder / SERVICE_FILE, folder / JOB_FILE]
    for file in files:
        if file.exists():
            raise StorageError(
                "There is a file already", where=file, hint="Choose another folder with --out"
            )
    for file, text in zip(files, (service_manifest(plan), job_manifest(plan)), strict=True):
        storage.write_bytes(file, text.encode())
    return files


def service_manifest(plan: KubernetesPlan) -> str:
    """A `RayService`, as YAML."""
    replicas = plan.gpu_workers if plan.gpu else plan.cpu_workers
    # A worker each: a new version finds a place beside the old one only on another.
    return _rendered("rayservice.yaml.jinja", plan, keys=True, replicas=replicas)


def job_manifest(plan: KubernetesPlan) -> str:
    """A `RayJob` that scores pictures in bulk, as YAML."""
    words = ("python", "-m", "jobs.batch_score", plan.model, plan.pictures, plan.scores, "--json")
    return _rendered("rayjob.yaml.jinja", plan, keys=False, entrypoint=shlex.join(words))


def _rendered(template: str, plan: KubernetesPlan, **values: object) -> str:
    environment = jinja2.Environment(  # noqa: S701 - neither HTML nor XML
        loader=jinja2.FunctionLoader(lambda name: (_TEMPLATES / name).read_text()),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    text = environment.get_template(template).render(
        **asdict(plan),
        **values,
        variables=_serve_variables(),
        ray_version=metadata.version("ray"),
        replica_cpus=max(1, plan.worker_cpus // 2),
    )
    return text.rstrip() + "\n"


def _serve_variables() -> dict[str, str]:
    """Those of Ray Serve, with the program where the image has it rather than this machine."""
    # Named as text: the library does not import the service.
    of_serve = importlib.import_module("serve_app.ingress.variables")
    variables: dict[str, str] = of_serve.serve_variables()
    return {**variables, of_serve.PROGRAM_VARIABLE: f"{_PROGRAMS}/{of_serve.PROGRAM}"}
