"""JSON Schema of the models that are used on the wire, for the written contracts."""

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
    """Return a schema for each model, by name, and for those inside them; tasks and problems are always among them.

    What leaves the receiver is described as it is written, not as it is read.
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
    """What is always written is required, whatever the model could do without."""
    needed = {*schema.get("required", ()), *written}
    schema["required"] = [name for name in schema["properties"] if name in needed]
    for name in schema["required"]:
        schema["properties"][name].pop("default", None)


def unwrapped(text: str) -> str:
    """Return each paragraph of a docstring in one line, as Markdown takes it."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def ref_to(*path: str) -> dict[str, str]:
    """Return a reference to what stands at this path of the same document."""
    return {"$ref": "/".join(("#", *path))}


class _Schemas(GenerateJsonSchema):
    """JSON Schema as AsyncAPI takes it, without titles that only repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """No field has a title of its own."""
        return False

    def ser_schema(self, schema: Any) -> JsonSchemaValue | None:
        """Return a model that leaves out what does not hold writes the rest as its fields say."""
        return None if schema["type"] == "function-wrap" else super().ser_schema(schema)

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Return the name stands at the definition; the description is Markdown."""
        made = super().model_schema(schema)
        del made["title"]
        return {**made, "description": unwrapped(made["description"])}
