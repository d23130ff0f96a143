"""Search: from any STAC catalogue to frozen items in one normal form."""
