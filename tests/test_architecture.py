"""The borders between the rooms, the core without the big libraries, and a README that tells the truth."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import factories
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("appliance", "jobs", "serve_app", "benchmarks")
TOP_LEVEL = {
    *PACKAGES,
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "pyproject.toml",
    "ray_cluster.yaml",
    "requirements-dev.txt",
    "requirements-setup.txt",
    "requirements.txt",
    "tests",
}
MAX_LINES = 400

# Everything but torch, torchvision, numpy, pillow and safetensors: a GPU box that only scores and evaluates.
BLOCKED = ("ray", "pydantic", "pyarrow", "matplotlib", "defusedxml", "yaml", "fastapi")
CORE = (
    "appliance.scoring",
    "appliance.records",
    "appliance.detector",
    "appliance.evaluation.metrics.average_precision",
)
BLOCKER = f"""
import importlib, json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError("blocked: " + name, name=name)

sys.meta_path.insert(0, Blocker())
"""

# One import for each contract of pyproject.toml that breaks it.
OFFENCES = {
    "appliance/labels.py": "import appliance.records",
    "appliance/images/decoding.py": "import ray",
    "serve_app/app.py": "import appliance.annotations.dataset",
    "appliance/scoring.py": "import appliance.training.config",
    "appliance/registry/store.py": "import appliance.training.config",
    "appliance/detector/faster_rcnn.py": "import serve_app.settings",
    "jobs/__init__.py": "import benchmarks",
}


def files_of_the_project() -> list[str]:
    """Every file that git has or would take, as it is on disk."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.splitlines()
    return sorted(name for name in set(listed) if (ROOT / name).is_file())


def run_python(program: str, *arguments: str) -> str:
    """The standard output of a program in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def lint_imports(folder: Path) -> subprocess.CompletedProcess:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True
    )


def configuration() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]


def test_every_room_imports_only_what_it_may():
    linted = lint_imports(ROOT)
    assert linted.returncode == 0, linted.stdout
    assert f"Contracts: {len(configuration()['contracts'])} kept, 0 broken." in linted.stdout


def test_every_import_contract_can_be_broken(tmp_path):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=lambda *_: {"__pycache__"})
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, offence in OFFENCES.items():
        with (tmp_path / name).open("a") as source:
            source.write(f"\n{offence}\n")
    linted = lint_imports(tmp_path)
    assert f"Contracts: 0 kept, {len(configuration()['contracts'])} broken." in linted.stdout


def test_every_room_of_the_library_has_a_layer():
    layers = " ".join(configuration()["contracts"][0]["layers"])
    rooms = {path.stem for path in (ROOT / "appliance").iterdir() if path.stem.isidentifier()}
    rooms -= {"__init__", "__pycache__"}
    assert set(re.findall(r"appliance\.(\w+)", layers)) >= rooms


def test_the_core_imports_and_scores_pictures_without_the_big_libraries(tiny_model_path, tmp_path):
    modules = (ROOT / "appliance" / "model").glob("*.py")
    names = [*CORE, *sorted(f"appliance.model.{path.stem}" for path in modules)]
    assert "appliance.model.predictor" in names
    picture = tmp_path / "a.jpg"
    picture.write_bytes(factories.jpeg_bytes())
    program = """
from pathlib import Path
model, picture, *names = sys.argv[1:]
for name in names:
    importlib.import_module(name)
from appliance import FasterRCNN, ImageScorer
scorer = ImageScorer.load(model)
records = scorer.score([(picture, Path(picture).read_bytes()), ("broken", b"no picture")])
of_detector = FasterRCNN.load(model, device="cpu").score(picture)
print(json.dumps([*(record.to_row() for record in records), of_detector]))
"""
    printed = run_python(BLOCKER + program, str(tiny_model_path), str(picture), *names)
    scored, broken, of_detector = json.loads(printed)
    assert (scored["width_px"], scored["height_px"], scored["error"]) == (96, 64, None)
    assert len(scored["detections"]) == of_detector["num_detections"] > 0
    assert broken["error_kind"] == "unreadable"


def test_the_blocker_blocks():
    program = """
try:
    import pyarrow
except ModuleNotFoundError as error:
    print(error)
"""
    assert run_python(BLOCKER + program) == "blocked: pyarrow\n"


def test_importing_the_library_loads_neither_torch_nor_ray():
    loaded = run_python("import appliance, json, sys; print(json.dumps(sorted(sys.modules)))")
    heavy = {"torch", "torchvision", "ray", "pyarrow", "matplotlib", "pydantic", "fastapi"}
    assert heavy.isdisjoint(json.loads(loaded))


def test_the_tree_in_the_readme_is_the_tree_on_disk():
    readme = (ROOT / "README.md").read_text()
    tree = re.search(r"<!-- tree -->\s*```\w*\n(.*?)```", readme, re.DOTALL)
    assert tree, "README.md has no fenced block after <!-- tree -->"
    entries = Counter(
        line.split()[0] for line in tree[1].splitlines() if re.match(r"\S+\.\w+\s+\S", line)
    )
    on_disk = {
        name
        for name in files_of_the_project()
        if name.startswith(tuple(f"{package}/" for package in PACKAGES))
        and name.endswith((".py", ".yaml", ".html"))
        and not name.endswith("__init__.py")
        and not name.startswith("benchmarks/results/")
    }
    listed = {name for name in entries if name.startswith(PACKAGES)}
    assert sorted(on_disk - listed) == []
    assert [name for name in entries if not (ROOT / name).exists()] == []
    assert [name for name, count in entries.items() if count > 1] == []


def test_only_the_agreed_entries_stand_at_the_top():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.splitlines()
    assert {
        name.split("/")[0] for name in tracked
    } == TOP_LEVEL  # a user may add folders of their own


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_grows_beyond_what_one_can_read(package):
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in (ROOT / package).rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_libraries_do_not_print():
    printing = []
    for name in files_of_the_project():
        if name.startswith(("appliance/", "serve_app/")) and name.endswith(".py"):
            tree = ast.parse((ROOT / name).read_text())
            printing += [
                f"{name}: {function.name}"
                for function in ast.walk(tree)
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
                for call in ast.walk(function)
                if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "print"
            ]
    allowed = "appliance/annotations/dataset.py: print_info"
    assert {entry for entry in printing if not entry.startswith("appliance/cli/")} <= {allowed}
