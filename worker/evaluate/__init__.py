"""`pilot evaluate`: replays a table of scores and costs through the router that the worker runs."""
