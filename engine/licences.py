"""Licences by their SPDX identifiers, as STAC and other formats want them."""

from __future__ import annotations

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

__all__ = ["NOT_STATED", "known", "one_line", "stac_licence"]

NOT_STATED = "not stated"

_SILENT = ("", "unknown", "unknown licence", "none", NOT_STATED)
"""What is written where nobody knows a licence."""


def one_line(text: str) -> str:
    """Words of anybody's as one line of signs that can be shown: a NUL ends the tag of a TIFF."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def known(licence: str | None) -> str | None:
    """A licence as it is stated; None where that says nothing."""
    text = " ".join((licence or "").split())
    return None if text.lower() in _SILENT else text


def stac_licence(licence: str | None) -> str | None:
    """A licence as STAC's field `license` has it: one SPDX identifier, or "other" for all else."""
    if (text := known(licence)) is None:
        return None
    try:
        found = str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return "other"
    return found if " " not in found else "other"
