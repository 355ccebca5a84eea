"""The health of a receiver: findings with their remedies, and notices of them."""
