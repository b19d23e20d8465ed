"""Load for a service, as users of Locust know it.

    locust -f benchmarks/locustfile.py --host http://127.0.0.1:8000             # with its page
    locust -f benchmarks/locustfile.py --host URL --headless -u 8 -t 1m
    locust -f benchmarks/locustfile.py --host URL --headless -u 20 -t 10m --shape spike
    locust -f benchmarks/locustfile.py --host URL --headless -u 4 -t 1m --tags infer stream

Each user has one connection and sends one request after the other (`--think` seconds between them). Every
answer is checked: what is in it, that it is of this picture, and that later answers find the same. Pictures
come from `--pictures DIR` in the sizes of `--sizes`; without a folder, scenes are drawn. A key is taken from
APPLIANCE_KEY, or several by commas, one for each user in turn.

How the rate that a service can take is measured, which needs another kind of load: `appliance bench online`.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from pathlib import Path
from typing import Any, NoReturn

from locust import events, tag, task
from locust.env import Environment

from appliance.errors import ApplianceError
from benchmarks.online.pictures import DEFAULT_SIZES, PictureMix, sample_folder
from benchmarks.online.protocols import DETECT, INFER, SCORE, STREAM
from benchmarks.online.shapes import SHAPES, asked_shape
from benchmarks.online.target import Target
from benchmarks.online.users import ServiceUser, Work

logger = logging.getLogger(__name__)


class RawJpegUser(ServiceUser):
    """Posts a JPEG to `/v1/detect`."""

    weight = 5

    @tag("detect")
    @task
    def detect(self) -> None:
        """One picture."""
        self.ask(DETECT)


class CompatibilityUser(ServiceUser):
    """Asks the endpoint of the 2018 package."""

    weight = 2

    @tag("score")
    @task
    def score(self) -> None:
        """One picture."""
        self.ask(SCORE)


class InferenceProtocolUser(ServiceUser):
    """Asks by the Open Inference Protocol, as Triton's clients do."""

    weight = 2

    @tag("infer")
    @task
    def infer(self) -> None:
        """One picture."""
        self.ask(INFER)


class StreamUser(ServiceUser):
    """Streams pictures as lines of JSON."""

    weight = 1

    @tag("stream")
    @task
    def stream(self) -> None:
        """A few pictures in one request."""
        self.ask(STREAM)


# Locust takes every class of a shape that it finds in this file, whether or not it was asked for.
if (_asked := asked_shape()) is not None:
    Shape = SHAPES[_asked]


@events.init_command_line_parser.add_listener
def add_options(parser: argparse.ArgumentParser, **_: Any) -> None:
    """Adds our options to Locust's."""
    own: dict[str, Any] = {"include_in_web_ui": False}
    parser.add_argument(
        "--pictures", metavar="DIR", help="folder of pictures; else scenes are drawn"
    )
    parser.add_argument(
        "--sizes",
        default=DEFAULT_SIZES,
        help="longer sides in pixels with their weights, or `own` for the files as they are",
    )
    parser.add_argument(
        "--think", type=_pause_s, default=0.0, help="mean pause of a user in seconds"
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), help="how the load changes", **own)


@events.init.add_listener
def keep_tagged(environment: Environment, **_: Any) -> None:
    """Leaves out the users whose only task no tag has chosen: Locust itself would start them to do nothing."""
    options = environment.parsed_options
    chosen, left_out = set(options.tags or ()), set(options.exclude_tags or ())

    def stays(user: type[ServiceUser]) -> bool:
        tags = set().union(*(one.locust_tag_set for one in user.tasks))
        return not tags & left_out and (not chosen or bool(tags & chosen))

    environment.user_classes = [user for user in environment.user_classes if stays(user)]
    if not environment.user_classes:
        _stop("No kind of user is left: expected tags of detect, score, infer, stream")


@events.init.add_listener
def prepare_early(environment: Environment, **_: Any) -> None:
    """Without a page all is known now, and reading pictures takes nothing of the time of the run."""
    if environment.parsed_options.headless:
        if not environment.host:
            _stop("No address of a service: give --host, such as --host http://127.0.0.1:8000")
        try:
            _prepare(environment)
        except ApplianceError as error:
            _stop(str(error))


@events.test_start.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """What the page has asked for, before the first user begins."""
    try:
        _prepare(environment)
    except ApplianceError as error:
        logger.error("error: %s", error)
        environment.process_exit_code = 2
        environment.runner.quit()


def _prepare(environment: Environment) -> None:
    options = environment.parsed_options
    asked = (environment.host, options.pictures, options.sizes, options.think)
    if ServiceUser.work is None or ServiceUser.work.asked != asked:
        folder = Path(options.pictures) if options.pictures else sample_folder()
        mix = PictureMix.of_folder(folder, options.sizes)
        target = Target.of(environment.host or "", None)
        ServiceUser.work = Work(target, mix, options.think, asked)


def _pause_s(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds from 0 on, got {text}")
    return value


def _stop(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)
