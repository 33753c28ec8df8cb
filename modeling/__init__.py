"""Code that is uploaded to the Hub with a model: the memory, its cache, its injection into a host, and the hosts."""
