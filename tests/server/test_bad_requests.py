"""Whatever comes in, a clear 4xx goes out, and the next request is answered."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import pytest
from tests.server.harness import INFER, RANK, Client, Serve, infer_body, linear_model, read_all

from headway.core import Plan
from headway.server import ServerSettings
from headway.server.rank import RankCodec
from headway.server.tensors import InferCodec


@pytest.fixture(autouse=True)
def the_next_request_is_answered(client: Client) -> Any:
    yield
    assert client.post(INFER, infer_body()).status == 200


def tensor(datatype: str, shape: Any, data: Any) -> dict[str, Any]:
    return {"datatype": datatype, "shape": shape, "data": data}


def sized(datatype: str, shape: Any, size: Any) -> dict[str, Any]:
    return {"datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


BAD_INPUTS: list[tuple[str, dict[str, Any], str]] = [
    ("missing", {"item": None}, "missing input 'item'"),
    ("unknown", {"colour": tensor("FP32", [1], [1])}, "unknown input 'colour'"),
    ("dtype", {"item": tensor("INT32", [2], [0, 1])}, "'item' must have datatype INT64"),
    ("rank", {"item": tensor("INT64", [2, 1], [0, 1])}, "'item' must have shape [candidates]"),
    (
        "width",
        {"price": tensor("FP32", [2, 3], [0] * 6)},
        "'price' must have shape [candidates, 2]",
    ),
    ("no shape", {"item": tensor("INT64", [], [0])}, "'item' must have shape"),
    ("negative", {"item": tensor("INT64", [-1], [])}, "$.inputs[3].shape[0]"),
    ("float dim", {"item": tensor("INT64", [1.5], [])}, "$.inputs[3].shape[0]"),
    ("null", {"item": tensor("INT64", [2], None)}, "'item': data"),
    ("strings", {"item": tensor("INT64", [2], ["0", "1"])}, "'item': data"),
    ("bools", {"item": tensor("INT64", [2], [True, False])}, "'item': data"),
    ("floats as ids", {"item": tensor("INT64", [2], [0.5, 1])}, "'item': data"),
    ("too few", {"item": tensor("INT64", [2], [0])}, "'item': data has shape [1], not [2]"),
    ("ragged", {"tags": tensor("INT64", [2, 2], [[1], [1, 2]])}, "'tags': data"),
    ("regrouped", {"price": tensor("FP32", [2, 2], [[1, 2, 3, 4]])}, "'price': data has shape"),
    ("rows", {"item": tensor("INT64", [3], [0, 1, 2])}, "'item' has 3 rows, but 'price' has 2"),
    ("query rows", {"age": tensor("FP32", [2, 1], [1, 2])}, "'age' is query-level: one row"),
    (
        "too long",
        {"likes": tensor("INT64", [1, 5], [0] * 5)},
        "'likes' must have shape [1, 0 to 4]",
    ),
    (
        "id at the end",
        {"item": tensor("INT64", [2], [0, 100])},
        "id 100 is outside its table 'items'",
    ),
    ("negative id", {"item": tensor("INT64", [2], [0, -1])}, "id -1 is outside"),
    ("lowest id", {"item": tensor("INT64", [2], [0, -(2**63)])}, "is outside its table"),
    ("beyond 64 bits", {"item": tensor("INT64", [2], [0, 2**63])}, "'item': data"),
    ("bag id", {"likes": tensor("INT64", [1, 1], [[-2]])}, "'likes': id -2 is outside"),
    ("sequence id", {"tags": tensor("INT64", [2, 1], [1, 10])}, "'tags': id 10 is outside"),
    (
        "overflow to infinity",
        {"age": tensor("FP32", [1, 1], [1e39])},
        "'age' holds NaN or infinity",
    ),
    ("huge shape", {"price": tensor("FP32", [2**32, 2], [])}, "4294967296 candidates are over"),
    ("overflowing shape", {"price": sized("FP32", [2**62, 2**62], 0)}, "'price' must have shape"),
    ("many dims", {"item": tensor("INT64", [1] * 20_000, [])}, "'item' must have shape"),
    ("no bytes", {"item": sized("INT64", [2], 16)}, "'item' ends after the body does"),
    ("size lie", {"item": sized("INT64", [2], 15)}, "takes 16 bytes, not binary_data_size 15"),
    ("negative size", {"item": sized("INT64", [2], -16)}, "binary_data_size"),
    ("neither", {"item": {"datatype": "INT64", "shape": [2]}}, "neither data nor"),
]


@pytest.mark.parametrize(
    ("change", "message"), [c[1:] for c in BAD_INPUTS], ids=[c[0] for c in BAD_INPUTS]
)
def test_a_bad_input_is_refused_by_name(
    client: Client, change: dict[str, Any], message: str
) -> None:
    answer = client.post(INFER, infer_body(**change))
    assert answer.status == (413 if "over" in message else 400)
    assert message in answer.error


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "malformed"),
        (b"{", "malformed"),
        (b"[]", "Expected `object`"),
        (b'{"inputs": 3}', "$.inputs"),
        (b'{"id": 3, "inputs": []}', "$.id"),
        (b'{"id": "\xff", "inputs": []}', "UTF-8"),
        (b'{"inputs": [], "parameters": {"timeout": -1}}', "$.parameters.timeout"),
        (b'{"inputs": [], "parameters": {"timeout": "x"}}', "$.parameters.timeout"),
        (b'{"inputs": [{"name": "age", "shape": [NaN]}]}', "malformed"),
        (b'{"inputs":' + b"[" * 20_000 + b"]" * 20_000 + b"}", "malformed"),
        (b'{"x":' + b"[" * 40_000 + b"]" * 40_000 + b',"inputs":[]}', "nested too deeply"),
    ],
)
def test_a_malformed_body_is_refused(client: Client, body: bytes, message: str) -> None:
    answer = client.post(INFER, body)
    assert answer.status == 400
    assert message in answer.error


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([{"name": "logits"}], "the only one there is"),
        ([{"name": "scores"}, {"name": "scores"}], "the only one there is"),
        ([{"name": "scores", "parameters": {"classification": 3}}], "classification"),
    ],
)
def test_unknown_outputs_are_refused(client: Client, outputs: Any, message: str) -> None:
    answer = client.post(INFER, {**infer_body(), "outputs": outputs})
    assert answer.status == 400
    assert message in answer.error


def test_the_same_input_twice_is_refused(client: Client) -> None:
    body = infer_body()
    body["inputs"].append(body["inputs"][0])
    assert "'age' is given twice" in client.post(INFER, body).error


@pytest.mark.parametrize("value", ["-1", "abc", "+5", "1.5", str(2**63), "9" * 400, "", "1 2"])
def test_a_header_length_that_is_no_number_is_refused(client: Client, value: str) -> None:
    answer = client.post(INFER, infer_body(), {"Inference-Header-Content-Length": value})
    assert answer.status == 400
    assert "inference-header-content-length" in answer.error


def test_a_header_length_beyond_the_body_is_refused(client: Client) -> None:
    answer = client.post(INFER, infer_body(), {"Inference-Header-Content-Length": "99999"})
    assert answer.status == 400
    assert "more than the body's" in answer.error


def test_bytes_that_no_input_names_are_refused(client: Client) -> None:
    text = json.dumps(infer_body()).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    answer = client.post(INFER, text + b"12345678", headers)
    assert answer.status == 400
    assert "8 bytes of tensors follow the JSON, its inputs name 0" in answer.error


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, identity"])
def test_a_compressed_body_is_refused(client: Client, coding: str) -> None:
    answer = client.post(INFER, b"\x1f\x8b" * 100, {"Content-Encoding": coding})
    assert answer.status == 415
    assert "send the body plain" in answer.error


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/models/nope", 404),
        ("GET", "/v2/models/linear/versions/2", 404),
        ("POST", "/v2/models/../../etc/passwd", 404),
        ("POST", "/v2/models/%2e%2e%2fx/infer", 404),
        ("POST", "/v2/models//infer", 404),
        ("POST", "/v2/models/linear%00/infer", 404),
        ("POST", "/v2/models/" + "x" * 10_000 + "/infer", 404),
        ("POST", "/v1/rank/l%C4%B1near", 404),
        ("GET", INFER, 405),
        ("PUT", INFER, 405),
        ("POST", "/v2/health/live", 405),
        ("POST", "/v2/repository/models/linear/unload", 501),
        ("GET", "/v2/systemsharedmemory/status", 501),
    ],
)
def test_a_route_that_is_not_there_is_named(
    client: Client, method: str, path: str, status: int
) -> None:
    answer = client.call(method, path)
    assert answer.status == status
    assert len(answer.error) < 600


def request(*headers: str, body: bytes = b"", path: str = INFER) -> bytes:
    head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", "Connection: close", *headers])
    return head.encode() + b"\r\n\r\n" + body


def test_a_body_over_the_limit_is_refused_before_it_comes(client: Client) -> None:
    with client.connect() as connection:
        connection.sendall(request("Content-Length: 2000000000"))
        assert b" 413 " in connection.recv(4096)


def test_a_chunked_body_over_the_limit_is_refused_on_the_way(client: Client) -> None:
    with client.connect() as connection:
        connection.sendall(request("Transfer-Encoding: chunked"))
        reply = b""
        try:
            for _ in range(1000):
                connection.sendall(b"1000\r\n" + b" " * 4096 + b"\r\n")
        except OSError:
            pass
        try:
            reply = connection.recv(4096)
        except ConnectionResetError:
            return  # refused while we were still sending
        assert b" 413 " in reply


def test_tiny_chunks_are_put_together(client: Client) -> None:
    body = json.dumps(infer_body()).encode()
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    assert b" 200 " in client.raw(request("Transfer-Encoding: chunked", body=chunked))


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: -5"],
        ["Content-Length: +5"],
        ["Content-Length: abc"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip"],
        ["X\x00: 1"],
    ],
)
def test_ambiguous_framing_is_refused(client: Client, headers: list[str]) -> None:
    assert b" 400 " in client.raw(request(*headers, body=b"{    }"))


@pytest.mark.parametrize(
    "junk", [b"\x00" * 100, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0\r\n\r\n"]
)
def test_junk_is_answered_or_closed(client: Client, junk: bytes) -> None:
    with client.connect() as connection:
        connection.sendall(junk)
        connection.shutdown(socket.SHUT_WR)
        assert b" 200 " not in read_all(connection)


def test_a_connection_that_closes_before_its_body_ends_harms_nobody(client: Client) -> None:
    with client.connect() as connection:
        connection.sendall(request("Content-Length: 1000", body=b"{"))


def test_a_body_that_does_not_come_times_out(serve: Serve) -> None:
    settings = ServerSettings(port=0, body_timeout_s=0.05)
    slow, _ = serve(linear_model(), settings)
    with slow.connect() as connection:
        connection.sendall(request("Content-Length: 1000", body=b"{"))
        reply = read_all(connection)
    assert b" 408 " in reply
    assert b"did not come within" in reply


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    one = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    two = b"GET /v2/models/nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with client.connect() as connection:
        connection.sendall(one + two)
        reply = read_all(connection)
    assert reply.index(b" 200 ") < reply.index(b" 404 ")


def test_a_stranger_header_does_not_end_up_in_the_reply(client: Client) -> None:
    answer = client.post(INFER, infer_body(), {"X-Evil": "a\tb", "triton_secret": "1"})
    assert set(answer.headers) == {"content-type", "content-length"}


RANK_GOOD: dict[str, Any] = {
    "query": {"age": 0.5, "likes": [3, 4]},
    "candidates": [{"price": [0.25, 0.25], "item": 0, "tags": [1]}],
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": {"age": 0.5}}, "query: missing feature 'likes'"),
        ({"query": {"age": 1, "likes": [], "x": 1}}, "query: unknown feature 'x'"),
        ({"query": {"age": "1", "likes": []}}, "query.age must be 1 numbers"),
        ({"query": {"age": True, "likes": []}}, "query.age must be"),
        ({"query": {"age": None, "likes": []}}, "query.age must be"),
        ({"query": {"age": 1, "likes": [1.5]}}, "query.likes must be a list of integer ids"),
        ({"query": {"age": 1, "likes": [0] * 5}}, "'likes': a row has 5 ids, the limit is 4"),
        ({"query": {"age": 1e39, "likes": []}}, "'age' holds NaN or infinity"),
        ({"query": {"age": 1, "likes": [2**64]}}, "malformed|64 bits|likes"),
        ({"candidates": [{"price": [1], "item": 0, "tags": []}]}, "candidates[0].price must be 2"),
        ({"candidates": [{"price": [1, 2], "item": 100, "tags": []}]}, "id 100 is outside"),
        ({"candidates": [{"id": 1.5, "price": [1, 2], "item": 1, "tags": []}]}, "candidates[0].id"),
        ({"candidates": 3}, "$.candidates"),
        ({"candidates": [3]}, "$.candidates[0]"),
        ({"top_k": 0}, "$.top_k"),
        ({"timeout_ms": -1}, "$.timeout_ms"),
        ({"topk": 3}, "topk"),
    ],
)
def test_a_bad_rank_call_is_refused_by_name(
    client: Client, change: dict[str, Any], message: str
) -> None:
    answer = client.post(RANK, {**RANK_GOOD, **change})
    assert answer.status == 400
    assert any(part in answer.error for part in message.split("|")), answer.error


def test_deep_nesting_in_a_rank_call_is_refused(client: Client) -> None:
    deep = b'{"query":{"age":' + b"[" * 30_000 + b"]" * 30_000 + b'},"candidates":[]}'
    answer = client.post(RANK, deep)
    assert answer.status == 400
    assert "nested too deeply" in answer.error


def test_too_many_candidates_are_refused(client: Client) -> None:
    answer = client.post(RANK, {"query": {}, "candidates": [{}] * 1001})
    assert answer.status == 413
    assert "over the limit of 1000" in answer.error


def test_half_open_connections_do_not_keep_others_out(serve: Serve) -> None:
    settings = ServerSettings(port=0, max_connections=20, head_timeout_s=0.5)
    other, _ = serve(linear_model(plan=Plan()), settings)
    idle: list[socket.socket] = [other.connect() for _ in range(40)]
    for connection in idle[::2]:
        connection.sendall(b"POST /v2/mod")
    refused = other.get("/v2/health/live")
    assert refused.status == 503
    assert refused.headers["retry-after"] == "1"
    assert "too many connections" in refused.error
    replies = [read_all(connection) for connection in idle]
    assert all(b" 408 " in reply and b"the headers did not come" in reply for reply in replies[::2])
    assert not any(replies[1::2])
    assert other.post(INFER, infer_body()).status == 200
    for connection in idle:
        connection.close()


def test_a_request_that_stops_short_after_a_good_one_is_given_up(serve: Serve) -> None:
    other, _ = serve(linear_model(), ServerSettings(port=0, head_timeout_s=0.05))
    for rest in (b"GET /v2", b"\r\n"):
        with other.connect() as connection:
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in connection.recv(4096)
            connection.sendall(rest)
            reply = read_all(connection)
            assert (b" 408 " in reply) == (rest != b"\r\n")


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v2 HTTP/1.1\r\n" + b"".join(b"X-%d: %b\r\n" % (i, b"a" * 1000) for i in range(99)),
        b"GET /v2 HTTP/1.1\r\nX: " + b"a" * 300_000,
        b"GET /" + b"a" * 70_000,
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["many headers", "a long header", "a long line", "a long line to the end"],
)
def test_a_head_over_the_limit_is_refused(client: Client, head: bytes) -> None:
    with client.connect() as connection:
        connection.sendall(head)
        try:
            assert b" 431 " in read_all(connection)
        except ConnectionResetError:
            return  # refused while we were still sending


def test_what_is_no_http_is_refused_in_json(client: Client) -> None:
    reply = client.raw(b"BAD\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert "malformed" in json.loads(reply.split(b"\r\n\r\n")[1])["error"]


def test_an_error_message_is_cut(client: Client) -> None:
    answer = client.post(INFER, {"inputs": [tensor("FP32", [1], [1])] * 2, "outputs": "x" * 5000})
    assert answer.status == 400
    wide = client.post(INFER, {**infer_body(), "outputs": [{"name": "x" * 5000}]})
    assert 500 < len(wide.error) < 510


def test_data_much_longer_than_its_shape_is_refused_unread(client: Client) -> None:
    answer = client.post(INFER, infer_body(item=tensor("INT64", [2], ["no number"] * 9)))
    assert answer.status == 400
    assert "'item': data holds more than the 2 numbers" in answer.error


def test_json_has_a_lower_limit_than_tensors(serve: Serve) -> None:
    other, _ = serve(linear_model(), ServerSettings(port=0, max_json_bytes=2000))
    body = json.dumps(infer_body()).encode()
    assert other.post(INFER, body).status == 200
    for path in (INFER, RANK):
        long = other.post(path, body + b" " * 2000)
        assert long.status == 413
        assert "limit of 2000 bytes" in long.error
    headers = {"Inference-Header-Content-Length": str(len(body) + 100_000)}
    assert other.post(INFER, body + b" " * 100_000, headers).status == 413


def test_a_large_body_is_read_beside_the_event_loop(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    for codec in (InferCodec, RankCodec):
        decode: Any = codec.decode

        def watching(*args: Any, decode: Any = decode) -> Any:
            threads.append(threading.current_thread().name)
            return decode(*args)

        monkeypatch.setattr(codec, "decode", watching)
    for path, good in ((INFER, infer_body()), (RANK, RANK_GOOD)):
        for pad in (0, 70_000):
            assert client.post(path, json.dumps(good).encode() + b" " * pad).status == 200
    assert threads == ["headway-server", "linear-reader_0"] * 2


def test_bytes_in_flight_are_limited_and_given_back(serve: Serve) -> None:
    settings = ServerSettings(port=0, max_bytes_in_flight=2000)
    other, _ = serve(linear_model(), settings)
    whole = json.dumps(infer_body()).encode()
    with other.connect() as connection:
        connection.sendall(request("Content-Length: 1900", body=b" " * 1800))
        while (answer := other.post(INFER, whole)).status == 200:
            pass
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert "bytes in flight" in answer.error
    while other.post(INFER, whole).status == 503:
        pass
    for _ in range(20):
        assert other.post(INFER, whole).status == 200
