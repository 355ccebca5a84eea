"""The edge: the address of a client, and the limits that hold before a request is answered."""
