"""Floor 4 of rla-gym: agents that learn inside the dream, and their evaluation in the dream or in the simulator."""
