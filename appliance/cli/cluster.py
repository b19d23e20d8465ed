"""`appliance cluster check|kuberay`: clusters that are the user's own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.options import AddressOption, Json
from appliance.cli.tables import print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Look at a Ray cluster, or describe one.")


@app.command()
def check(
    address: AddressOption = None,
    timeout: Annotated[
        float, typer.Option(min=1, metavar="S", help="How long the nodes may take to answer.")
    ] = 60,
    json: Json = False,
) -> None:
    """Show nodes, CPUs, GPUs, memory and versions, and what would be used; exit code 1 when something is wrong.

    Example: appliance cluster check --address auto
    """
    from appliance.on_ray.cluster_check import check_cluster, our_versions

    report = check_cluster(address, timeout_s=timeout)
    faults = report.faults
    if json:
        print_json({"ok": not faults, "faults": faults, "ours": our_versions(), **asdict(report)})
    else:
        shown = ("python", "ray", "torch")
        print_table(
            ("node", "CPUs", "GPUs", "memory, GiB", "GPU", *shown),
            [
                (
                    f"{node.address}{' (head)' if node.is_head else ''}",
                    f"{node.cpus:g}",
                    f"{node.gpus:g}",
                    f"{node.memory_bytes / 2**30:.1f}",
                    ", ".join(sorted(set(node.gpu_names))) or None,
                    *(node.versions.get(name) for name in shown),
                )
                for node in report.nodes
            ],
            dispensable=("GPU", "memory, GiB", "python"),
        )
        batch, each = report.batch, report.training_cpus
        on_gpus = f" and {batch.gpus:g} GPU" if batch.gpus else ""
        print(f"Batch scoring: {batch.workers} workers of {batch.cpus} CPUs{on_gpus} each.")
        print(f"Training: --workers up to {report.training_workers}, with {each} CPUs each.")
        print(f"Dashboard and Jobs API: {report.protection}.")
        for fault in faults:
            print(f"WRONG  {fault}.")
    if faults:
        raise typer.Exit(1)


@app.command()
def kuberay(
    image: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE", help="Image of `appliance docker`, where nodes can pull it."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="PATH", help="Model within the image, as /app/fridge-7.safetensors, or a URI."
        ),
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder to write to.")] = "kubernetes",
    name: Annotated[str, typer.Option(help="Of the service; the job is NAME-score.")] = "detection",
    gpu: Annotated[bool, typer.Option("--gpu", help="Also workers with a GPU each.")] = False,
    cpu_workers: Annotated[int, typer.Option(min=1, help="Most workers without a GPU.")] = 4,
    gpu_workers: Annotated[int, typer.Option(min=1, help="Most workers with a GPU.")] = 4,
    worker_cpus: Annotated[int, typer.Option(min=1, help="CPUs of a worker.")] = 4,
    pictures: Annotated[
        str,
        typer.Option(metavar="INPUT", help="What the job scores, as `appliance score` takes it."),
    ] = "s3://bucket/pictures/",
    scores: Annotated[
        str, typer.Option(metavar="OUTPUT", help="Where the job writes to.")
    ] = "s3://bucket/scores/",
) -> None:
    """Write a RayService and a RayJob for the KubeRay operator, commented line by line.

    Example: appliance cluster kuberay shop/fridge:7 --model /app/fridge-7.safetensors --gpu
    """
    from appliance.operations.kubernetes.manifests import KubernetesPlan, write_manifests

    plan = KubernetesPlan(
        *(image, model, name, gpu, cpu_workers, gpu_workers, worker_cpus, pictures, scores)
    )
    for file in write_manifests(plan, Path(out)):
        print(f"Wrote {file}; apply it: kubectl apply -f {file}")
