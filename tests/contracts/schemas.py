"""JSON Schema of the models of the wire, for the written contracts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from client.protocol.models import Problem, Task
from tests.contracts.examples import PROBLEM, TASK

__all__ = ["ref_to", "require", "schemas_of", "unwrapped"]


def schemas_of(read: Iterable[type[BaseModel]], written: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """Return a schema for each model, by name, and for the models inside them. Tasks and problems are always included.

    Models that leave the receiver are described as written, not as read.
    """
    models: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in read]
    models += [(model, "serialization") for model in written]
    models += [(Task, "serialization"), (Problem, "serialization")]
    unique = list(dict.fromkeys(models))
    _, defined = models_json_schema(unique, ref_template="#/components/schemas/{model}", schema_generator=_Schemas)
    schemas: dict[str, Any] = defined["$defs"]
    require(schemas["Task"], TASK.model_dump(by_alias=True))
    require(schemas["Problem"], PROBLEM)
    # It may have further members (RFC 9457, 3.2).
    schemas["Problem"]["additionalProperties"] = True
    return schemas


def require(schema: dict[str, Any], written: Collection[str]) -> None:
    """Require the fields in `written`, even if they are optional in the model."""
    needed = {*schema.get("required", ()), *written}
    schema["required"] = [name for name in schema["properties"] if name in needed]
    for name in schema["required"]:
        schema["properties"][name].pop("default", None)


def unwrapped(text: str) -> str:
    """Return each paragraph of a docstring in one line, as Markdown takes it."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def ref_to(*path: str) -> dict[str, str]:
    """Return a reference to the part of the document at this path."""
    return {"$ref": "/".join(("#", *path))}


class _Schemas(GenerateJsonSchema):
    """JSON Schema as AsyncAPI takes it, without titles, because they would only repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False: no field has a title."""
        return False

    def ser_schema(self, schema: Any) -> JsonSchemaValue | None:
        """Return None for models with a serializer of their own, so that their fields are described."""
        return None if schema["type"] == "function-wrap" else super().ser_schema(schema)

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Return the schema without a title, and with its description as Markdown."""
        made = super().model_schema(schema)
        del made["title"]
        return {**made, "description": unwrapped(made["description"])}
