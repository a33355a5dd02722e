"""`python -m tscc_stream`: the same as `tscc-stream`."""

import sys

from tscc_stream.cli import main

sys.exit(main())
