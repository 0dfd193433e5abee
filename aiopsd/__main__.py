"""python -m aiopsd."""

import sys

from aiopsd.cli import main

sys.exit(main())
