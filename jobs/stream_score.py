"""`python -m jobs.stream_score`: the command `appliance watch` as an entry point for Ray jobs.

ray job submit --working-dir . -- python -m jobs.stream_score MODEL SOURCE OUTPUT --json
"""

from __future__ import annotations

from appliance.cli.main import run_command
from appliance.cli.watch import watch


def main() -> None:
    """Runs the command."""
    run_command(watch)


if __name__ == "__main__":
    main()
