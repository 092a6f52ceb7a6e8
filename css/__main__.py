"""python -m css, or this file itself, which works in any folder."""

import os
import sys
from pathlib import Path

# The user's folder comes last: a tasks.py or css.py there is theirs, and not in our way, while --method MODULE:CLASS
# still finds their modules.
_root, _here = str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)
sys.path[:] = [_root, *(path for path in sys.path if path not in ("", os.getcwd(), _here, _root)), os.getcwd()]

from css.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
