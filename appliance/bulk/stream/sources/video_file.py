"""The frames of a video file as a stream: none is left out, and none is scored twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from appliance import storage
from appliance.bulk.inputs.containers import Fetch
from appliance.bulk.inputs.listing import PictureRef
from appliance.bulk.inputs.videos import Video, list_video
from appliance.bulk.stream.ledger import Ledger, key_of
from appliance.bulk.stream.sources.arrivals import Arrival, NotYet, Source, Waiting
from appliance.bulk.stream.sources.identities import identity_of
from appliance.images.decoding import ImageLimits

_FRAMES_AT_ONCE = 256


class VideoFile(Source):
    """A video that lies complete on a disk or in a store.

    Args:
        uri: The file, absolute.
        ledger: Knows the frames that have been scored.
        limits: `max_pixels` is for frames.
        frame_every: Only every so many frames.
    """

    def __init__(self, uri: str, ledger: Ledger, *, limits: ImageLimits, frame_every: int) -> None:
        self.uri = uri
        self.in_store = storage.is_remote(uri)
        self.is_lasting, self.is_live = True, False
        self.dropped = 0
        self._ledger, self._limits, self._frame_every = ledger, limits, frame_every
        self._is_stopped = False
        self._lock = threading.Lock()
        self._left = 0
        self._came_s = time.monotonic()

    def stop(self) -> None:
        """Asks for the end."""
        self._is_stopped = True

    def arrivals(self) -> Iterator[Arrival]:
        """The frames that have not been scored, in their order."""
        identity = str(identity_of(self.uri))
        table = list_video(self.uri, self._frame_every).table
        self._left = table.num_rows
        with Video(self.uri, self._limits) as video:
            for first in range(0, table.num_rows, _FRAMES_AT_ONCE):
                rows = table.slice(first, _FRAMES_AT_ONCE).to_pylist()
                refs = {key_of(row["image_uri"], identity): PictureRef(**row) for row in rows}
                scored = self._ledger.scored(list(refs))
                wanted = [ref for key, ref in refs.items() if key not in scored]
                with self._lock:
                    self._left -= len(refs) - len(wanted)
                for ref, fetch in zip(wanted, video.read(wanted), strict=True):
                    if self._is_stopped:
                        return
                    yield self._arrival(ref, identity, fetch)

    def done(self, arrival: Arrival) -> None:
        """Counts it."""
        with self._lock:
            self._left -= 1

    def put_back(self, arrival: Arrival, why: NotYet) -> None:
        """Never asked for: each frame is scored or damaged."""
        raise NotImplementedError

    def waiting(self) -> Waiting:
        """The frames that are left, as old as the stream."""
        with self._lock:
            return Waiting(self._left, (time.monotonic() - self._came_s) if self._left else 0.0)

    def _arrival(self, ref: PictureRef, identity: str, fetch: Fetch) -> Arrival:
        return Arrival(ref.image_uri, identity, lambda: identity, fetch, time.monotonic())
