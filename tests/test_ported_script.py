"""The how-to of 2018, from annotated pictures to a web service: it runs as it stood there."""

from __future__ import annotations

import json
import runpy
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from factories import jpeg_bytes

from appliance import Deployment
from appliance.errors import ConfigError, ServiceError

SCRIPT = Path(__file__).with_name("howto_of_2018.py")


@pytest.fixture
def picture_url():
    class Picture(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.end_headers()
            self.wfile.write(jpeg_bytes((160, 120)))

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Picture) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/logo.jpg"
        server.shutdown()


def test_the_script_of_2018_runs_as_it_stood(
    ray_cluster, tiny_scenes_dir, weights_cache, picture_url, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("APPLIANCE_REGISTRY", str(tmp_path / "models"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    Path("detection/sample_data").mkdir(parents=True)
    Path("detection/sample_data/foods").symlink_to(tiny_scenes_dir)
    after = runpy.run_path(str(SCRIPT), init_globals={"PICTURE_URL": picture_url})
    said = capsys.readouterr().out
    assert "Dataset name: training_dataset" in said
    assert "overall:       : 0" in said
    assert after["n_obj"] > 0
    # The same model answers all three ways, and is gone at the end.
    scored = after["detections_dict"]
    for answer in (after["parsed_result"], json.loads(after["result_over_http"])):
        assert answer["num_detections"] == scored["num_detections"]
        assert answer["detection_classes"] == list(scored["detection_classes"])
        np.testing.assert_allclose(answer["detection_boxes"], scored["detection_boxes"], atol=1e-3)
    assert sorted(path.name for path in Path("scored_images").iterdir()) == [
        "scored_image_frozen_graph.jpg",
        "scored_image_preloaded.jpg",
        "scored_image_web.jpg",
    ]
    assert "wsdeployment" in after["deployments"]
    service = after["deploy_obj"]
    assert not service.is_existing_service()
    assert not Deployment.delete_if_service_exist("wsdeployment")
    with pytest.raises(ServiceError, match="no such deployment .*got wsdeployment.*Call deploy"):
        service.score_image("picture.jpg")
    with pytest.raises(ConfigError, match="no such deployment on this cluster"):
        service.delete()


def test_mistakes_with_a_deployment_are_told_at_once():
    with pytest.raises(ConfigError, match="The model is given twice"):
        Deployment("shelf", "a.safetensors", associated_DNNModel="b.safetensors")
    with pytest.raises(ConfigError, match="aml_env is wrong .got 'azure', expected local or clus"):
        Deployment("shelf", "a.safetensors", aml_env="azure")
    with pytest.raises(ConfigError, match="That is no name for a deployment"):
        Deployment("My shelf", "a.safetensors")


def test_here_no_deployment_runs_before_the_first(monkeypatch):
    monkeypatch.setattr("appliance.deployment.joins_a_cluster", lambda address: False)
    service = Deployment("shelf", "a.safetensors", aml_env="local")
    assert repr(service) == "Deployment('shelf')"
    assert not service.is_existing_service()
    with pytest.raises(ServiceError, match="There is no such deployment"):
        service.delete()


def test_a_deployment_that_is_there_is_deleted(monkeypatch):
    ended = []
    monkeypatch.setattr("appliance.on_ray.deployments.deployment_of", lambda *_, **__: "there")
    monkeypatch.setattr("appliance.on_ray.deployments.undeploy", lambda *of, **__: ended.append(of))
    assert Deployment.delete_if_service_exist("shelf")
    assert ended == [("shelf",)]
