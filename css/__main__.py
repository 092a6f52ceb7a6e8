"""python -m css"""

import sys

from css.cli import main

sys.exit(main())
