"""Which requests are taken in, in what order they start, and where they wait until there is room for one."""
