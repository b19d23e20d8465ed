"""torchvision without torch's compiler, and with it where somebody wants it; each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCORES = """
import appliance
from appliance.model.predictor import Predictor
import numpy as np, sys
predictor = Predictor.load({path!r})
predictor.predict([np.zeros((64, 64, 3), np.uint8)])
print("torch._dynamo" in sys.modules)
"""
ANSWERS_AS_THE_REAL_ONE = """
import appliance, sys
from torchvision.ops import roi_align as module
import torchvision.ops.roi_align
asked = sys.modules["torchvision.ops.roi_align"].is_compile_supported
assert "torch._dynamo.utils" not in sys.modules
answers = [asked(kind) for kind in ("cpu", "cuda", "mps")]
from torch._dynamo.utils import is_compile_supported
print(is_compile_supported is not asked, answers == [is_compile_supported(k) for k in ("cpu", "cuda", "mps")])
"""
IN_ANY_ORDER = """
import {first}
import {second}
import torch._dynamo.utils, torchvision.ops
found = sys.modules["torchvision.ops.roi_align"].is_compile_supported
print(torch._dynamo.utils.__file__ is not None, found("cpu") == torch._dynamo.utils.is_compile_supported("cpu"))
"""
WHILE_IT_LOADS = """
import sys
from appliance.deferred_imports import _StandIn
name = "torch._dynamo.utils"
sys.modules[name] = stand_in = _StandIn(name)
from torch._dynamo.utils import counters
print(sys.modules[name] is not stand_in, counters is sys.modules[name].counters)
"""


def told(code):
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return run.stdout.split()


def test_scoring_does_without_the_compiler(tiny_model_path):
    assert told(SCORES.format(path=str(tiny_model_path))) == ["False"]


def test_it_is_asked_when_somebody_wants_to_know():
    assert told(ANSWERS_AS_THE_REAL_ONE) == ["True", "True"]


@pytest.mark.parametrize(
    ("first", "second"), [("torch._dynamo, sys", "appliance"), ("torchvision, sys", "appliance")]
)
def test_what_is_there_already_stays(first, second):
    assert told(IN_ANY_ORDER.format(first=first, second=second)) == ["True", "True"]


def test_another_thread_gets_the_real_module_meanwhile():
    assert told(WHILE_IT_LOADS) == ["True", "True"]
