"""What both ends of the bus share: keys, who may connect, how often may be asked, where a subscriber stands."""
