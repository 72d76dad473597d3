"""Starting processes in tests."""

from __future__ import annotations

import signal


def hear_ctrl_c() -> None:
    """For `preexec_fn`: a shell starts what runs in its background deaf to Ctrl-C, with all that comes of it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
