"""Specs, the store of sweeps and trials, records, plans and reports. No torch, no ray."""
