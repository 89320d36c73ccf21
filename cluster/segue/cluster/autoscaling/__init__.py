"""What acts on the scaling policy: reads the routers, asks the policy, changes the pools or says what it would do."""
