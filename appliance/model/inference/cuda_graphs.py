"""Records the work of a batch shape once, and replays it: a thousand kernel launches become one."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from appliance.model.inference.fast_network import FastNetwork
from appliance.model.inference.selection import BatchDetections

logger = logging.getLogger(__name__)

MAX_GRAPHS = 24
"""Each keeps its own memory for inputs; shapes beyond these run kernel by kernel."""
WARM_UP_RUNS = 2
"""Before recording, so that libraries choose their algorithms and constants are made."""


@dataclass(frozen=True, eq=False)
class _Recorded:
    graph: torch.cuda.CUDAGraph
    inputs: torch.Tensor
    sizes_wh: torch.Tensor
    found: BatchDetections


class CudaGraphs:
    """A network whose batch shapes are recorded as they come.

    Args:
        network: On a GPU.
    """

    def __init__(self, network: FastNetwork) -> None:
        self._network = network
        self._recorded: dict[torch.Size, _Recorded] = {}
        # One for all: they run one after the other, and each one's answers are copied out at once.
        self._memory_pool = torch.cuda.graph_pool_handle()
        self._broken = False

    def __call__(self, inputs: torch.Tensor, sizes_wh: torch.Tensor) -> BatchDetections:
        """As `FastNetwork.forward`, without waiting for the device."""
        recorded = self._recorded.get(inputs.shape)
        if recorded is None:
            if self._broken or len(self._recorded) >= MAX_GRAPHS:
                return self._run(inputs, sizes_wh)
            try:
                recorded = self._record(inputs, sizes_wh)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                logger.warning("CUDA graphs do not work here, going on without: %s", error)
                self._broken = True
                return self._run(inputs, sizes_wh)
            self._recorded[inputs.shape] = recorded
        recorded.inputs.copy_(inputs)
        recorded.sizes_wh.copy_(sizes_wh)
        recorded.graph.replay()
        # The next replay overwrites them.
        found = recorded.found
        return BatchDetections(
            found.boxes_xyxy.clone(),
            found.scores.clone(),
            found.class_ids.clone(),
            found.settled.clone(),
        )

    def _run(self, inputs: torch.Tensor, sizes_wh: torch.Tensor) -> BatchDetections:
        found: BatchDetections = self._network(inputs, sizes_wh)
        return found

    def _record(self, inputs: torch.Tensor, sizes_wh: torch.Tensor) -> _Recorded:
        own_inputs, own_sizes_wh = inputs.clone(), sizes_wh.clone()
        aside = torch.cuda.Stream(inputs.device)
        aside.wait_stream(torch.cuda.current_stream(inputs.device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP_RUNS):
                self._network(own_inputs, own_sizes_wh)
        torch.cuda.current_stream(inputs.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory_pool):
            found = self._network(own_inputs, own_sizes_wh)
        return _Recorded(graph, own_inputs, own_sizes_wh, found)
