"""What is mutated: each file builds a pristine input, draws mutations of it, and says what is observed of one."""
