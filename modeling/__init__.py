"""What travels to the Hub: the memory, its cache, its injection into a host, and the hosts themselves."""
