"""What a running server says about its models."""

from __future__ import annotations

from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

import msgspec

from headway.core import DataError, HeadwayError, NotFoundError, NotReadyError, Schema
from headway.loadgen.http import parse_url

_TIMEOUT_S = 10.0


class _Parameter(msgspec.Struct):
    string_value: str


class _Config(msgspec.Struct):
    parameters: dict[str, _Parameter] = {}


class _Model(msgspec.Struct):
    name: str


def fetch_models(url: str) -> list[str]:
    """Return the names of the models that a server offers.

    Raises:
        NotReadyError: if no server answers.
        DataError: if it does not list its models.
    """
    status, body = _ask(url, "POST", "/v2/repository/index")
    try:
        if status != HTTPStatus.OK:
            raise DataError(f"the server at {url} answered {status} when asked for its models")
        return sorted(m.name for m in msgspec.json.decode(body, type=list[_Model]))
    except msgspec.MsgspecError as error:
        raise DataError(f"the server at {url} does not list its models; name one") from error


def _instead(url: str) -> str:
    try:
        return f"; it has {fetch_models(url)}"
    except HeadwayError:  # it is some other server, and the first error tells more
        return ""


def fetch_schema(url: str, model: str) -> Schema:
    """Return the schema of a model that a Headway server serves.

    Raises:
        NotReadyError: if no server answers.
        NotFoundError: if it has no such model.
        DataError: if it does not tell the schema; the server is another or too old.
    """
    status, body = _ask(url, "GET", f"/v2/models/{model}/config")
    if status == HTTPStatus.NOT_FOUND:
        raise NotFoundError(f"the server at {url} has no model {model!r}{_instead(url)}")
    if status != HTTPStatus.OK:
        raise NotReadyError(f"the server at {url} answered {status} when asked for its config")
    try:
        parameters = msgspec.json.decode(body, type=_Config).parameters
        return msgspec.json.decode(parameters["headway_schema"].string_value, type=Schema)
    except (msgspec.MsgspecError, KeyError) as error:
        raise DataError(
            f"the server at {url} does not tell the schema of {model!r}; give it yourself"
        ) from error


def _ask(url: str, verb: str, path: str) -> tuple[int, bytes]:
    host, port = parse_url(url)
    connection = HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request(verb, path, body=b"{}" if verb == "POST" else None)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, HTTPException) as error:
        raise NotReadyError(f"no server answers at {url}: {error}") from error
    finally:
        connection.close()
