"""A catalogue in one file: stac-geoparquet, read row group by row group."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import stac_geoparquet.arrow

from engine.addresses import is_http
from engine.catalog.documents import Documents
from engine.errors import CatalogError
from engine.files import scratch
from engine.grid.area import Area
from engine.recipes.sections import Imagery

__all__ = ["from_geoparquet"]

_LARGEST = 4 << 30  # bytes of a remote file
_COLUMN = 512 << 20  # bytes of a column in one row group, unpacked
_VALUES = 50_000_000  # of a column in one row group, of lists too
_ROWS = 128  # turned into items at once
_BATCH = 128 << 20  # bytes that these may take


def from_geoparquet(
    documents: Documents, where: str, area: Area, imagery: Imagery
) -> Iterator[tuple[Any, str]]:
    """Items that may lie in an area and a period, each with the file's place.

    What can be told from the columns of time and latitude is passed over; the exact tests are made
    on the items. A row that is none comes as the error that it makes.

    Raises
    ------
    CatalogError
        Where the file is none, or unpacks to more than it may.
    """
    with contextlib.ExitStack() as stack:
        path = where
        if is_http(where):
            path = str(stack.enter_context(scratch()) / "items.parquet")
            documents.download(where, Path(path), _LARGEST)
        try:
            file = stack.enter_context(pq.ParquetFile(path))
            _require_bounds(file, where)
            for group in range(file.num_row_groups):
                documents.count(file.metadata.row_group(group).num_rows)
                wanted = _candidates(file, group, area, imagery)
                yield from ((raw, where) for raw in _rows(file, group, wanted, where))
        except FileNotFoundError as error:
            raise CatalogError("the catalogue does not exist", got=where) from error
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise CatalogError(
                "the stac-geoparquet file cannot be searched",
                got=f"{where}: {str(error)[:200]}",
                expected="rows of STAC items",
            ) from error


def _require_bounds(file: pq.ParquetFile, where: str) -> None:
    """Sizes that the file states, before any of it is unpacked."""
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        for position in range(group.num_columns):
            column = group.column(position)
            if column.total_uncompressed_size > _COLUMN or column.num_values > _VALUES:
                raise CatalogError(
                    "a column of the stac-geoparquet file is larger than it may be",
                    got=f"{where}: {column.path_in_schema}, "
                    f"{column.total_uncompressed_size >> 20} MiB, {column.num_values} values",
                    expected=f"at most {_COLUMN >> 20} MiB and {_VALUES} values in a row group",
                    remedy="write it in smaller row groups",
                )


def _candidates(
    file: pq.ParquetFile, group: int, area: Area, imagery: Imagery
) -> npt.NDArray[np.bool_]:
    """Rows of a group that may be wanted, by time and latitude where these are columns."""
    schema = file.schema_arrow
    count = file.metadata.row_group(group).num_rows
    wanted = np.ones(count, bool)
    first = datetime.combine(imagery.period.first - timedelta(days=1), time(), UTC)
    last = datetime.combine(imagery.period.last + timedelta(days=2), time(), UTC)
    if pa.types.is_timestamp(_type(schema, "datetime")):
        moments = file.read_row_group(group, columns=["datetime"]).column("datetime")
        moments = pc.cast(moments, pa.timestamp("us", moments.type.tz), safe=False)
        zone = moments.type.tz
        limits = [
            pa.scalar(v if zone else v.replace(tzinfo=None), moments.type) for v in (first, last)
        ]
        # a row without a moment may have a span of time
        wanted &= _held(pc.and_(pc.greater_equal(moments, limits[0]), pc.less(moments, limits[1])))
    box = _type(schema, "bbox")
    names = {field.name for field in box.fields} if pa.types.is_struct(box) else set()
    if {"ymin", "ymax"} <= names:
        _, south, _, north = area.geographic.bounds
        bounds = file.read_row_group(group, columns=["bbox.ymin", "bbox.ymax"]).column("bbox")
        low, high = pc.struct_field(bounds, "ymin"), pc.struct_field(bounds, "ymax")
        if pa.types.is_floating(low.type) and pa.types.is_floating(high.type):
            wanted &= _held(pc.and_(pc.less_equal(low, north), pc.greater_equal(high, south)))
    return wanted


def _type(schema: pa.Schema, name: str) -> pa.DataType:
    return schema.field(name).type if name in schema.names else pa.null()


def _held(condition: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """A condition; where it cannot be told, it is held to be true."""
    found: npt.NDArray[np.bool_] = pc.fill_null(condition, True).to_numpy(zero_copy_only=False)
    return found


def _rows(
    file: pq.ParquetFile, group: int, wanted: npt.NDArray[np.bool_], where: str
) -> Iterator[Any]:
    if not wanted.any():
        return
    start = 0
    for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group]):
        here = wanted[start : start + batch.num_rows]
        start += batch.num_rows
        if not here.any():
            continue
        if batch.nbytes > _BATCH:
            raise CatalogError(
                "rows of the stac-geoparquet file are larger than they may be",
                got=f"{where}: {batch.num_rows} rows of {batch.nbytes >> 20} MiB",
                expected=f"at most {_BATCH >> 20} MiB",
            )
        yield from _items(pa.Table.from_batches([batch]).filter(pa.array(here)))


def _items(table: pa.Table) -> Iterator[Any]:
    """Rows as items; one that cannot be turned into an item does not stop the others."""
    try:
        found = list(stac_geoparquet.arrow.stac_table_to_items(_with_geometry(table)))
    except Exception as error:
        if table.num_rows == 1:
            yield ValueError(f"a row that is not an item: {error}")
            return
        for row in range(table.num_rows):
            yield from _items(table.slice(row, 1))
    else:
        yield from found


def _with_geometry(table: pa.Table) -> pa.Table:
    index = table.schema.get_field_index("geometry")
    geometry = table.column(index)
    if pa.types.is_binary(geometry.type) or pa.types.is_large_binary(geometry.type):
        field = pa.field(
            "geometry", pa.binary(), metadata={b"ARROW:extension:name": b"geoarrow.wkb"}
        )
        return table.set_column(index, field, geometry.cast(pa.binary()))
    return table
