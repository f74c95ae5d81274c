"""`python -m rla_gym` is the command `rla-gym`; `torchrun -m rla_gym` starts it in several processes."""

import sys

from rla_gym.cli import main

if __name__ == "__main__":
    sys.argv[0] = "rla-gym"  # so that result rows name the command
    main()
