"""The same picture once more, re-encoded or resized: found by how it looks, not by its bytes.

A picture's look is a difference hash of 64 bits (is each of 8 x 8 places brighter than its left neighbour?)
and a thumbnail of 16 x 16 colours. Hashes within 8 bits are candidates; they are the same picture where the
thumbnails differ by at most 5 of 255 on average and by at most 36 at any place.

Measured on 20 photographs of one fridge and 140 drawn shelf scenes, each pair of them, and on 1,600 copies at
0.5 to 1 times their size and JPEG qualities 30 to 95, of which all are found:

| | bits | mean difference | greatest difference |
|---|---|---|---|
| copies of one picture, at most | 4 | 2.0 | 18 |
| allowed | 8 | 5 | 36 |
| two pictures, at least | 9 | 10.4 | 71 |

Copies that were cropped, mirrored or turned are not found, and what differs only in something smaller than
a sixteenth of the picture counts as the same: frames of a film, for instance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from appliance.annotations.checks.findings import Finding

_THUMBNAIL_PX = 16
_MOST_BITS = 8
_MOST_MEAN_DIFFERENCE = 5.0
_MOST_DIFFERENCE = 36
# A copy keeps its width to height but for rounding, here on at least 64 pixels.
_MOST_STRETCH = 0.03
# Of thousands of candidates, which frames of a film are, only the nearest are looked at: time stays bounded.
_MOST_CANDIDATES = 256
_PAIRS_AT_ONCE = 500_000
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class Look:
    """How a picture looks.

    Attributes:
        hash_64: Its difference hash.
        thumbnail: uint8 `[3, 16, 16]`.
        aspect: Width by height.
    """

    hash_64: int
    thumbnail: npt.NDArray[np.uint8]
    aspect: float

    @classmethod
    def of(cls, pixels: torch.Tensor) -> Look:
        """The look of a decoded picture, uint8 `[3, H, W]`."""
        colours = pixels.float()
        grey = (colours * torch.tensor(_GREY).view(3, 1, 1)).sum(0, keepdim=True)
        steps = _resized(grey, (8, 9))[0].diff(dim=1) > 0
        thumbnail = _resized(colours, (_THUMBNAIL_PX, _THUMBNAIL_PX)).round().clamp(0, 255)
        return cls(
            hash_64=int.from_bytes(np.packbits(steps.numpy()).tobytes()),
            thumbnail=thumbnail.to(torch.uint8).numpy(),
            aspect=pixels.shape[2] / pixels.shape[1],
        )


@dataclass(frozen=True)
class _Place:
    part: str
    path: str
    name: str


@dataclass
class SeenLooks:
    """The looks of all pictures so far: about a kilobyte each."""

    _places: list[_Place] = field(default_factory=list)
    _looks: list[Look] = field(default_factory=list)
    _known: set[bytes] = field(default_factory=set)

    def add(self, part: str, path: str, name: str, pixels_hash: bytes, look: Look | None) -> None:
        """Remembers a picture; not one whose very pixels were there before, or that has a single colour."""
        if look is None or pixels_hash in self._known:
            return
        self._known.add(pixels_hash)
        self._places.append(_Place(part, path, name))
        self._looks.append(look)

    def findings(self) -> Iterator[Finding]:
        """One finding for each picture that looks like an earlier one, of another part if there is such."""
        for index, earlier in self._alike():
            place = self._places[index]
            others = [self._places[other] for other in earlier]
            elsewhere = next((other for other in others if other.part != place.part), None)
            if elsewhere is None:
                what = f"looks like {others[0].path}: the same picture, re-encoded or resized?"
            else:
                what = (
                    f"looks like {elsewhere.path} of {elsewhere.part}: if it is the same picture, "
                    f"re-encoded or resized, {place.part} measures too well"
                )
            yield Finding("picture-look-alike", place.path, what, place.part, place.name)

    def _alike(self) -> Iterator[tuple[int, list[int]]]:
        """Each picture with an earlier one that looks the same, and those, the most alike first."""
        count = len(self._looks)
        if count < 2:
            return
        hashes = np.array([look.hash_64 for look in self._looks], np.uint64)
        thumbnails = np.stack([look.thumbnail for look in self._looks]).reshape(count, -1)
        aspects = np.array([look.aspect for look in self._looks])
        rows = max(1, _PAIRS_AT_ONCE // count)
        for start in range(1, count, rows):
            end = min(start + rows, count)
            bits = np.bitwise_count(hashes[start:end, None] ^ hashes[None, :end])
            for row in np.flatnonzero((bits <= _MOST_BITS).sum(axis=1) > 1):
                index = start + int(row)
                near = np.flatnonzero(bits[row, :index] <= _MOST_BITS)
                near = near[np.argsort(bits[row, near], kind="stable")][:_MOST_CANDIDATES]
                difference = np.abs(thumbnails[near].astype(np.int16) - thumbnails[index])
                mean = difference.mean(axis=1)
                same = (
                    (mean <= _MOST_MEAN_DIFFERENCE)
                    & (difference.max(axis=1, initial=0) <= _MOST_DIFFERENCE)
                    & (np.abs(aspects[near] / aspects[index] - 1) <= _MOST_STRETCH)
                )
                if same.any():
                    yield index, near[same][np.argsort(mean[same], kind="stable")].tolist()


def _resized(planes: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    """float32 `[C, H, W]` to `size_hw`, every pixel counted."""
    return F.interpolate(planes[None], size=size_hw, mode="bilinear", antialias=True)[0]
