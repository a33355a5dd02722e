"""The replay SeedLink server and the simulated mine."""
