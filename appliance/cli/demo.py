"""`appliance demo`: the main job, end to end, on drawn scenes or the user's own pictures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.options import Json, Quiet
from appliance.cli.tables import print_json, print_table


def demo(
    data: Annotated[
        str | None, typer.Option(help="Own annotated pictures; by default scenes are drawn.")
    ] = None,
    test_data: Annotated[str | None, typer.Option(help="Annotated pictures to test on.")] = None,
    test_fraction: Annotated[
        float, typer.Option(help="Without --test-data, hold out this share of --data.")
    ] = 0.25,
    init: Annotated[
        str, typer.Option(help="Starting weights: none, imagenet, or a file.")
    ] = "none",
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal results.")] = 0,
    out: Annotated[str, typer.Option(help="Folder for everything that comes of it.")] = "demo",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run the main job: data, training, evaluation, batch scores, a service, a report.

    Example: appliance demo --data my_pictures --init mobilenet_v2.safetensors
    """
    started_s = time.perf_counter()
    from appliance.demo.main_job import DemoOptions, run_demo

    options = DemoOptions(
        out_dir=Path(out),
        data=data,
        test_data=test_data,
        test_fraction=test_fraction,
        init=init,
        steps=steps,
        seed=seed,
        progress=not quiet,
    )
    summary = run_demo(options, started_s=started_s)
    if json:
        print_json(summary)
        return
    rows = [
        ("mAP@0.5 on test pictures", summary["map_50"]),
        *((f"  {label}", ap) for label, ap in summary["ap_50"].items()),
        ("training, s", summary["train_wall_s"]),
        ("batch scoring, pictures/s", summary["batch_images_per_s"]),
        ("HTTP median latency, ms", summary["http_p50_ms"]),
        ("HTTP answers equal batch rows", "yes" if summary["http_equals_batch"] else "NO"),
        ("all in all, s", summary["total_wall_s"]),
    ]
    print_table(("what", "value"), rows)
    print(f"Report:     {Path(out) / 'report' / 'index.html'}")
    print("Next steps, on your own pictures (annotated as Pascal VOC, COCO, YOLO or CSV):")
    print("  appliance train DATA --out model.safetensors")
    print(f"  appliance score {Path(out) / 'model.safetensors'} PICTURES SCORES")
    print(f"  appliance serve {Path(out) / 'model.safetensors'}")
