"""Serves our schemas with the read-only part of the schema registry's HTTP interface, so that any Confluent serialiser finds them.

In: HTTP requests. Out: schemas as JSON. Subjects are "<topic>-value". Nothing can be registered: schemas are reviewed files of this
repository.
"""

import json

from aiohttp import web

from schemas.catalog import SCHEMAS, TOPICS, Schema

CONTENT = "application/vnd.schemaregistry.v1+json"
SUFFIX = "-value"


def routes() -> list[web.RouteDef]:
    return [
        web.get("/schemas/ids/{id}", by_id),
        web.get("/subjects", subjects),
        web.get("/subjects/{subject}/versions", versions),
        web.get("/subjects/{subject}/versions/{version}", by_version),
        web.post("/subjects/{subject}", lookup),
    ]


async def by_id(request: web.Request) -> web.Response:
    for schema in SCHEMAS:
        if str(schema.id) == request.match_info["id"]:
            return _answer({"schema": json.dumps(schema.definition)})
    return _missing(40403, "Schema not found")


async def subjects(_: web.Request) -> web.Response:
    return _answer([f"{topic}{SUFFIX}" for topic in TOPICS])


async def versions(request: web.Request) -> web.Response:
    found = _of(request.match_info["subject"])
    return _answer([schema.version for schema in found]) if found else _missing(40401, "Subject not found")


async def by_version(request: web.Request) -> web.Response:
    subject, version = request.match_info["subject"], request.match_info["version"]
    found = _of(subject)
    if not found:
        return _missing(40401, "Subject not found")
    for schema in found[-1:] if version == "latest" else found:
        if version in ("latest", str(schema.version)):
            return _answer(_described(subject, schema))
    return _missing(40402, "Version not found")


async def lookup(request: web.Request) -> web.Response:
    """Whether a schema is ours. A serialiser asks this with auto.register.schemas=false."""
    subject = request.match_info["subject"]
    try:
        body = await request.read()  # JSON is UTF-8, whatever charset the header names
        wanted = json.loads(json.loads(body)["schema"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return _answer({"error_code": 42201, "message": "Invalid schema"}, status=422)
    for schema in _of(subject):
        if schema.definition == wanted:
            return _answer(_described(subject, schema))
    return _missing(40403, "Schema not found")


def _of(subject: str) -> list[Schema]:
    topic = TOPICS.get(subject.removesuffix(SUFFIX))
    names = topic.records if topic and subject.endswith(SUFFIX) else ()
    return sorted((s for s in SCHEMAS if s.name in names), key=lambda s: s.version)


def _described(subject: str, schema: Schema) -> dict[str, object]:
    return {"subject": subject, "version": schema.version, "id": schema.id, "schema": json.dumps(schema.definition)}


def _answer(body: object, status: int = 200) -> web.Response:
    return web.json_response(body, status=status, content_type=CONTENT)


def _missing(code: int, message: str) -> web.Response:
    return _answer({"error_code": code, "message": message}, status=404)
