"""`python -m pgtbl` is `pgtbl`."""

from __future__ import annotations

from pgtbl.cli import main

if __name__ == "__main__":
    main()
