"""Libraries that are loaded once they are needed: one thread at a time."""

import threading

# pydicom's modules import each other in circles: two threads that load them side by side are given
# halves of them, and some stay broken. Whoever imports it, or what it loads, holds this meanwhile.
LOADING = threading.Lock()
