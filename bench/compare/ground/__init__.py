"""What side-by-side runs stand on: programs, sinks, relays, the machine."""
