"""python -m css, or this file itself, which works in any folder."""

import sys
from pathlib import Path

# A tasks.py or css.py in the current folder is the user's, and not in our way; `main` puts that folder last, where
# --method MODULE:CLASS still finds their modules.
_root, _here = str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)
sys.path[:] = [_root, *(path for path in sys.path if path not in ("", str(Path.cwd()), _here, _root))]

from css.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
