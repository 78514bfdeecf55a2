"""``python -m clipstill``: the same as the command, for whatever starts modules, such as torchrun."""

import sys

from clipstill.cli.main import main

sys.exit(main())
