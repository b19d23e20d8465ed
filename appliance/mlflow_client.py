"""MLflow's own client, which comes with the extra `mlflow` and is imported only by whoever asks for it."""

from __future__ import annotations

import os
from typing import Any

from appliance.errors import ConfigError


def mlflow_client(address: str, *, otherwise: str) -> Any:
    """The module `mlflow`, ready for a server, database or folder.

    Args:
        address: Of that.
        otherwise: What to do instead of installing it, after "or".

    Raises:
        ConfigError: MLflow is not installed.
    """
    if "://" not in address or address.startswith("file:"):
        # MLflow would rather have a database, but the user has named a folder.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    try:
        import mlflow
        import mlflow.artifacts
        import mlflow.entities
        import mlflow.exceptions
    except ModuleNotFoundError as missing:
        raise ConfigError(
            "MLflow is not installed",
            got=f"no module {missing.name!r}",
            hint=f"Install it with `pip install mlflow-skinny`, or {otherwise}",
        ) from None
    return mlflow


def first_line(error: Exception) -> str:
    """What MLflow says of a failure, without the page of a traceback that may follow."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
