"""How long a test waits for what must come before it fails.

Where it comes, nobody waits: so it is as long as it takes on a machine that others keep busy, not as here.
"""

PATIENCE_S = 240.0
