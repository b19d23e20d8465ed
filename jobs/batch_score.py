"""`python -m jobs.batch_score`: the command `appliance score` as an entry point for Ray jobs.

ray job submit --working-dir . -- python -m jobs.batch_score MODEL INPUT OUTPUT --json
"""

from __future__ import annotations

from appliance.cli.main import run_command
from appliance.cli.score import score


def main() -> None:
    """Runs the command."""
    run_command(score)


if __name__ == "__main__":
    main()
