"""Schemas of the Dask operator's resources, made strict."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from typing import Any

import yaml
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


def definition(kind: str) -> Any:
    """A resource's schema, as the operator ships it."""
    try:
        (path,) = (f for f in files("dask-kubernetes") or () if f.match(f"crds/{kind}.yaml"))
    except PackageNotFoundError:
        need("dask-kubernetes")
        raise
    crd = yaml.safe_load(path.locate().read_text())  # type: ignore[attr-defined]
    (version,) = crd["spec"]["versions"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {}}
    return schema
