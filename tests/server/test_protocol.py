"""The Open Inference Protocol, spoken by ourselves and by Triton's own client."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest
import tritonclient.http as triton
from tests.server.harness import (
    INFER,
    SCHEMA,
    Client,
    Probe,
    Serve,
    expected,
    infer_body,
    linear_model,
)

from headway.core import Dense, Plan, Schema, Scope, Task
from headway.server import BackgroundServer, ServedModel, ServerSettings

GOOD = expected(0.5, [3, 4], [([0.25, 0.25], 0, [1]), ([0.25, 0.25], 1, [1])])


@pytest.fixture
def triton_client(url: str) -> Any:
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    yield client
    client.close()


def tensors(rows: int, *, binary: bool) -> list[Any]:
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "age": np.array([[0.5]], np.float32),
        "likes": np.array([[3, 4, -1]], np.int64),
        "price": np.full((rows, 2), 0.25, np.float32),
        "item": np.arange(rows, dtype=np.int64),
        "tags": np.tile(np.array([1, -1], np.int64), (rows, 1)),
    }
    made = []
    for name, array in arrays.items():
        kind = "FP32" if array.dtype == np.float32 else "INT64"
        tensor = triton.InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array, binary_data=binary)
        made.append(tensor)
    return made


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
def test_tritons_client_infers_unchanged(
    triton_client: Any, binary: bool, binary_output: bool
) -> None:
    wanted = [triton.InferRequestedOutput("scores", binary_data=binary_output)]
    result = triton_client.infer("linear", tensors(2, binary=binary), outputs=wanted)
    assert np.allclose(result.as_numpy("scores"), GOOD, atol=1e-6)


def test_tritons_client_gets_binary_scores_by_default(triton_client: Any) -> None:
    result = triton_client.infer(
        "linear", tensors(2, binary=True), model_version="1", request_id="q1", timeout=500_000
    )
    assert result.get_response()["id"] == "q1"
    assert result.get_response()["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert np.allclose(result.as_numpy("scores"), GOOD, atol=1e-6)


def test_tritons_client_reads_what_the_server_says_about_itself(triton_client: Any) -> None:
    assert triton_client.is_server_live()
    assert triton_client.is_server_ready()
    assert triton_client.is_model_ready("linear")
    assert triton_client.is_model_ready("linear", "1")
    assert not triton_client.is_model_ready("linear", "2")
    assert "binary_tensor_data" in triton_client.get_server_metadata()["extensions"]
    metadata = triton_client.get_model_metadata("linear")
    assert [i["name"] for i in metadata["inputs"]] == [f.name for f in SCHEMA.features]
    assert metadata["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1]}]
    config = triton_client.get_model_config("linear", "1")
    assert config["input"][0] == {"name": "age", "data_type": "TYPE_FP32", "dims": [1, 1]}
    stated = config["parameters"]["headway_schema"]["string_value"]
    assert msgspec.json.decode(stated, type=Schema) == SCHEMA
    (entry,) = triton_client.get_model_repository_index()
    assert entry["state"] == "READY"
    triton_client.infer("linear", tensors(3, binary=True))
    (stats,) = triton_client.get_inference_statistics("linear")["model_stats"]
    assert stats["inference_stats"]["success"]["count"] >= 1


def test_tritons_client_is_told_what_is_wrong(triton_client: Any) -> None:
    with pytest.raises(triton.InferenceServerException, match="missing input 'tags'"):
        triton_client.infer("linear", tensors(2, binary=True)[:-1])
    with pytest.raises(triton.InferenceServerException, match="does not offer") as failed:
        triton_client.load_model("linear")
    assert failed.value.status() == "501"


def test_plain_json_is_answered_in_json(client: Client) -> None:
    answer = client.post(INFER, infer_body())
    assert answer.status == 200
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("scores", "FP32", [2])
    assert np.allclose(output["data"], GOOD, atol=1e-6)
    assert answer.json()["model_name"] == "linear"
    assert answer.json()["model_version"] == "1"
    assert "server" not in answer.headers


def test_json_data_may_be_nested_or_flat(client: Client) -> None:
    flat = {"datatype": "INT64", "shape": [2, 2], "data": [1, -1, 1, -1]}
    nested = {"datatype": "INT64", "shape": [2, 2], "data": [[1, -1], [1, -1]]}
    answers = [client.post(INFER, infer_body(tags=tags)).body for tags in (flat, nested)]
    assert answers[0] == answers[1]


def test_padding_is_dropped_and_rows_may_be_empty(client: Client) -> None:
    bare = {"datatype": "INT64", "shape": [1, 0], "data": []}
    padded = {"datatype": "INT64", "shape": [1, 4], "data": [-1] * 4}
    answers = [client.post(INFER, infer_body(likes=likes)).json() for likes in (bare, padded)]
    assert answers[0] == answers[1]
    want = expected(0.5, [], [([0.25, 0.25], 0, [1]), ([0.25, 0.25], 1, [1])])
    assert np.allclose(answers[0]["outputs"][0]["data"], want, atol=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 17, 1000])
def test_any_number_of_candidates_up_to_the_limit_is_scored(client: Client, rows: int) -> None:
    item = {"datatype": "INT64", "shape": [rows], "data": [1] * rows}
    answer = client.post(INFER, infer_body(rows, item=item))
    assert answer.status == 200
    assert answer.json()["outputs"][0]["shape"] == [rows]
    assert len(answer.json()["outputs"][0]["data"]) == rows


def test_tensors_at_odd_addresses_are_read_right(client: Client) -> None:
    head = infer_body(1)
    blob = b""
    arrays = [
        np.array([0.5], "<f4"),
        np.array([3, 4, -1, -1], "<i8"),
        np.array([0.25, 0.25], "<f4"),
        np.array([7], "<i8"),
        np.array([1, -1], "<i8"),
    ]
    for tensor, array in zip(head["inputs"], arrays, strict=True):
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": array.nbytes}
        blob += array.tobytes()
    text = json.dumps(head).encode()
    for pad in range(8):
        start = text + b" " * pad
        answer = client.post(
            INFER, start + blob, {"Inference-Header-Content-Length": str(len(start))}
        )
        assert answer.status == 200, answer.body
        assert np.allclose(
            answer.json()["outputs"][0]["data"],
            expected(0.5, [3, 4], [([0.25, 0.25], 7, [1])]),
            atol=1e-6,
        )


def test_split_queries_are_put_together_and_their_tower_runs_once(serve: Serve) -> None:
    probe = Probe()
    plan = Plan(workers=2, split_size=3)
    client, _ = serve(linear_model(plan=plan, probe=probe))
    answer = client.post(INFER, infer_body(20))
    want = expected(0.5, [3, 4], [([0.25, 0.25], i, [1]) for i in range(20)])
    assert np.allclose(answer.json()["outputs"][0]["data"], want, atol=1e-6)
    assert probe.queries == 1
    assert sorted(probe.batches) == [2, 3, 3, 3, 3, 3, 3]


class TwoTasks:
    """Gives its only feature as both raw outputs."""

    def query(self, context: Any) -> Any:
        return context["x"][0, 0]

    def candidates(self, pieces: Any) -> None:
        for piece in pieces:
            piece.out[piece.start : piece.stop] = piece.hidden

    def close(self) -> None:
        pass


def test_a_model_without_candidate_features_has_one_candidate_and_links_are_per_task(
    serve: Serve,
) -> None:
    schema = Schema(
        features=(Dense(name="x", scope=Scope.QUERY),),
        tables=(),
        tasks=(Task(name="click"), Task(name="price", link="identity")),  # type: ignore[arg-type]
    )
    client, _ = serve(ServedModel("two", schema, Plan(), TwoTasks))
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [0.0]}]}
    (output,) = client.post("/v2/models/two/infer", body).json()["outputs"]
    assert output["shape"] == [1, 2]
    assert output["data"] == [0.5, 0.0]
    metadata = client.get("/v2/models/two").json()
    assert metadata["outputs"][0]["shape"] == [-1, 2]


def test_several_models_are_served_side_by_side() -> None:
    models = [linear_model("a"), linear_model("b")]
    with BackgroundServer(models, ServerSettings(port=0)) as server:
        client = Client(server.url)
        for name in "ab":
            assert client.post(f"/v2/models/{name}/infer", infer_body()).status == 200
        assert "['a', 'b']" in client.get("/v2/models/c").error


def test_metrics_count_queries_candidates_and_triton_aliases(serve: Serve) -> None:
    client, _ = serve(linear_model())
    client.post(INFER, infer_body(5))
    client.post(INFER, infer_body(7))
    client.post(INFER, {"inputs": []})
    lines = client.get("/metrics").body.decode().splitlines()
    for line in (
        'headway_queries_total{model="linear",outcome="done"} 2.0',
        'headway_queries_total{model="linear",outcome="invalid"} 1.0',
        'headway_candidates_total{model="linear"} 12.0',
        'headway_latency_seconds_count{model="linear"} 2.0',
        'headway_batch_candidates_sum{model="linear"} 12.0',
        'headway_queue_candidates{model="linear"} 0.0',
        'headway_in_flight_queries{model="linear"} 0.0',
        'nv_inference_request_success{model="linear",version="1"} 2.0',
        'nv_inference_count{model="linear",version="1"} 12.0',
    ):
        assert line in lines
    (busy,) = [float(x.split()[1]) for x in lines if x.startswith("headway_worker_busy_seconds")]
    assert busy > 0
