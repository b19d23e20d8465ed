"""A plain loop around PyTorch's DataLoader, with one process that reads ahead: two cores have no room for more."""

import os
import sys
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.batch.stamped import detect_stamped
from benchmarks.peers.detector import decode, load_detector


class Pictures(Dataset):
    """Name and pixels of each picture of a folder."""

    def __init__(self, folder: str) -> None:
        self.paths = sorted(Path(folder).glob("*.jpg"))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, torch.Tensor]:
        return self.paths[index].name, decode(self.paths[index].read_bytes())


def collate(samples: list) -> tuple[list, list]:
    """Pictures have sizes of their own: lists, no tensor."""
    return [name for name, _ in samples], [image for _, image in samples]


if __name__ == "__main__":
    network = load_detector()
    rows = []
    for names, images in DataLoader(
        Pictures(sys.argv[1]),
        batch_size=int(os.environ.get("BATCH", "8")),
        num_workers=1,
        collate_fn=collate,
    ):
        rows += zip(names, detect_stamped(network, images), strict=True)
    pd.DataFrame(rows, columns=["path", "found"]).to_parquet(f"{sys.argv[2]}/scores.parquet")
