"""Sends pictures to a peer and notes which answers were right; a process of its own.

    python -m benchmarks.peers.online.load URL FOLDER --asking form --expected expected.json --clients 4
    python -m benchmarks.peers.online.load URL FOLDER --asking form --expected expected.json --rate 9

The same load as `benchmarks.serving.load`. Answers are read and compared once the load is over, so that reading
takes no time of the server's. Prints one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

from benchmarks.online.checks import References
from benchmarks.online.pictures import Picture
from benchmarks.online.protocols import WrongAnswerError
from benchmarks.peers.agreement import references
from benchmarks.peers.online.asking import ASKINGS, Asking, read_answer
from benchmarks.serving.figures import OK
from benchmarks.serving.load import Load, add_load_arguments, connections, send_all


async def _run(options: argparse.Namespace) -> dict[str, Any]:
    asking = ASKINGS[options.asking]
    size_wh = (options.width, options.height)
    paths = sorted(Path(options.pictures).glob("*.jpg"))
    pictures = [Picture(path.name, path.read_bytes(), size_wh) for path in paths]
    bodies = [asking.body(picture.jpeg) for picture in pictures]
    async with connections(options.give_up_s) as session:
        load = Load(session, options.url + asking.path, bodies, asking.headers, keep_answers=True)
        told = await send_all(load, options)
    held = references(
        options.expected,
        pictures,
        score_threshold=options.score_threshold,
        max_detections=options.max_detections,
    )
    told["requests"] = [_judged(request, asking, pictures, held) for request in told["requests"]]
    return told


def _judged(
    request: dict[str, Any], asking: Asking, pictures: list[Picture], held: References
) -> dict[str, Any]:
    picture = pictures[request["index"]]
    wrong = None
    if request["status"] == OK:
        try:
            held.check(read_answer(asking, request["answer"], picture), picture)
        except WrongAnswerError as error:
            wrong = str(error)
    return {
        "start_s": round(request["start_s"], 4),
        "total_ms": round(request["total_ms"], 3),
        "status": request["status"],
        "wrong": wrong,
    }


def main() -> None:
    """Sends the load."""
    parser = argparse.ArgumentParser(description="Sends pictures to a peer.")
    add_load_arguments(parser)
    parser.add_argument("--asking", choices=ASKINGS, required=True)
    parser.add_argument("--expected", required=True, help="what plain torchvision finds, JSON")
    parser.add_argument("--width", type=int, required=True, help="of the pictures")
    parser.add_argument("--height", type=int, required=True, help="of the pictures")
    parser.add_argument("--give-up-s", type=float, default=120, help="how long a client waits")
    parser.add_argument("--score-threshold", type=float, required=True)
    parser.add_argument("--max-detections", type=int, required=True)
    print(json.dumps(asyncio.run(_run(parser.parse_args()))))


if __name__ == "__main__":
    main()
