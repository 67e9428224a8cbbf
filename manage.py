"""Django's command line for the project in ``platform/interlock``."""

import sys
from pathlib import Path

if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here / "platform")]
    from interlock.__main__ import main

    main()
