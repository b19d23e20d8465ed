"""`python -m jobs.tune`: the command `appliance tune` as an entry point for Ray jobs.

ray job submit --working-dir . -- python -m jobs.tune ...
"""

from __future__ import annotations

from appliance.cli.main import run_command
from appliance.cli.tune import tune


def main() -> None:
    """Runs the command."""
    run_command(tune)


if __name__ == "__main__":
    main()
