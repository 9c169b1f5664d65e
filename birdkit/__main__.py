"""`python -m birdkit` is the `birdkit` command; so torchrun can start it, too."""
from __future__ import annotations

from birdkit.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
