"""Detecto: five lines of its documentation, with the network that all sides train in place of its own.

    python -m benchmarks.peers.training.detecto_fit DATA.csv PICTURES START.pt OUT.pt EPOCHS

Its constructor wants to download weights of ResNet-50 that nobody uses here: `TORCH_HOME` must hold a file for them.
"""

import json
import sys
import time

import torch
from detecto.core import DataLoader, Dataset, Model

from benchmarks.peers.detector import load_detector

if __name__ == "__main__":
    csv, pictures, start, out, epochs = sys.argv[1:]
    labels = torch.load(start, weights_only=True)["labels"]
    loader = DataLoader(Dataset(csv, pictures), batch_size=2, shuffle=True)
    model = Model(labels, pretrained=False, model_name=Model.MOBILENET_320)
    model._model = load_detector(start)  # noqa: SLF001 - it has no public place for a network
    began_s = time.time()
    model.fit(loader, epochs=int(epochs), verbose=False)
    ended_s = time.time()
    torch.save(model.get_internal_model().state_dict(), out)
    print(json.dumps({"seconds": ended_s - began_s, "images": len(loader.dataset) * int(epochs)}))
