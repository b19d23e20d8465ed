"""What tests of inputs share: the names in a listing, its references, and all that a container gives."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from appliance.bulk.inputs.containers import Content
from appliance.bulk.inputs.listing import Listing, PictureRef
from appliance.bulk.inputs.opening import open_container
from appliance.errors import ImageError
from appliance.images.decoding import ImageLimits


def names_of(listing: Listing) -> list[str]:
    return listing.table["image_uri"].to_pylist()


def refs_of(listing: Listing) -> list[PictureRef]:
    return [PictureRef(**row) for row in listing.table.to_pylist()]


def read_all(
    kind: str, refs: list[PictureRef], limits: ImageLimits = ImageLimits(), threads: int = 1
) -> list[Content | str]:
    """What each reference of one container gives; of one that fails, the kind of its error."""
    with open_container(kind, refs[0].container, limits) as container:
        if threads == 1:
            return [_outcome(fetch) for fetch in container.read(refs)]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(_outcome, container.read(refs)))


def _outcome(fetch):
    try:
        return fetch()
    except ImageError as error:
        return error.kind if error.where else repr(error)
