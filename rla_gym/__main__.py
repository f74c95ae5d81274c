"""`python -m rla_gym` is the command `rla-gym`; `torchrun -m rla_gym` starts it in several processes."""

from rla_gym.cli import main

if __name__ == "__main__":
    main()
