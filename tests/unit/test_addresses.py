"""Addresses hold no secrets once they are kept, and links lead where their document says."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.addresses import as_link, doubtful, public, public_address, resolve
from engine.errors import ReadError, first_line

WORD = st.text(string.ascii_letters + string.digits + "-_.~%+", min_size=1, max_size=12)
PLACE = "https://images.example.org/2023/a.tif"


@given(user=WORD, password=WORD, name=WORD, value=WORD)
def test_only_what_is_allowed_stays(user: str, password: str, name: str, value: str) -> None:
    """Whatever a parameter is called; in an address, in a sentence and in an error of a library."""
    secret, name = f"SECRET{value}", f"q{name}"
    href = f"https://{user}:SECRET{password}@images.example.org/2023/a.tif?{name}={secret}&band=B02"
    wanted = f"{PLACE}?band=B02"
    assert public_address(href) == wanted
    for text in (f"{href} is gone", f"cannot read '{href}'", f"GET /a.tif?{name}={secret} failed"):
        assert "SECRET" not in public(text)
        assert "SECRET" not in str(ReadError("cannot be read", got=text))
        assert "SECRET" not in first_line(OSError(text))
    assert public({"a": [href, 3]}) == {"a": [wanted, 3]}


@pytest.mark.parametrize(
    ("href", "kept"),
    [
        ("s3://bucket/a/b.tif", "s3://bucket/a/b.tif"),
        ("/data/what?.tif", "/data/what?.tif"),
        (f"{PLACE}?version=3&sig=x&versionId=4", f"{PLACE}?version=3&versionId=4"),
        (f"{PLACE}#access_token=x", PLACE),
        (f"{PLACE}?abcdef", PLACE),
        ("https://u:p@ss@images.example.org/2023/a.tif", PLACE),
        ("https://u:p/s?s#s@images.example.org/2023/a.tif", PLACE),
        ("https://[::1]:80/a@b.tif", "https://[::1]:80/a@b.tif"),
        ("https://x.org:8080/a@2x.tif", "https://x.org:8080/a@2x.tif"),
        (f"{PLACE}?id=1;token=SECRET;2&sig=3", f"{PLACE}?id=1;2"),
        (f"{PLACE}?token=SECRET;x;id=1", f"{PLACE}?id=1"),
        (f"{PLACE}?bbox=1;2;3;4", f"{PLACE}?bbox=1;2;3;4"),
        (f"{PLACE}?file=https://u:SECRET@y.org/a.tif", f"{PLACE}?file=https://y.org/a.tif"),
        (f"{PLACE}?file=https://y.org/a.tif?token=SECRET", f"{PLACE}?file=https://y.org/a.tif"),
        (
            f"{PLACE}?file=https%3A%2F%2Fu%3ASECRET%40y.org%2Fa.tif%3Fid%3D1%26sig%3DSECRET",
            f"{PLACE}?file=https://y.org/a.tif%3Fid%3D1",
        ),
        (f"{PLACE}?file=a%252Fb.tif", f"{PLACE}?file=a%252Fb.tif"),
    ],
)
def test_addresses_as_they_are_kept(href: str, kept: str) -> None:
    assert public_address(href) == kept


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # signs that an address may have, though texts quote addresses with them
        ("no answer of https://me:SEC'RET@x.org/a.tif", "no answer of https://x.org/a.tif"),
        ("at https://x.org/a?token=SEC'RET&id=3 (404)", "at https://x.org/a?id=3 (404)"),
        ('at https://me:SEC"RET@x.org/a', "at https://x.org/a"),
        ("'https://x.org/a?token=SECRET', 'b'", "'https://x.org/a', 'b'"),
        ('{"href":"https://x.org/a?sig=SECRET","b":1}', '{"href":"https://x.org/a","b":1}'),
        ("with url: /a~?apikey=SECRET (", "with url: /a~ ("),
        ("with url: /a,b=?apikey=SECRET", "with url: /a,b="),
    ],
)
def test_addresses_within_a_text(text: str, wanted: str) -> None:
    assert public(text) == wanted


def test_parameters_that_may_mean_a_file_are_told_from_signatures() -> None:
    signed = f"{PLACE}?X-Goog-Signature=1&X-Amz-Date=2&access_token=3&apikey=4&se=5&sig=6&Expires=7"
    assert doubtful(signed) == []
    assert doubtful(f"{PLACE}?frame=7&sig=8&date=9") == ["frame"]
    assert doubtful(f"{PLACE}?frame=7", ["frame"]) == []
    assert doubtful(f"{PLACE}?id=1;frame=7;sig=2") == ["frame"]
    assert public_address(f"{PLACE}?frame=7&sig=8", ["frame"]) == f"{PLACE}?frame=7"


@pytest.mark.parametrize(
    ("href", "base", "wanted"),
    [
        ("./a%20b.tif", "https://x.org/c/i.json", "https://x.org/c/a%20b.tif"),
        ("/etc/secret.tif", "https://x.org/c/i.json", "https://x.org/etc/secret.tif"),
        ("HTTPS://y.org/a.tif", "https://x.org/i.json", "https://y.org/a.tif"),
        ("file:///etc/a.tif", "https://x.org/i.json", "file:///etc/a.tif"),
        ("HTTP://y.org/a.tif", "/data/i.json", "http://y.org/a.tif"),
        ("file:///data/a%20b.tif", "/data/i.json", "/data/a b.tif"),
        ("file://localhost/data/a.tif", "/data/i.json", "/data/a.tif"),
        ("../d/a.tif", "/data/c/i.json", "/data/d/a.tif"),
        ("/vsizip//data/a%20b.zip/x.tif", "/data/i.json", "/vsizip//data/a%20b.zip/x.tif"),
    ],
)
def test_links_are_references(href: str, base: str, wanted: str) -> None:
    assert resolve(href, base) == wanted


@given(st.text(string.ascii_letters + " %?#&=ü20", min_size=1, max_size=10))
def test_a_link_leads_back_to_its_path(name: str) -> None:
    assert resolve(as_link(f"./{name}.tif"), "/data/i.json") == f"/data/{name}.tif"


def test_names_written_as_they_are_lead_to_files_that_are_there(tmp_path: Path) -> None:
    base = str(tmp_path / "item.json")
    (tmp_path / "100%25.tif").touch()
    assert resolve("./100%25.tif", base) == str(tmp_path / "100%25.tif")
    (tmp_path / "100%.tif").touch()  # now the reference leads somewhere, and counts
    assert resolve("./100%25.tif", base) == str(tmp_path / "100%.tif")
