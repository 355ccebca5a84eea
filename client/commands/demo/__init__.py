"""The main job on one machine: two sandboxes, a receiver, and clients that await every answer."""
