"""The server for providers' callbacks: it stores them durably and wakes waiting clients."""
