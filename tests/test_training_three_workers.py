"""Three workers that go on from a checkpoint: with two, the order of a sum cannot matter; with three it does."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from factories import plan_for
from torch import multiprocessing

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.training.data import Share
from appliance.training.run import train_share

WORKERS = 3


def train_whole_and_resumed(  # pragma: no cover - in the processes of the workers
    rank: int, folder: str, scenes: str
) -> None:
    """Writes the names of the weights that differ; every worker runs it in a process of its own."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", world_size=WORKERS, rank=rank)
    data = ObjectDetectionDataset.create_from_dir("tiny", scenes)
    plan = plan_for(data, steps=4, batch_size=WORKERS, checkpoint_every_steps=2)
    kept = {}
    share = Share(rank, WORKERS)
    whole = train_share(
        plan,
        data.images,
        device="cpu",
        share=share,
        on_checkpoint=lambda state: kept.update({state.step: state}),
    ).state_dict()
    resumed = train_share(
        plan, data.images, device="cpu", share=share, checkpoint=kept[2]
    ).state_dict()
    differing = [name for name, value in whole.items() if not torch.equal(value, resumed[name])]
    Path(folder, f"{rank}.txt").write_text("\n".join(differing))
    dist.destroy_process_group()


def test_three_workers_resume_bit_for_bit(tmp_path: Path, tiny_scenes_dir: Path) -> None:
    multiprocessing.spawn(
        train_whole_and_resumed, (str(tmp_path), str(tiny_scenes_dir / "train")), WORKERS
    )
    differing = [(tmp_path / f"{rank}.txt").read_text() for rank in range(WORKERS)]
    assert differing == [""] * WORKERS
