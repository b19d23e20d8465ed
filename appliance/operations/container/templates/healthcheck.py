"""Whether the service in this container answers: exit code 0 or 1, as HEALTHCHECK wants it."""

import os
import sys
import urllib.request

HOSTS = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1"}  # noqa: S104 - read, not listened on


def main() -> int:
    """Asks once."""
    host = os.environ.get("APPLIANCE_HOST", "")
    url = f"http://{HOSTS.get(host, host)}:{os.environ.get('APPLIANCE_PORT', '8000')}/readyz"
    try:
        with urllib.request.urlopen(url, timeout=4):
            return 0
    except OSError as error:
        sys.stderr.write(f"{url}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
