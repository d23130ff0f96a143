"""Answers about the sites of a labelling page, in a file as the page saves it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from engine.labels.answer_reading import read_page


def answer(
    page: Path, folder: Path, who: str, said: Mapping[str, int], unsure: Collection[str] = ()
) -> Path:
    """Write what an interpreter says of some sites; the browser's own file is compared with it."""
    data = read_page(page)
    features = [
        {
            "type": "Feature",
            "properties": {
                "id": site["id"], "lcz": said[site["id"]], "sure": site["id"] not in unsure,
                "interpreter": who, "city": data["city"], "page": data["page"],
                "proposed": site["lcz"], "answered": "2026-01-01T00:00:00.000Z",
            },
            "geometry": site["geometry"],
        }
        for site in data["sites"]
        if site["id"] in said
    ]  # fmt: skip
    told = {"page": data["page"], "city": data["city"], "ids": [s["id"] for s in data["sites"]]}
    whole = {"type": "FeatureCollection", "natmap": told, "features": features}
    path = folder / f"{data['city']}-{who}.geojson"
    path.write_text(json.dumps(whole))
    return path
