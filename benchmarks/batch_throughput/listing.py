"""A store that has a million keys to list and nothing behind them.

    python -m benchmarks.batch_throughput.listing KEYS

lists it as a job does and prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from appliance.bulk.inputs.listing import read_part, write_listing
from appliance.bulk.inputs.opening import list_input

SCHEME = "simulated"
_IMAGES_PER_PART = 1024


class SimulatedStore(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Answers one request, the recursive listing of a prefix; KEYS is the number in the path."""

    protocol = SCHEME

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Every path is a folder."""
        return {"name": path, "type": "directory", "size": 0}

    def find(self, path: str, **_: Any) -> dict[str, dict[str, Any]]:
        """Names in folders of a thousand, in no order."""
        keys = int(path.rpartition("-")[2])
        names = (f"{path}/{i % 1000:03d}/{i * 7919 % keys:09d}.jpg" for i in range(keys))
        return {name: {"name": name, "type": "file", "size": 1} for name in names}


def main() -> None:
    """Lists and cuts into parts."""
    parser = argparse.ArgumentParser(description="Times the listing of many keys.")
    parser.add_argument("keys", type=int)
    options = parser.parse_args()
    fsspec.register_implementation(SCHEME, SimulatedStore)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    listing = list_input(f"{SCHEME}://keys-{options.keys}")
    listed = time.perf_counter()
    digest = listing.sha256()
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        parts = write_listing(file.name, listing, _IMAGES_PER_PART)
        written = time.perf_counter()
        last = read_part(file.name, parts - 1)
    print(
        json.dumps(
            {
                "keys": len(listing),
                "parts": parts,
                "pictures_of_the_last_part": len(last),
                "sha256": digest,
                "listing_s": listed - started,
                "writing_s": written - listed,
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                "peak_before_mib": before_kib // 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
