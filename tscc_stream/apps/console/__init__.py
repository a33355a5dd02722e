"""The web console: live wall, events, clusters, health. One page a file; they share `site`, and `web` serves them."""
