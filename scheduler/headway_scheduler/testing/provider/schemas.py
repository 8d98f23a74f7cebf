"""Makes a plain value that a JSON schema accepts, always the same. Pure.

It knows the part of JSON schema that structured outputs use: objects, arrays, strings, numbers,
booleans, enums, ``$ref``, ``anyOf``. It ignores patterns and formats.
"""

from typing import Any

Schema = dict[str, Any]

# A schema may contain itself. From this depth on optional parts are left out.
_DEEP = 6


def example(schema: Schema, root: Schema | None = None, depth: int = 0) -> Any:
    """Return a value that ``schema`` accepts. Each ``$ref`` points into ``root``."""
    root = schema if root is None else root
    if "$ref" in schema:
        return example(_resolve(schema["$ref"], root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return example(_choose(schema[word], depth), root, depth + 1)
    return _of_type(schema, root, depth)


def _resolve(reference: str, root: Schema) -> Schema:
    found = root
    for name in reference.removeprefix("#").strip("/").split("/"):
        found = found[name] if name else found
    return found


def _choose(options: list[Schema], depth: int) -> Schema:
    """Return the first option; from ``_DEEP`` on, null if it is an option, so that this ends."""
    if depth >= _DEEP:
        return next((option for option in options if option.get("type") == "null"), options[0])
    return options[0]


def _of_type(schema: Schema, root: Schema, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = "null" if depth >= _DEEP and "null" in kind else kind[0]
    if kind == "object":
        return _object(schema, root, depth)
    if kind == "array":
        return _array(schema, root, depth)
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    if kind == "string":
        return _string(schema)
    return False if kind == "boolean" else None


def _object(schema: Schema, root: Schema, depth: int) -> dict[str, Any]:
    parts: dict[str, Schema] = schema.get("properties", {})
    required = schema.get("required", [])
    return {
        name: example(part, root, depth + 1)
        for name, part in parts.items()
        if depth < _DEEP or name in required
    }


def _array(schema: Schema, root: Schema, depth: int) -> list[Any]:
    least = schema.get("minItems", 0)
    count = least if depth >= _DEEP else min(max(1, least), schema.get("maxItems", least + 1))
    return [example(schema.get("items", {}), root, depth + 1)] * count


def _number(schema: Schema, *, whole: bool) -> float:
    low = schema.get("minimum")
    if low is None and "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + 1
    high = schema.get("maximum", schema.get("exclusiveMaximum", 2) - 1)
    value = low if low is not None else min(1, high)
    return int(value) if whole else float(value)


def _string(schema: Schema) -> str:
    text = "text".ljust(schema.get("minLength", 0), ".")
    return text[: schema.get("maxLength", len(text))]
