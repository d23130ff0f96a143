"""Documents of others: nothing counts twice, nothing is without bound, nothing ends in a trace."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.errors import CardError, RecipeError
from engine.models.card import load_card
from engine.products.registry import load_recipe
from engine.recipes.documents import MOST_BYTES, read_document, read_json, read_yaml

WORDS = st.text("abcxyz-_. é", min_size=1, max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=15,
)


@given(VALUES)
def test_what_is_sound_is_read_as_ever(value: Any) -> None:
    assert read_yaml(yaml.safe_dump(value, allow_unicode=True)) == value
    assert read_json(json.dumps(value)) == value


def test_aliases_and_merges_of_a_sensible_size_are_read() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\nd: {<<: *a}"
    assert read_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    "text",
    ["{a: 1, a: 2}", "a: 1\nb: {c: 1, c: 1}", "- {a: 1, 'a': 2}", "a: 1\n? a\n: 2"],
)
def test_a_key_named_twice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"[ac] is there twice"):
        read_yaml(text)


@pytest.mark.parametrize(
    "text", ["0160", "{tile: 0400}", "[1_600]", "a: 1:30", "0b11", "-010", "1:30.5", "1_0.5"]
)
def test_numbers_that_are_others_elsewhere_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not written as a number"):
        read_yaml(text)


def test_numbers_as_people_write_them_are_read() -> None:
    text = "[0, -7, +7, 160, 0x1F, 1.5, 007.5, .5, '0160', 10:30 am, 2024-01-02, 08]"
    found = read_yaml(text)
    assert found[:8] == [0, -7, 7, 160, 31, 1.5, 7.5, 0.5]
    assert found[8:10] == ["0160", "10:30 am"]
    assert (
        found[11] == "08"
    )  # no octal number, so text as ever, which a field of numbers reads as 8


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"b": [{"a": 1, "a": 1}]}'])
def test_a_key_named_twice_in_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a is there twice"):
        read_json(text)


def bomb(levels: int, width: int) -> str:
    lines = ["x0: &x0 [0]"]
    lines += [f"x{n}: &x{n} [{','.join([f'*x{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb(30, 9),
        "a: &a {<<: *a}",
        "&a [*a]",
        "&a {b: {c: *a}}",
        "[" * 5000,
        "{a: " * 5000,
        "- " * 5000,
        "x" * (MOST_BYTES + 1),
        "[" + "0," * 60_000 + "]",
        "!!python/object/apply:os.getcwd []",
        "2023-02-31",
        "1e400 : {",
        "a: *nowhere",
        '"\\0"',
        '"\\ud800"',
        "? [1, 2]\n: 3",
        "9" * 5000,
        "a:\tb: c",
        "!!binary 'a'",
        "!!float abc",
        "\x01",
    ],
)
def test_what_no_recipe_is_made_of_is_refused_at_once(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"\w"):
        read_yaml(text)
    assert time.monotonic() - began < 10


@given(st.text())
@example("[" * 200)
def test_no_text_ends_in_another_error(text: str) -> None:
    for read in (read_yaml, read_json):
        with contextlib.suppress(ValueError):
            read(text)


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "[" * 100_000, '"', "1" * 5000])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_json(text)


def test_a_file_has_a_bounded_size_and_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a" * MOST_BYTES)
    assert len(read_document(path)) == MOST_BYTES
    for data in (b"a" * (MOST_BYTES + 1), b"\xff\xfe"):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"more than|decode"):
            read_document(path)
    with pytest.raises(ValueError, match="directory"):
        read_document(tmp_path)
    with pytest.raises(ValueError, match="more than"):
        read_document(Path("/dev/zero"))


RECIPE = {
    "name": "x",
    "product": "lcz",
    "area": {"bbox": [15.0, 46.9, 15.1, 47.0]},
    "grid": {"crs": "EPSG:32633"},
    "imagery": {"catalog": "c.json", "period": "2023-05-01/2023-05-31"},
    "store": "./store",
}
PLACES = [
    ("grid", "tile"), ("grid", "resolution"), ("grid", "origin"), ("grid", "crs"), ("grid",),
    ("area", "bbox"), ("area",), ("imagery", "bands"), ("imagery", "period"), ("imagery",),
    ("store",), ("name",), ("product",), ("cube",), ("filter",), ("model",), ("mask",),
    ("price_per_worker_hour",), ("imagery", "max_cloud_cover"), ("publish",), ("images",),
]  # fmt: skip
ODD = VALUES | st.sampled_from(
    [float("nan"), float("inf"), 10**400, -1, 0, 1e308, 5e-324, "\0", "", " ", [[]], {"a": {}}]
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=300)
@given(st.sampled_from(PLACES), ODD)
def test_any_value_at_any_place_is_read_or_refused(place: tuple[str, ...], value: Any) -> None:
    changed: dict[str, Any] = json.loads(json.dumps(RECIPE))
    at = changed
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    said = ""
    try:
        load_recipe(changed)
    except RecipeError as error:
        said = str(error)
    assert len(said) < 10_000


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch", 1_000_002),
        ("context", 10**9),
        ("overlap", 10**30),
        ("cell", 1e300),
        ("resolution", 1e-320),
        ("features", 10**15),
        ("inference_block", 10**6),
        ("fill", 1e400),
    ],
)
def test_a_card_of_huge_numbers_is_refused_by_their_name(
    tmp_path: Path, key: str, value: float
) -> None:
    from importlib.resources import files

    shipped = Path(str(files("engine.models").joinpath("shipped", "lcz-made-up")))
    card = json.loads((shipped / "card.json").read_text())
    card["properties"]["natmap:card"][key] = value
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(CardError, match=rf"{key}|Infinity"):
        load_card(tmp_path)
