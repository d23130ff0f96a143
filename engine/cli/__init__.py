"""The command `natmap`."""

from __future__ import annotations

import signal

__all__ = ["main"]


def main() -> None:
    """Run the command; errors of natmap end with what, got, expected and remedy, and exit 2."""
    # what is broken off while it is imported, in the first second, shows no trace
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from engine.cli.app import app
    from engine.cli.endings import carry_out

    carry_out(app)
