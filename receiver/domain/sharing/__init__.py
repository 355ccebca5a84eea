"""Decisions on what several receivers share: leases, learned schedules, and the budgets of provider keys. Pure."""
