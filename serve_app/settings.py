"""The settings of one service, the same for `serve run`, `serve deploy`, `appliance serve` and tests.

Where the service listens, and under which name and prefix, is the business of whoever starts it
(`start.start_service`, the flags of `serve run`, the top of `config.yaml`): a setting here would be
ignored by two of the three, so it does not exist.
"""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from appliance.access_keys import RateLimit
from appliance.errors import ConfigError
from serve_app.security.allowed_urls import AllowedUrls


class ServiceSettings(BaseModel):
    """What to serve, with how many replicas, within which limits.

    Values may come as text, as `serve run serve_app.app:build_app model=... num_cpus=2` gives them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str = Field(min_length=1, description="Path or URI of the model file, or a reference.")
    models: dict[str, str] = Field(
        {}, description="Further models by name; as text: name=path,name=path."
    )
    canary_model: str | None = Field(
        None,
        min_length=1,
        description="Another model that answers some of the requests for `model`.",
    )
    canary_percent: float = Field(
        10,
        gt=0,
        lt=100,
        description="How many of the requests; without canary_model, of no effect.",
    )
    max_loaded_models: int = Field(
        2, ge=1, description="Most of the further models that a replica holds in memory."
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    gpu_jpeg: bool = Field(
        False, description="Decode JPEGs on the GPU; needs the extra of that name."
    )
    score_threshold: float | None = Field(
        None, ge=0, le=1, description="Lowest score ever answered; None takes the model's own."
    )
    max_detections: int | None = Field(
        None, ge=1, le=10_000, description="Most detections a picture; None takes the model's own."
    )

    num_replicas: int | None = Field(
        None, ge=1, description="A fixed number of replicas; None means one, or autoscaling."
    )
    min_replicas: int | None = Field(None, ge=0, description="Autoscaling: 0 scales to nothing.")
    max_replicas: int | None = Field(None, ge=1, description="Autoscaling: its upper end.")
    target_ongoing_requests: float = Field(
        4, gt=0, description="Autoscaling: requests in work per replica to aim at."
    )
    upscale_delay_s: float = Field(1, ge=0, description="Autoscaling: load must last so long.")
    downscale_delay_s: float = Field(60, ge=0, description="Autoscaling: calm must last so long.")
    num_cpus: float = Field(1, gt=0, description="CPUs reserved per replica.")
    num_gpus: float = Field(0, ge=0, description="GPUs reserved per replica.")
    num_threads: int | None = Field(
        None, ge=1, description="Threads of the model; None takes as many as the replica has CPUs."
    )

    max_batch_size: int | None = Field(
        None, ge=1, description="Most pictures of a batch; None takes what the model runs at once."
    )
    batch_wait_timeout_s: float = Field(
        0.005, ge=0, le=1, description="Longest wait for pictures that are still being decoded."
    )
    max_ongoing_requests: int = Field(16, ge=1, description="Requests a replica works on at once.")
    max_queued_requests: int = Field(
        32, ge=0, description="Further requests that may wait in a replica; beyond, 503."
    )
    request_timeout_s: float = Field(30, gt=0, description="Longest time for one request.")

    max_streams: int = Field(
        8, ge=1, description="Streams that a replica keeps open at once; beyond, 503."
    )
    stream_idle_timeout_s: float = Field(
        60, gt=0, description="A stream that sends nothing for so long is ended."
    )

    stuck_after_s: float | None = Field(
        None,
        gt=0,
        description="A batch that takes longer hangs: the replica is not ready and Serve replaces it; "
        "None takes request_timeout_s, after which nobody waits for it.",
    )
    health_probe_after_s: float = Field(
        30,
        ge=0,
        description="A replica that has answered nothing for so long is asked about a built-in picture "
        "when its health is looked at; 0: only after a failure.",
    )

    access_log: str = Field(
        "-",
        description="Where a JSON line a request goes: a file, - for standard error, or nothing.",
    )
    open_metrics: bool = Field(
        False, description="Whether GET /metrics needs no key where scoring needs one."
    )
    metrics_dir: str | None = Field(
        None,
        description="Folder where the replicas of a machine share their counts; None takes one in "
        "/dev/shm under Serve, and none elsewhere.",
    )
    proxies_in_front: int = Field(
        0,
        ge=0,
        description="How many trusted proxies add to X-Forwarded-For, for the addresses of the access log.",
    )

    max_body_bytes: int = Field(32 * 2**20, ge=1, description="Largest request body.")
    max_bodies_bytes: int = Field(
        256 * 2**20, ge=1, description="Memory of a replica for all bodies together; beyond, 503."
    )
    max_pixels: int = Field(50_000_000, ge=1, description="Largest picture, width x height.")
    max_images_per_request: int = Field(16, ge=1, description="Longest list for POST /score.")

    keys: tuple[SecretStr, ...] = Field(
        (), description="Bearer keys, any of which opens scoring; none leaves it open."
    )
    key_file: str | None = Field(
        None,
        min_length=1,
        description="File of `appliance keys`; on every machine with replicas; read again as it changes.",
    )
    key_rate: str | None = Field(
        None,
        description="Requests that a key without a limit of its own may make, in each replica: 20/s, 100/min.",
    )
    no_keys: bool = Field(False, description="Listen beyond loopback without any key.")

    trainer: bool = Field(
        False, description="Train on the cluster when holders of an admin key ask; needs key_file."
    )
    trainer_dir: str | None = Field(
        None,
        min_length=1,
        description="Folder of what is trained: runs and models; seen by all nodes. None: trainings/, beside the "
        "registry of this user.",
    )
    registry: str | None = Field(
        None,
        min_length=1,
        description="Registry of models that the trainer adds to; None takes APPLIANCE_REGISTRY, or one at home.",
    )

    url_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts to fetch pictures from when clients send https URLs: a.example.com, "
        "*.example.com, a.example.com:8443; none switches that off.",
    )
    max_url_bytes: int = Field(16 * 2**20, ge=1, description="Largest picture fetched from a URL.")
    url_timeout_s: float = Field(10, gt=0, description="Longest time to fetch a picture.")

    @field_validator("models", mode="before")
    @classmethod
    def _split_models(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",")]
        if not all(name and path for name, _, path in pairs):
            raise ValueError("expected name=path, several separated by commas")
        return {name.strip(): path.strip() for name, _, path in pairs}

    @field_validator("keys", "url_hosts", mode="before")
    @classmethod
    def _split_texts(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("keys")
    @classmethod
    def _check_keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(key.get_secret_value().strip() for key in keys):
            raise ValueError("a key is empty")
        return keys

    @field_validator("key_rate")
    @classmethod
    def _check_rate(cls, rate: str | None) -> str | None:
        try:
            return None if rate is None else RateLimit.parse(rate).text
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @field_validator("url_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        AllowedUrls(hosts)
        return hosts

    @model_validator(mode="after")
    def _check_no_keys(self) -> ServiceSettings:
        if self.no_keys and (self.keys or self.key_file):
            raise ValueError("no_keys goes with neither keys nor key_file")
        return self

    @model_validator(mode="after")
    def _check_replicas(self) -> ServiceSettings:
        if (self.min_replicas is None) != (self.max_replicas is None):
            raise ValueError("min_replicas and max_replicas go together")
        if self.min_replicas is not None and self.max_replicas is not None:
            if self.num_replicas is not None:
                raise ValueError("give either num_replicas, or min_replicas and max_replicas")
            if self.min_replicas > self.max_replicas:
                raise ValueError("min_replicas exceeds max_replicas")
        return self

    @model_validator(mode="after")
    def _check_gpu_jpeg(self) -> ServiceSettings:
        # A replica sees only the GPUs that are reserved for it.
        if self.gpu_jpeg and (self.num_gpus == 0 or self.device == "cpu"):
            raise ValueError("gpu_jpeg needs num_gpus above 0, and a device other than cpu")
        return self

    @property
    def model_threads(self) -> int:
        """Threads of the model: given, or the CPUs of a replica rounded up."""
        return self.num_threads or math.ceil(self.num_cpus)

    @property
    def decode_threads(self) -> int:
        """Threads that decode uploads, so that one large picture does not hold up the next."""
        return max(2, math.ceil(self.num_cpus))
