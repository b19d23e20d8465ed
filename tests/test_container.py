"""`appliance docker`: the image context, installed as its Dockerfile does and started by its entry point."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
import zipfile
from pathlib import Path

import factories
import pytest
from registry_cases import registered
from survival import running, wait_until
from test_doctor import port_of_nobody, program

from appliance import Deployment, FasterRCNN
from appliance.errors import ConfigError
from appliance.operations.container import pins
from appliance.operations.container.wheel import PACKAGES, installed_project, project_wheel

ROOT = Path(__file__).resolve().parents[1]
STOP_S = 60.0


@pytest.fixture(scope="module")
def contexts(tmp_path_factory, tiny_model_path):
    """The contexts of a model of the registry for both devices, written by the command itself."""
    folder = tmp_path_factory.mktemp("contexts")
    registry = registered(folder / "models", tiny_model_path).root_uri
    for device in ("cpu", "cuda"):
        command = ("docker", "shapes@production", "--registry", registry, "--device", device)
        settings = ("--set", "access_log=", "--set", "max_pixels=90000")
        subprocess.run(
            [sys.executable, "-m", "appliance.cli.main", *command, *settings, "--out", device],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    return folder


def texts_of(context: Path) -> dict[str, str]:
    """Every text of a context, those in the wheel included."""
    found = {}
    for path in context.iterdir():
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as archive:
                found |= {
                    name: archive.read(name).decode(errors="replace") for name in archive.namelist()
                }
        elif path.suffix != ".safetensors":
            found[path.name] = path.read_text()
    return found


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_context_has_all_that_an_image_needs_and_nothing_of_this_machine(contexts, device):
    context = contexts / device
    dockerfile = (context / "Dockerfile").read_text()
    (wheel,) = context.glob("*.whl")
    copied = {
        "entrypoint.sh",
        "healthcheck.py",
        "requirements.txt",
        "shapes-1.safetensors",
        wheel.name,
    }
    copied |= {"requirements-without-torch.txt"} if device == "cpu" else set()
    assert {path.name for path in context.iterdir()} == copied | {
        "Dockerfile",
        "README.md",
        ".dockerignore",
    }
    assert all(name in dockerfile for name in copied - {"requirements-without-torch.txt"})
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert len(set(bases)) == 1
    assert re.fullmatch(r"(python|nvidia/cuda):\d+\.\d+\.\d+-.+", bases[0])
    assert ("nvidia" in bases[0]) == (device == "cuda")
    stage = dockerfile.rpartition("FROM ")[2]
    assert "\nUSER 10001:10001\n" in stage
    assert "\nHEALTHCHECK " in stage
    assert "/etc/profile.d/appliance.sh" in stage
    assert stage.rstrip().endswith('ENTRYPOINT ["/app/entrypoint.sh"]')
    assert "--require-hashes" in dockerfile
    assert ("--set num_gpus=1" in (context / "entrypoint.sh").read_text()) == (device == "cuda")
    assert os.access(context / "entrypoint.sh", os.X_OK)
    places = (str(ROOT), str(contexts), str(Path.home()) + "/")
    texts = texts_of(context)
    mentions = {
        f"{name}: {place}"
        for name, text in texts.items()
        for place in places
        if place in text and not re.search(r"METADATA|requirements", name)
    }
    assert mentions == set()
    assert not re.search(r"^-|://", texts["requirements.txt"], re.MULTILINE)
    assert {name.split("/")[0] for name in texts if name.endswith("/__init__.py")} == set(PACKAGES)


def record_of_the_entry_point(
    context: Path, python: Path, home: Path, *, politely: bool = False
) -> tuple[dict, set[str]]:
    """Starts a context's entry point as a container does; its answer, and the programs that it started.

    It is killed then, or stopped as Docker does.
    """
    port = port_of_nobody()
    variables = {
        "PATH": f"{python.parent}:/usr/bin:/bin",
        "HOME": str(home),
        "APPLIANCE_HOST": "127.0.0.1",
        "APPLIANCE_PORT": str(port),
    }
    url = f"http://127.0.0.1:{port}"
    healthcheck = [python, context / "healthcheck.py"]
    asked = subprocess.run(healthcheck, env=variables, capture_output=True, text=True)
    assert (asked.returncode, "refused" in asked.stderr) == (1, True)
    with running([context / "entrypoint.sh", "--replicas", 1], **variables) as process:

        def answers() -> bool:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/readyz"):
                return True
            return False

        wait_until(answers, process)
        assert subprocess.run(healthcheck, env=variables).returncode == 0
        request = urllib.request.Request(
            f"{url}/v1/detect", factories.jpeg_bytes(), {"Content-Type": "image/jpeg"}
        )
        with urllib.request.urlopen(request) as answer:
            record = json.load(answer)
        programs = {" ".join(child.cmdline()) for child in process.children(recursive=True)}
        process.send_signal(signal.SIGTERM if politely else signal.SIGKILL)
        process.wait(STOP_S)
    assert process.returncode == (0 if politely else -signal.SIGKILL)
    return record, programs


def test_the_entry_point_serves(contexts, tmp_path):
    record, _ = record_of_the_entry_point(contexts / "cpu", Path(sys.executable), tmp_path)
    assert (record["model_name"], record["model_version"], record["error"]) == ("shapes", "1", None)


@pytest.mark.slow
def test_installed_into_an_environment_of_its_own_the_entry_point_serves(contexts, tmp_path):
    context, environment = contexts / "cpu", tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    # The packages are those of this environment, which has the versions of requirements.txt; the project is the wheel's.
    (site / "packages.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    (wheel,) = context.glob("*.whl")
    python = environment / "bin" / "python"
    install = ("-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index")
    subprocess.run([sys.executable, *install, wheel], check=True)
    where = "import appliance, serve_app; print(appliance.__file__, serve_app.__file__)"
    imported = subprocess.check_output([python, "-c", where], cwd=tmp_path, text=True)
    assert imported.count(str(environment)) == 2
    record, programs = record_of_the_entry_point(context, python, tmp_path, politely=True)
    assert (record["model_name"], record["model_version"], record["error"]) == ("shapes", "1", None)
    assert any(str(environment) in line for line in programs)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"APPLIANCE_NO_KEYS": "1"}, ["--no-keys"]),
        ({"APPLIANCE_KEYS": "keys.txt"}, ["--keys", "keys.txt"]),
    ],
)
def test_the_entry_point_hands_keys_and_options_on(contexts, tmp_path, given, options):
    program(tmp_path, "appliance", 'printf "%s\\n" "$@"')
    (tmp_path / "keys.txt").touch()
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **given}
    command = [contexts / "cuda" / "entrypoint.sh", "--replicas", "2"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    subcommand, model, *rest = ran.stdout.splitlines()
    assert (subcommand, model.rpartition("@")[0]) == (
        "serve",
        f"{contexts / 'cuda'}/shapes-1.safetensors#shapes:1",
    )
    settings = ["--set", "num_gpus=1", "--set", "access_log=", "--set", "max_pixels=90000"]
    assert rest == ["--host", "0.0.0.0", "--port", "8000", *settings, *options, "--replicas", "2"]


def test_an_earlier_context_is_replaced_and_nothing_else(
    run_appliance, tiny_model_path, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert run_appliance("docker", tiny_model_path) == 0
    assert capsys.readouterr().out.endswith(
        "Build it: docker build -t detection-tiny:latest-cpu docker/tiny\n"
    )
    before = (tmp_path / "docker/tiny/Dockerfile").read_bytes()
    (tmp_path / "docker/tiny/old.whl").touch()
    assert run_appliance("docker", tiny_model_path, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert {path.name for path in (tmp_path / "docker/tiny").iterdir()} == set(document["files"])
    assert (tmp_path / "docker/tiny/Dockerfile").read_bytes() == before
    for mistake, message in [
        (("--out", tmp_path), "Something else is there already"),
        (("--out", tiny_model_path), "Something else is there already"),
        (
            ("--set", "max_pixel=1"),
            "Unknown setting: --set (got 'max_pixel'). Did you mean 'max_pixels'.",
        ),
    ]:
        assert run_appliance("docker", tiny_model_path, *mistake) == 1
        assert f"error: {message}" in capsys.readouterr().err
    assert run_appliance("docker", tmp_path / "none.safetensors") == 1


def test_an_image_is_built_where_an_engine_is(
    run_appliance, tiny_model_path, tmp_path, capsys, monkeypatch
):
    """The engine itself is not ours: a program in its place shows what it is asked."""
    monkeypatch.chdir(tmp_path)
    command = ("docker", tiny_model_path, "--build", "--tag", "shop:1")
    engine = tmp_path / "engine"
    engine.mkdir()
    monkeypatch.setenv("PATH", f"{engine}")
    hint = (
        "The context is written; build it where there is one: `docker build -t shop:1 docker/tiny`."
    )
    for text, reason in [
        (None, "no program `docker`"),
        ("echo Cannot connect >&2; exit 1", "Cannot connect"),
        ("exit 3", "`docker version` ends with 3"),
    ]:
        if text is not None:
            program(engine, "docker", text)
        assert run_appliance(*command) == 1
        said = capsys.readouterr().err
        assert f"error: No Docker engine answers here (got {reason}). {hint}" in said
        assert (tmp_path / "docker/tiny/Dockerfile").exists()
    (engine / "docker").write_text("no program that could be started")
    assert run_appliance(*command) == 1
    program(engine, "docker", f'echo "$@" >> {tmp_path}/asked')
    assert run_appliance(*command) == 0
    assert (tmp_path / "asked").read_text().splitlines()[-1] == "build -t shop:1 docker/tiny"
    assert capsys.readouterr().out.endswith("Built shop:1.\n")
    program(engine, "docker", '[ "$1" = version ]')
    assert run_appliance(*command) == 1
    assert "The image could not be built: docker/tiny (got exit code 1" in capsys.readouterr().err


def test_a_deployment_is_built_by_its_name_of_2018(tiny_model_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine = tmp_path / "engine"
    engine.mkdir()
    monkeypatch.setenv("PATH", f"{engine}")
    program(engine, "docker", f'echo "$@" >> {tmp_path}/asked')
    service = Deployment("shelf", FasterRCNN.load(tiny_model_path))
    image = service.build_docker_image()
    assert image.startswith("detection-shelf:")
    assert (tmp_path / "asked").read_text().splitlines()[-1] == f"build -t {image} docker/shelf"
    assert (tmp_path / "docker/shelf/shelf.safetensors").stat().st_size > 0
    with pytest.raises(ConfigError, match="needs a model"):
        Deployment("shelf").build_docker_image()


def test_pins_come_from_the_checkout_or_from_what_is_installed(tmp_path):
    locked = pins.pinned_packages()
    assert locked == (ROOT / "requirements.txt").read_text()
    installed = pins.pinned_packages(tmp_path)
    names = set(re.findall(r"(?m)^([a-z0-9.-]+)==", installed))
    assert names >= {"torch", "torchvision", "ray", "fastapi", "uvicorn", "pandas"}
    assert not names & {"pytest", "detection-appliance"}
    assert names <= set(re.findall(r"(?m)^([a-z0-9.-]+)==", locked))
    assert pins.has_hashes(locked)
    assert not pins.has_hashes(installed)
    assert pins.version_in(locked, "torch") == pins.version_in(installed, "torch")
    assert pins.version_in("", "torch") == pins.version_in(locked, "torch")
    rest = pins.without_torch(locked)
    assert len(rest) > 200_000
    assert re.findall(r"(?m)^(?:torch|nvidia|cuda|triton)\S*", rest) == []


def test_the_wheel_is_the_same_for_the_same_files():
    name, data = project_wheel()
    assert project_wheel() == (name, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        (licence,) = (one for one in archive.namelist() if one.endswith("licenses/LICENSE"))
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
        assert "serve_app/http/page/index.html" in archive.namelist()
    with pytest.raises(ConfigError, match="absent is not installed"):
        installed_project("absent")


@pytest.mark.slow
def test_the_pins_of_a_context_suffice_for_a_clean_environment(contexts, tmp_path):
    environment = tmp_path / "venv"
    uv = [str(Path(sys.executable).with_name("uv"))]
    python = environment / "bin" / "python"
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    install = [*uv, "pip", "install", "--quiet", "--python", python, "--no-deps"]
    requirements = contexts / "cpu" / "requirements.txt"
    subprocess.run([*install, "--require-hashes", "-r", requirements], check=True)
    (wheel,) = (contexts / "cpu").glob("*.whl")
    subprocess.run([*install, wheel], check=True)
    checked = subprocess.run(
        [*uv, "pip", "check", "--python", python], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    command = [
        environment / "bin" / "appliance",
        "doctor",
        "--json",
        "--port",
        str(port_of_nobody()),
    ]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
