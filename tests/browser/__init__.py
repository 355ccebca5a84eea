"""A page in a real browser follows the results of a receiver on another origin."""
