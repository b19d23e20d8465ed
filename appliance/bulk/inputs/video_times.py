"""Which frames a video has, and the time at which each is shown.

Decoding all of a video takes as long as scoring it, so where its packets give the times of its frames, a few
frames from the beginning are decoded to see that they tell the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import islice, pairwise

import torch

from appliance.bulk.inputs.video_decoding import OpenVideo, Walk, rgb_pixels
from appliance.images.decoding import ImageLimits

_CHECKED_FRAMES = 32
# Of two fields to a frame, each in a packet of its own, half the packets give no frame.
_LEAST_SHARE_OF_FRAMES = 2 / 3
# Looked through for the second keyframe.
_MOST_FRAMES_TO_KEY = 1000


def frame_times(uri: str) -> Sequence[int | None]:
    """When each frame is shown, in units of the file; None for all where frames must be counted.

    Raises:
        ConfigError: PyAV is not installed.
        StorageError: The file cannot be read, or is no video.
    """
    of_packets, second_key = _times_of_packets(uri)
    times = _shown(uri, of_packets) if _rising(of_packets) else []
    if not times:
        with _opened(uri) as video:
            times = [frame.pts for frame in video.frames()]
    if _rising(times) and (second_key is None or _is_whole(uri, second_key)):
        return times
    return [None] * len(times)


def _times_of_packets(uri: str) -> tuple[list[int | None], int | None]:
    """The times of all packets without decoding one, in their order, and that of the second keyframe.

    No times where the file goes back in time, as one does that was put together from several.
    """
    times, decoding_times, keys = [], [], []
    with _opened(uri) as video:
        for packet in video.packets():
            if packet.is_keyframe:
                keys.append(packet.pts)
            if packet.dts is not None:
                decoding_times.append(packet.dts)
            if not packet.is_discard:  # those are needed to decode others, but not shown
                times.append(packet.pts)
    reliable = _rising(decoding_times) and None not in times
    known: list[int | None] = [*sorted(time for time in times if time is not None)]
    return known if reliable else [], keys[1] if len(keys) > 1 else None


def _shown(uri: str, times: list[int | None]) -> list[int | None]:
    """The times without those before the first frame; none if the first frames are not what they promise.

    A recording that was cut begins with packets that need what is gone. Later, a frame may be damaged.
    """
    with _opened(uri) as video:
        shown = [frame.pts for frame in islice(video.frames(), _CHECKED_FRAMES)]
    number = {time: index for index, time in enumerate(times)}
    found = [number[time] for time in shown if time in number]
    if not found or len(found) < len(shown) or not _rising(found):
        return []
    promised = found[-1] - found[0] + 1
    return times[found[0] :] if len(found) >= _LEAST_SHARE_OF_FRAMES * promised else []


def _is_whole(uri: str, key: int) -> bool:
    """Whether a keyframe, decoded first, is the same as when it is decoded after all before it.

    Some encoders renew a picture strip by strip, and call it a keyframe where the first strip is new.
    """
    with _opened(uri) as video:
        frames = islice(video.frames(), _MOST_FRAMES_TO_KEY)
        expected = Walk.by_time(frames).forward(key)
    if expected is None:
        return True  # damaged, or far off: nothing is known against it
    with _opened(uri) as video:
        video.skip_to(key)
        found = Walk.by_time(video.frames()).forward(key)
        return found is not None and torch.equal(rgb_pixels(found), rgb_pixels(expected))


def _opened(uri: str) -> closing[OpenVideo]:
    return closing(OpenVideo(uri, ImageLimits().max_pixels))


def _rising(numbers: Sequence[int | None]) -> bool:
    known = [number for number in numbers if number is not None]
    return len(known) == len(numbers) and all(a < b for a, b in pairwise(known))
