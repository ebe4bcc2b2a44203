"""`python -m sfumato` is `sfumato`."""

import sys

from .cli import main

sys.exit(main())
