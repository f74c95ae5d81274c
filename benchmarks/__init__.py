"""Floor 5 of rla-gym: how faithful the dream is, and whether what is learned in it holds in the simulator."""
