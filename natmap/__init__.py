from __future__ import annotations

from typing import TYPE_CHECKING

import engine

if TYPE_CHECKING:
    from engine import *  # noqa: F403  # what `__all__` says
    from engine import __version__ as __version__

__all__ = engine.__all__
__doc__ = engine.__doc__

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in __all__ or name == "__version__":
            return getattr(engine, name)
        raise AttributeError(f"module 'natmap' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*__all__, *globals(), "__version__"})
