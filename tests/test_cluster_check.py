"""`appliance cluster check`: on the cluster of the suite, and against servers that ask for a token or do not."""

from __future__ import annotations

import http.server
import json
import re
import threading
from contextlib import contextmanager

import ray

from appliance.on_ray import cluster_check
from appliance.on_ray.cluster_check import check_cluster, faults_of, our_versions, protection_of


@contextmanager
def answering(status: int):
    """A dashboard of which only the status of its answers is known."""

    class Dashboard(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Dashboard)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_nodes_and_what_would_be_used_of_them(ray_cluster, run_appliance, capsys):
    assert run_appliance("cluster", "check") == 0
    shown = capsys.readouterr().out
    assert re.search(r"127\.0\.0\.1 \(head\) +│ +4 │ +0 ", shown)
    assert "Batch scoring: 4 workers of 1 CPUs each.\n" in shown
    assert "Training: --workers up to 1, with 4 CPUs each.\n" in shown
    assert shown.endswith("Dashboard and Jobs API: no dashboard.\n")
    assert run_appliance("cluster", "check", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    (node,) = document["nodes"]
    assert (document["ok"], node["cpus"], node["gpus"]) == (True, 4, 0)
    assert node["versions"] == document["ours"] == our_versions()
    assert node["memory_bytes"] > 2**28


def test_a_node_that_does_not_answer_in_time_is_wrong(ray_cluster):
    report = check_cluster(timeout_s=0)
    assert report.faults == [f"{report.nodes[0].address}: it does not answer within 0 s"]


def test_a_node_that_runs_no_tasks_is_wrong(ray_cluster):
    gone = "0" * 55 + "1"
    answers = cluster_check._ask_nodes([gone], 30)
    assert answers[gone].startswith("it does not run tasks: ")


def test_an_open_dashboard_is_wrong(ray_cluster, run_appliance, monkeypatch, capsys):
    with answering(200) as url:
        assert protection_of(url) == "open"
        monkeypatch.setenv("RAY_OVERRIDE_DASHBOARD_URL", f"http://{url}")
        assert cluster_check.dashboard_url() == url
        assert run_appliance("cluster", "check") == 1
    assert "WRONG  Whoever reaches the dashboard runs code" in capsys.readouterr().out
    assert protection_of(url) == "no answer"
    with answering(401) as url:
        assert protection_of(url) == "token"
    with answering(500) as url:
        assert protection_of(url) == "no answer"


def test_other_versions_are_told():
    ours = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.15.0"}
    assert faults_of({**ours, "python": "3.11.9"}, ours) == ()
    assert faults_of({"python": "3.12.1", "torch": "2.14.1"}, ours) == (
        "python is 3.12.1 there and 3.11.7 here",
        "ray is missing",
        "torch is 2.14.1 there and 2.15.0 here",
    )


def test_without_a_cluster_there_is_nothing_to_look_at(run_appliance, monkeypatch, capsys):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert run_appliance("cluster", "check") == 1
    assert "error: No cluster is named. Give --address host:port or auto" in capsys.readouterr().err
