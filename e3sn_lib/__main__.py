import sys

from e3sn_lib.cli import main

sys.exit(main())
