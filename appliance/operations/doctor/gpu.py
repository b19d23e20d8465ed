"""GPUs: what the driver says of them, and whether torch can compute on them.

torch takes seconds to import, and so is asked only where the driver knows a GPU; in a process of its own, since
a broken driver may end whoever touches it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

from appliance.operations.doctor.finding import Finding, good, wrong
from appliance.operations.doctor.installation import Installation

_NAME = "CUDA"
_TIMEOUT_S = 120
_QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_PROBE = """
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    try:
        total = float((torch.ones(8, device="cuda") * 2).sum())
        answer = {"ok": total == 16.0, "reason": f"1 * 2 * 8 gives {total}"}
    except Exception as error:
        reasons = [str(error), *(str(one.message) for one in caught)]
        answer = {"ok": False, "reason": " ".join(" ".join(reasons).split())[:300]}
print(json.dumps(answer))
"""


def look_at_gpus(installation: Installation) -> Finding:
    """What there is to compute on besides the CPUs; none at all is good."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return good(_NAME, "no NVIDIA driver here: everything runs on the CPUs")
    gpus = _ask([program, *_QUERY])
    if gpus.returncode != 0:
        return wrong(
            _NAME,
            f"nvidia-smi fails: {_last_line(gpus)}",
            "Install a driver that fits this kernel, or start the container with `--gpus all`",
        )
    found = "; ".join(line.strip() for line in gpus.stdout.splitlines() if line.strip())
    built = installation.built_version("torch") or ""
    if "+cu" not in built:
        return wrong(
            _NAME,
            f"{found}; but torch {built} is built without CUDA",
            "Install the CUDA builds that requirements.txt pins: `make setup`",
        )
    probe = _ask([sys.executable, "-c", _PROBE])
    try:
        answer = json.loads(probe.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        answer = {"ok": False, "reason": f"it ends with {probe.returncode}: {_last_line(probe)}"}
    if not answer["ok"]:
        return wrong(
            _NAME,
            f"{found}; but torch {built} cannot compute on it: {answer['reason']}",
            "Update the driver to one for the CUDA that torch is built for, and see that "
            "CUDA_VISIBLE_DEVICES hides no GPU",
        )
    return good(_NAME, f"{found}; torch {built} computes on it")


def _ask(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)  # noqa: PLW1510 - looked at
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return lines[-1] if lines else "without a word"
