"""`make bench`: figures as ratios, side by side in one run on one machine. Never part of the test run."""
