"""`python -m benchmarks`: all suites, or those that are asked for."""

import sys

from benchmarks.cli import main

sys.exit(main())
