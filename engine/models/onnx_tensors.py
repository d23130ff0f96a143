"""Tensors of an ONNX file: as long as they say, and their data from files that were checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from engine.errors import WeightsError

__all__ = ["check_tensor", "located"]


class _Kind(NamedTuple):
    """Bytes of a number, and the field that holds numbers one by one."""

    size: int
    field: str


_KINDS = {  # by the number of the type (onnx.proto: TensorProto.DataType)
    1: _Kind(4, "float_data"),
    2: _Kind(1, "int32_data"),
    3: _Kind(1, "int32_data"),
    4: _Kind(2, "int32_data"),
    5: _Kind(2, "int32_data"),
    6: _Kind(4, "int32_data"),
    7: _Kind(8, "int64_data"),
    9: _Kind(1, "int32_data"),
    10: _Kind(2, "int32_data"),
    11: _Kind(8, "double_data"),
    12: _Kind(4, "uint64_data"),
    13: _Kind(8, "uint64_data"),
    16: _Kind(2, "int32_data"),
}
_EXTERNAL = 1  # TensorProto.EXTERNAL


def located(tensor: Any) -> tuple[str, int, int | None]:
    """File, first byte and length of a tensor's data outside of its file; "" where it is inside.

    Raises
    ------
    WeightsError
        Where this leads out of the file's own folder, or is no place.
    """
    if tensor.data_location != _EXTERNAL:
        if tensor.external_data:
            raise WeightsError("a tensor has its data in two places", got=tensor.name)
        return "", 0, None
    told = {entry.key: entry.value for entry in tensor.external_data}
    name = told.get("location", "")
    if not name or name.startswith(".") or any(c in name for c in "/\\:\0"):
        raise WeightsError(
            "the network's data does not lie in its folder",
            got=name,
            expected="the name of a file in its folder",
            remedy="save it again: onnx.save(..., save_as_external_data=True, location='data.bin')",
        )
    try:
        first, length = int(told.get("offset", "0")), told.get("length")
        found = None if length is None else int(length)
    except ValueError as error:
        raise WeightsError(
            "the offset or length of a tensor is not a number", got=str(error)
        ) from error
    if first < 0 or (found is not None and found < 0):
        raise WeightsError(
            "the offset or length of a tensor is not valid", got=f"{tensor.name}: {first}, {found}"
        )
    return name, first, found


def check_tensor(tensor: Any, data: Mapping[str, bytes]) -> int:
    """Refuse a tensor that has not the numbers that it says; put outside data into it.

    Parameters
    ----------
    tensor : TensorProto
    data : contents of files by name.

    Returns
    -------
    Its bytes.

    Raises
    ------
    WeightsError
    """
    kind = _KINDS.get(tensor.data_type)
    if kind is None:
        raise WeightsError(
            "a tensor of the network is of a type that natmap does not read",
            got=f"{tensor.name}: type {tensor.data_type}",
            expected="whole numbers of 8 to 64 bits, floats of 16 to 64, or truth values",
        )
    if min(tensor.dims, default=0) < 0 or tensor.HasField("segment"):
        raise WeightsError("a tensor of the network has no shape", got=tensor.name)
    count = math.prod(int(n) for n in tensor.dims)
    size = count * kind.size
    name, first, length = located(tensor)
    if name:
        content = data.get(name)
        if content is None:
            raise WeightsError(
                "the network has data that its card does not list",
                got=name,
                expected=", ".join(data) or "none",
                remedy="make the card with natmap convert",
            )
        if length not in (None, size) or first + size > len(content):
            raise _wrong(tensor, f"{length} bytes from {first} of {len(content):,} in {name}", size)
        tensor.raw_data = content[first : first + size]
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        return size
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != size:
            raise _wrong(tensor, f"{len(tensor.raw_data):,} bytes", size)
    elif len(getattr(tensor, kind.field)) != count:
        raise _wrong(tensor, f"{len(getattr(tensor, kind.field)):,} numbers", size)
    return size


def _wrong(tensor: Any, got: str, size: int) -> WeightsError:
    return WeightsError(
        "a tensor of the network is not as large as it says",
        got=f"{tensor.name}: {got}",
        expected=f"{size:,} bytes for {tuple(tensor.dims)}",
        remedy="get the file again: it is damaged, or was made to do harm",
    )
