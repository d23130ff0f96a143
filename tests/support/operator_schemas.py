"""Schemas of the Dask operator's resources, made strict."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, files
from typing import Any

import yaml
from jsonschema.exceptions import best_match
from jsonschema.validators import validator_for
from services.required import need


def strict(schema: Any) -> Any:
    """The same schema, refusing fields that it does not name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    names = found.get("properties")
    if isinstance(names, dict) and "additionalProperties" not in found:
        found["additionalProperties"] = bool(found.get("x-kubernetes-preserve-unknown-fields"))
    return found


def require(resource: Any, kind: str) -> None:
    """Refuse a resource that the operator would not take.

    Raises
    ------
    jsonschema.ValidationError
    """
    error = best_match(_definition(kind).iter_errors(resource))
    if error is not None:
        raise error


@cache  # checking a schema takes longer than all resources do
def _definition(kind: str) -> Any:
    """What checks resources of a kind, from the schema that the operator ships."""
    try:
        (path,) = (f for f in files("dask-kubernetes") or () if f.match(f"crds/{kind}.yaml"))
    except PackageNotFoundError:
        need("dask-kubernetes")
        raise
    crd = yaml.load(path.locate().read_text(), yaml.CSafeLoader)  # type: ignore[attr-defined]
    (version,) = crd["spec"]["versions"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
    kind_of = validator_for(schema)
    kind_of.check_schema(schema)
    return kind_of(schema)
