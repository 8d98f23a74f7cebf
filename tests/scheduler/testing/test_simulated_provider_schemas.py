"""Example values fit the schemas that structured outputs use."""

import pytest

from headway_scheduler.testing.provider.schemas import example

TREE = {
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "left": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                "name": {"type": "string", "minLength": 6},
            },
            "required": ["left", "name"],
        }
    },
    "$ref": "#/$defs/Node",
}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, "text"),
        ({"type": "string", "maxLength": 2}, "te"),
        ({"type": "integer"}, 1),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "number", "maximum": -3}, -3.0),
        ({"type": "integer", "exclusiveMinimum": 7}, 8),
        ({"type": "boolean"}, False),
        ({"type": "null"}, None),
        ({"enum": ["red", "blue"]}, "red"),
        ({"const": 7}, 7),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [1, 1]),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 0}, []),
        ({"type": ["integer", "null"]}, 1),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, {"a": 1}),
        ({}, "text"),
    ],
)
def test_an_example_fits_its_schema(schema: dict[str, object], value: object) -> None:
    assert example(schema) == value


def test_a_schema_that_contains_itself_ends() -> None:
    node = example(TREE)
    depth = 0
    while node is not None:
        assert node["name"] == "text.."
        node, depth = node["left"], depth + 1
    assert depth > 1
