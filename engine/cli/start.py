"""Where the command starts: before the second that its imports take."""

from __future__ import annotations

import signal

__all__ = ["main"]


def main() -> None:
    """Run the command; one that is broken off while it is imported ends without a trace."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from engine.cli.app import main as run

    run()
