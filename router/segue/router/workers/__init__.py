"""Workers as the router has them: where they attach, what is known of each, and whether its lease still runs."""
